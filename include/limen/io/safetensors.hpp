#pragma once
/// @file  The safetensors format: named arrays in one file.
///
///     8 bytes       length of the header, little-endian
///     the header    JSON: {"__metadata__": {"key": "text", ...},
///                          "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
///                          ...}
///     the data      the arrays, row-major, little-endian, back to back
///
/// https://github.com/huggingface/safetensors. A file comes from outside and is not believed:
/// before anything of a size it claims is allocated, the claim is held against the size of the
/// file. What is not as it should be becomes an Error that names the tensor; nothing here throws.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/io/dtype.hpp>
#include <limen/io/file.hpp>
#include <limen/io/safetensors_header.hpp>

namespace limen::inline LIMEN_ABI {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and so must be the machine");

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
      return mismatch(t,
                      std::to_string(to.size()) + ' ' + std::string(name_of(dtype_of<T>()).spoken));
    }
    return read_bytes(t, to.data());
  }

  /// The numbers of a tensor of any floating kind as float or double.
  template <class Real>
  Status read_converted(const StoredTensor& t, std::span<Real> to) const {
    static_assert(std::is_floating_point_v<Real>, "read_converted: to float or double");
    if (t.dtype == dtype_of<Real>() || t.size() != to.size()) return read(t, to);
    switch (t.dtype) {
      case Dtype::float16:
        return convert<std::uint16_t>(t, to.data(), from_float16);
      case Dtype::bfloat16:
        return convert<std::uint16_t>(t, to.data(), from_bfloat16);
      case Dtype::float32:
        return convert<float>(t, to.data(), [](float x) { return x; });
      case Dtype::float64:
        return convert<double>(t, to.data(), [](double x) { return x; });
      default:
        return mismatch(t, "floating-point numbers");
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
