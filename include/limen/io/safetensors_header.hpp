#pragma once
/// @file  The header of a safetensors file (safetensors.hpp), read without building a tree: what it
/// nests, repeats or claims is checked as it passes.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rapidjson/rapidjson.h>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/io/dtype.hpp>

namespace limen::inline LIMEN_ABI {

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
  // clang-format off
  enum class Place : std::uint8_t {
    start, root, metadata_start, metadata, metadata_value,
    tensor_start, tensor, dtype, shape_start, shape, offsets_start, offsets, end,
  };
  // clang-format on

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
      return wrong(
          std::to_string(bytes) + " bytes for " + t.text(),
          "data_offsets " + std::to_string(offsets_[0]) + " to " + std::to_string(offsets_[1]));
    }
    t.begin = offsets_[0];
    return true;
  }

  bool unexpected(const char* found) {
    switch (place_) {
      case Place::start:
        return wrong("the header", "an object", found);
      case Place::metadata_start:
        return wrong("__metadata__", "an object", found);
      case Place::metadata_value:
        return wrong("__metadata__", "text only", found);
      case Place::tensor_start:
        return wrong("an object", found);
      case Place::dtype:
        return wrong("a dtype", found);
      default:
        return wrong("numbers in shape and data_offsets", found);
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

}  // namespace limen::inline LIMEN_ABI
