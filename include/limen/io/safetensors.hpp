#pragma once
/// @file  The safetensors format: named arrays in one file.
///
///     8 bytes       length of the header, little-endian
///     the header    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
///                          "__metadata__": {"key": "text", ...}}
///     the data      the arrays, row-major, little-endian, back to back
///
/// https://github.com/huggingface/safetensors. A file comes from outside and is not believed: before
/// anything of a size it claims is allocated, the claim is held against the size of the file. What
/// is not as it should be becomes an Error that names the tensor; nothing here throws.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/simd.hpp>
#include <limen/io/file.hpp>

namespace limen::inline LIMEN_ABI {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and so must be the machine");

// ── Kinds of numbers ─────────────────────────────────────────────────────────────────────────────

enum class Dtype : std::uint8_t {
  boolean, uint8, int8, float8_e5m2, float8_e4m3, int16, uint16, float16, bfloat16,
  int32, uint32, float32, int64, uint64, float64,
};

struct DtypeName {
  std::string_view code;    ///< in files
  std::string_view spoken;  ///< in errors
  std::uint64_t bytes;
};

/// In the order of Dtype.
inline constexpr DtypeName dtype_names[] = {
    {"BOOL", "bool", 1},       {"U8", "uint8", 1},           {"I8", "int8", 1},
    {"F8_E5M2", "float8", 1},  {"F8_E4M3", "float8", 1},     {"I16", "int16", 2},
    {"U16", "uint16", 2},      {"F16", "float16", 2},        {"BF16", "bfloat16", 2},
    {"I32", "int32", 4},       {"U32", "uint32", 4},         {"F32", "float32", 4},
    {"I64", "int64", 8},       {"U64", "uint64", 8},         {"F64", "float64", 8}};

constexpr const DtypeName& name_of(Dtype d) { return dtype_names[static_cast<int>(d)]; }

template <class T>
constexpr Dtype dtype_of() {
  static_assert(std::is_arithmetic_v<T>, "dtype_of: numbers only");
  if constexpr (std::is_same_v<T, bool>) return Dtype::boolean;
  if constexpr (std::is_same_v<T, float>) return Dtype::float32;
  if constexpr (std::is_same_v<T, double>) return Dtype::float64;
  constexpr bool s = std::is_signed_v<T>;
  if constexpr (sizeof(T) == 1) return s ? Dtype::int8 : Dtype::uint8;
  if constexpr (sizeof(T) == 2) return s ? Dtype::int16 : Dtype::uint16;
  if constexpr (sizeof(T) == 4) return s ? Dtype::int32 : Dtype::uint32;
  return s ? Dtype::int64 : Dtype::uint64;
}

/// IEEE 754 half: 1 sign, 5 exponent, 10 fraction bits.
inline float from_float16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7FFFu;
  std::uint32_t magnitude = (rest << 13) + (112u << 23);            // the exponent counts from 127
  if (rest >= 0x7C00) magnitude = 0x7F800000u | (rest << 13);      // infinity, NaN
  if (rest < 0x400) magnitude = std::bit_cast<std::uint32_t>(static_cast<float>(rest) * 0x1p-24f);
  return std::bit_cast<float>(sign | magnitude);
}

/// The upper half of a float.
inline float from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

// ── Tensors by name ──────────────────────────────────────────────────────────────────────────────

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct TensorEntry {
  std::string name;
  Dtype dtype = Dtype::float32;
  std::vector<Index> shape;  ///< empty: one number

  std::uint64_t size() const {
    std::uint64_t product = 1;
    for (const Index d : shape) product *= static_cast<std::uint64_t>(d);
    return product;
  }
  std::uint64_t bytes() const { return size() * name_of(dtype).bytes; }

  /// "[1536 x 16] float32"
  std::string text() const {
    std::string all = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
      all += (i > 0 ? " x " : "") + std::to_string(shape[i]);
    }
    return (all += "] ") += name_of(dtype).spoken;
  }
};

/// In a file.
struct StoredTensor : TensorEntry {
  std::uint64_t begin = 0;  ///< bytes from the start of the data
};

/// In memory.
struct NamedTensor : TensorEntry {
  void* data = nullptr;
};

namespace detail {

/// Text from a file, fit to be shown: short, one line.
inline std::string shown(std::string_view text) {
  std::string result(text.substr(0, 100));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text.size() > 100 ? result + "..." : result;
}

/// What RapidJSON calls while it reads the header. Says no at the first thing that does not belong.
class SafetensorsHeader {
 public:
  std::vector<StoredTensor> tensors;
  Metadata metadata;
  Error fault;  ///< with text if something did not belong

