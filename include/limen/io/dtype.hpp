#pragma once
/// @file  Kinds of numbers as files name them, and what is known of a tensor before its numbers.

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

// clang-format off
enum class Dtype : std::uint8_t {
  boolean, uint8, int8, float8_e5m2, float8_e4m3, int16, uint16, float16, bfloat16,
  int32, uint32, float32, int64, uint64, float64,
};
// clang-format on

struct DtypeName {
  std::string_view code;    ///< in files
  std::string_view spoken;  ///< in errors
  std::uint64_t bytes;
};

/// In the order of Dtype.
inline constexpr DtypeName dtype_names[] = {
    {"BOOL", "bool", 1},      {"U8", "uint8", 1},   {"I8", "int8", 1},    {"F8_E5M2", "float8", 1},
    {"F8_E4M3", "float8", 1}, {"I16", "int16", 2},  {"U16", "uint16", 2}, {"F16", "float16", 2},
    {"BF16", "bfloat16", 2},  {"I32", "int32", 4},  {"U32", "uint32", 4}, {"F32", "float32", 4},
    {"I64", "int64", 8},      {"U64", "uint64", 8}, {"F64", "float64", 8}};

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
  std::uint32_t magnitude = (rest << 13) + (112u << 23);       // the exponent counts from 127
  if (rest >= 0x7C00) magnitude = 0x7F800000u | (rest << 13);  // infinity, NaN
  if (rest < 0x400) magnitude = std::bit_cast<std::uint32_t>(static_cast<float>(rest) * 0x1p-24f);
  return std::bit_cast<float>(sign | magnitude);
}

/// The upper half of a float.
inline float from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

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

}  // namespace limen::inline LIMEN_ABI