  bool Key(const char* s, rapidjson::SizeType n, bool) {
    const std::string_view key(s, n);
    if (place_ == Place::metadata) {
      metadata.emplace_back(key, std::string());
      place_ = Place::metadata_value;
    } else if (place_ == Place::root) {
      if (key == "__metadata__") {
        if (has_metadata_) return wrong("__metadata__", "once", "twice");
        has_metadata_ = true;
        place_ = Place::metadata_start;
      } else {
        tensors.emplace_back().name = key;
        fields_ = 0;
        place_ = Place::tensor_start;
      }
    } else if (key == "dtype") {
      return field(1, Place::dtype);
    } else if (key == "shape") {
      return field(2, Place::shape_start);
    } else if (key == "data_offsets") {
      return field(4, Place::offsets_start);
    } else {
      return wrong("dtype, shape and data_offsets", '"' + shown(key) + '"');
    }
    return true;
  }

  bool StartObject() {
    if (place_ == Place::start) {
      place_ = Place::root;
    } else if (place_ == Place::metadata_start) {
      place_ = Place::metadata;
    } else if (place_ == Place::tensor_start) {
      place_ = Place::tensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool EndObject(rapidjson::SizeType) {
    if (place_ == Place::tensor && fields_ != 7) {
      return wrong("dtype, shape and data_offsets", "not all of them");
    }
    if (place_ == Place::tensor && !sizes_fit()) return false;
    place_ = place_ == Place::root ? Place::end : Place::root;
    return true;
  }

  bool StartArray() {
    if (place_ == Place::shape_start) {
      place_ = Place::shape;
    } else if (place_ == Place::offsets_start) {
      place_ = Place::offsets;
      offset_count_ = 0;
    } else {
      return unexpected("a list");
    }
    return true;
  }

  bool EndArray(rapidjson::SizeType) {
    if (place_ == Place::offsets && offset_count_ != 2) {
      return wrong("two data_offsets", std::to_string(offset_count_));
    }
    place_ = Place::tensor;
    return true;
  }

  bool String(const char* s, rapidjson::SizeType n, bool) {
    const std::string_view text(s, n);
    if (place_ == Place::metadata_value) {
      metadata.back().second = text;
      place_ = Place::metadata;
      return true;
    }
    if (place_ != Place::dtype) return unexpected("text");
    for (std::size_t i = 0; i < std::size(dtype_names); ++i) {
      if (dtype_names[i].code != text) continue;
      tensors.back().dtype = static_cast<Dtype>(i);
      place_ = Place::tensor;
      return true;
    }
    return wrong("a known dtype", '"' + shown(text) + '"');
  }

  bool Uint64(std::uint64_t x) {
    if (place_ == Place::shape) {
      if (x > std::uint64_t{1} << 62) return wrong("a dimension below 2^62", std::to_string(x));
      if (tensors.back().shape.size() == 32) return wrong("at most 32 dimensions", "more");
      tensors.back().shape.push_back(static_cast<Index>(x));
      return true;
    }
    if (place_ != Place::offsets) return unexpected("a number");
    if (offset_count_ < 2) offsets_[offset_count_] = x;
    if (++offset_count_ > 2) return wrong("two data_offsets", "more");
    return true;
  }
  bool Uint(unsigned x) { return Uint64(x); }
  bool Int(int x) { return wrong("a number from 0 up", std::to_string(x)); }
  bool Int64(std::int64_t x) { return wrong("a number from 0 up", std::to_string(x)); }
  bool Double(double) { return unexpected("a fraction"); }
  bool RawNumber(const char*, rapidjson::SizeType, bool) { return unexpected("a number"); }
  bool Bool(bool) { return unexpected("true or false"); }
  bool Null() { return unexpected("null"); }

 private:
  enum class Place : std::uint8_t {
    start, root, metadata_start, metadata, metadata_value,
    tensor_start, tensor, dtype, shape_start, shape, offsets_start, offsets, end,
  };

  bool field(unsigned bit, Place then) {
    if ((fields_ & bit) != 0) return wrong("each field once", "one twice");
    fields_ |= bit;
    place_ = then;
    return true;
  }

  /// The product of the shape does not overflow and is what the offsets leave.
  bool sizes_fit() {
    StoredTensor& t = tensors.back();
    std::uint64_t bytes = name_of(t.dtype).bytes;
    for (const Index d : t.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(d), &bytes)) {
        return wrong("a size below 2^64 bytes", t.text());
      }
    }
    if (offsets_[1] < offsets_[0] || offsets_[1] - offsets_[0] != bytes) {
      return wrong(std::to_string(bytes) + " bytes for " + t.text(),
                   "data_offsets " + std::to_string(offsets_[0]) + " to " +
                       std::to_string(offsets_[1]));
    }
    t.begin = offsets_[0];
    return true;
  }

  bool unexpected(const char* found) {
    switch (place_) {
      case Place::start: return wrong("the header", "an object", found);
      case Place::metadata_start: return wrong("__metadata__", "an object", found);
      case Place::metadata_value: return wrong("__metadata__", "text only", found);
      case Place::tensor_start: return wrong("an object", found);
      case Place::dtype: return wrong("a dtype", found);
      default: return wrong("numbers in shape and data_offsets", found);
    }
  }
  bool wrong(std::string wanted, std::string found) {
    return wrong(tensors.empty() ? "the header" : shown(tensors.back().name), std::move(wanted),
                 std::move(found));
  }
  bool wrong(std::string who, std::string wanted, std::string found) {
    fault = {std::move(who), std::move(wanted), std::move(found)};
    return false;
  }

  Place place_ = Place::start;
  bool has_metadata_ = false;
  unsigned fields_ = 0;  ///< which of a tensor's three were there
  std::size_t offset_count_ = 0;
  std::uint64_t offsets_[2] = {0, 0};
};

}  // namespace detail

// ── Reading ──────────────────────────────────────────────────────────────────────────────────────

/// A file whose header has been read and found sound. Tensors are read one by one, when asked for.
class Safetensors {
 public:
  static constexpr std::uint64_t longest_header = 100'000'000;  ///< as the format's own reader

  static Result<Safetensors> open(const std::string& path) {
    auto file = InputFile::open(path);
    if (!file) return file.error();
    return parse(std::move(*file));
  }

  /// Of bytes that somebody keeps alive.
  static Result<Safetensors> in_memory(std::span<const std::byte> bytes,
                                       std::string name = "memory") {
    return parse(InputFile::in_memory(bytes, std::move(name)));
  }

  /// Sorted by name.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const Metadata& metadata() const { return metadata_; }
  const std::string& file_name() const { return file_.name(); }

  /// Null if there is none of this name.
  const StoredTensor* find(std::string_view name) const {
    const auto at = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](const StoredTensor& t, std::string_view wanted) { return t.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  /// Empty if there is none of this key.
  std::string_view metadata(std::string_view key) const {
    for (const auto& [k, text] : metadata_) {
      if (k == key) return text;
    }
    return {};
  }

  /// The numbers of a tensor as they are in the file.
  template <class T>
  Status read(const StoredTensor& t, std::span<T> to) const {
    if (t.dtype != dtype_of<T>() || t.size() != to.size()) {
      return mismatch(t, std::to_string(to.size()) + ' ' +
                             std::string(name_of(dtype_of<T>()).spoken));
    }
    return read_bytes(t, to.data());
  }

  /// The numbers of a tensor of any floating kind as float or double.
  template <class Real>
  Status read_converted(const StoredTensor& t, std::span<Real> to) const {
    static_assert(std::is_floating_point_v<Real>, "read_converted: to float or double");
    if (t.dtype == dtype_of<Real>() || t.size() != to.size()) return read(t, to);
    switch (t.dtype) {
      case Dtype::float16: return convert<std::uint16_t>(t, to.data(), from_float16);
      case Dtype::bfloat16: return convert<std::uint16_t>(t, to.data(), from_bfloat16);
      case Dtype::float32: return convert<float>(t, to.data(), [](float x) { return x; });
      case Dtype::float64: return convert<double>(t, to.data(), [](double x) { return x; });
      default: return mismatch(t, "floating-point numbers");
    }
  }

  /// `t.bytes()` bytes to `to`.
  Status read_bytes(const StoredTensor& t, void* to) const {
    if (file_.read(data_ + t.begin, to, t.bytes())) return {};
    return mismatch(t, "bytes that can be read");
  }

 private:
  static Result<Safetensors> parse(InputFile file) {
    const auto fault = [&](std::string wanted, std::string found) {
      return Error{file.name(), std::move(wanted), std::move(found)};
    };
    std::uint64_t length = 0;
    if (!file.read(0, &length, 8)) {
      return fault("8 bytes or more", std::to_string(file.size()) + " bytes");
    }
    if (length > longest_header || length > file.size() - 8) {
      return fault("a header that fits in the file of " + std::to_string(file.size()) + " bytes",
                   "one of " + std::to_string(length));
    }
    std::string text(static_cast<std::size_t>(length), '\0');
    if (!file.read(8, text.data(), length)) return fault("a header that can be read", "none");

    detail::SafetensorsHeader header;
    rapidjson::MemoryStream stream(text.data(), text.size());
    rapidjson::Reader reader;
    constexpr unsigned flags =
        rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag;
    const auto parsed = reader.Parse<flags>(stream, header);
    if (!header.fault.who.empty()) {
      header.fault.found += " in " + file.name();
      return std::move(header.fault);
    }
    if (parsed.IsError()) {
      return fault("a JSON header", std::string(rapidjson::GetParseError_En(parsed.Code())) +
                                        " Byte " + std::to_string(parsed.Offset()));
    }
    if (stream.Tell() != text.size()) return fault("a JSON header", "zeros behind it");

    Safetensors result;
    result.data_ = 8 + length;
    result.tensors_ = std::move(header.tensors);
    result.metadata_ = std::move(header.metadata);
    if (Status s = result.check_layout(file); !s) return s.error();
    result.file_ = std::move(file);
    return result;
  }

  /// Back to back, from the first byte of the data to the last; every name once.
  Status check_layout(const InputFile& file) {
    const auto end = [](const StoredTensor& t) { return t.begin + t.bytes(); };
    std::sort(tensors_.begin(), tensors_.end(), [&](const auto& a, const auto& b) {
      return a.begin != b.begin ? a.begin < b.begin : end(a) < end(b);
    });
    std::uint64_t next = 0;
    for (const StoredTensor& t : tensors_) {
      if (t.begin != next) {
        return Error{detail::shown(t.name), "data from byte " + std::to_string(next),
                     "from byte " + std::to_string(t.begin) + " in " + file.name()};
      }
      next = end(t);
    }
    if (const std::uint64_t there = file.size() - data_; next != there) {
      const std::string who =
          tensors_.empty() || next < there ? file.name() : detail::shown(tensors_.back().name);
      return Error{who, std::to_string(next) + " bytes of data",
                   std::to_string(there) + " in " + file.name()};
    }
    std::sort(tensors_.begin(), tensors_.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < tensors_.size(); ++i) {
      if (tensors_[i].name == tensors_[i - 1].name) {
        return Error{detail::shown(tensors_[i].name), "one of this name", "two in " + file.name()};
      }
    }
    return {};
  }

  Error mismatch(const StoredTensor& t, std::string wanted) const {
    return {detail::shown(t.name), std::move(wanted), t.text() + " in " + file_.name()};
  }

  template <class Stored, class Real, class F>
  Status convert(const StoredTensor& t, Real* to, F f) const {
    constexpr std::uint64_t piece = 2048;
    Stored buffer[piece];
    for (std::uint64_t i = 0, size = t.size(); i < size; i += piece) {
      const std::uint64_t count = std::min(piece, size - i);
      if (!file_.read(data_ + t.begin + i * sizeof(Stored), buffer, count * sizeof(Stored))) {
        return mismatch(t, "bytes that can be read");
      }
      for (std::uint64_t k = 0; k < count; ++k) to[i + k] = static_cast<Real>(f(buffer[k]));
    }
    return {};
  }

  InputFile file_;
  std::uint64_t data_ = 0;  ///< where the data starts
  std::vector<StoredTensor> tensors_;
  Metadata metadata_;
};

// ── Writing ──────────────────────────────────────────────────────────────────────────────────────

/// Replaces the file at `path`; on an error it stays what it was. Wide numbers come first, so that
/// every array is aligned to its numbers.
inline Status write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                                const Metadata& metadata = {}) {
  std::vector<const NamedTensor*> order;
  for (const std::uint64_t bytes : {8u, 4u, 2u, 1u}) {
    for (const NamedTensor& t : tensors) {
      if (name_of(t.dtype).bytes == bytes) order.push_back(&t);
    }
  }

  rapidjson::StringBuffer text;
  rapidjson::Writer<rapidjson::StringBuffer> json(text);
  const auto put = [&](std::string_view s) {
    json.String(s.data(), static_cast<rapidjson::SizeType>(s.size()));
  };
  json.StartObject();
  if (!metadata.empty()) {
    put("__metadata__");
    json.StartObject();
    for (const auto& [key, value] : metadata) {
      put(key);
      put(value);
    }
    json.EndObject();
  }
  std::uint64_t next = 0;
  for (const NamedTensor* t : order) {
    put(t->name);
    json.StartObject();
    put("dtype");
    put(name_of(t->dtype).code);
    put("shape");
    json.StartArray();
    for (const Index d : t->shape) json.Int64(d);
    json.EndArray();
    put("data_offsets");
    json.StartArray();
    json.Uint64(next);
    json.Uint64(next += t->bytes());
    json.EndArray();
    json.EndObject();
  }
  json.EndObject();
  while (text.GetSize() % 8 != 0) text.Put(' ');
  const std::uint64_t length = text.GetSize();
  if (length > Safetensors::longest_header) {
    return Error{path, "a header below 100 MB", std::to_string(length) + " bytes of names"};
  }

  auto file = OutputFile::open(path);
  if (!file) return file.error();
  if (Status s = file->write(&length, 8); !s) return s;
  if (Status s = file->write(text.GetString(), text.GetSize()); !s) return s;
  for (const NamedTensor* t : order) {
    if (Status s = file->write(t->data, static_cast<std::size_t>(t->bytes())); !s) return s;
  }
  return file->commit();
}

}  // namespace limen::inline LIMEN_ABI
