#pragma once
/// @file  bfloat16: the upper half of a float. A way to store numbers in half the room; they are
/// widened to float before anything is computed.

#include <bit>
#include <cstdint>
#include <cstring>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  /// To the nearest, ties to even; NaN stays NaN.
  explicit bfloat16(float value) {
    const std::uint32_t all = std::bit_cast<std::uint32_t>(value);
    const bool nan = (all & 0x7FFFFFFFu) > 0x7F800000u;
    const std::uint32_t rounded = nan ? all | 0x400000u : all + 0x7FFFu + ((all >> 16) & 1u);
    bits = static_cast<std::uint16_t>(rounded >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

namespace simd {

/// As many numbers as V has lanes, widened.
template <class V>
LIMEN_INLINE V load(const bfloat16* p) {
  static_assert(sizeof(typename V::value_type) == 4, "bfloat16 widens to float");
#if defined(__GNUC__) && !defined(LIMEN_SCALAR)
  using N = detail::Native<float, V::size>;
  if constexpr (std::is_convertible_v<V, N>) {
    using Half = detail::Native<std::uint16_t, V::size>;
    using Whole = detail::Native<std::uint32_t, V::size>;
    Half half;
    std::memcpy(&half, p, sizeof half);
    return V(std::bit_cast<N>(__builtin_convertvector(half, Whole) << 16));
  }
#endif
  alignas(64) float wide[V::size];
  for (std::size_t i = 0; i < V::size; ++i) wide[i] = static_cast<float>(p[i]);
  return load<V>(wide);
}

/// The first n of them, zeros behind.
template <class V>
LIMEN_INLINE V load(const bfloat16* p, Index n) {
  alignas(64) float wide[V::size] = {};
  for (Index i = 0; i < n && i < static_cast<Index>(V::size); ++i)
    wide[i] = static_cast<float>(p[i]);
  return load<V>(wide);
}

/// Twice as many: those at even places, and those at odd ones. One instruction for each, where
/// `load` takes two.
template <class V>
LIMEN_INLINE void load_apart(const bfloat16* p, V& even, V& odd) {
#if defined(__GNUC__) && !defined(LIMEN_SCALAR)
  using N = detail::Native<float, V::size>;
  if constexpr (std::is_convertible_v<V, N> && std::endian::native == std::endian::little) {
    detail::Native<std::uint32_t, V::size> both;
    std::memcpy(&both, p, sizeof both);
    even = V(std::bit_cast<N>(both << 16));
    odd = V(std::bit_cast<N>(both & 0xFFFF0000u));
    return;
  }
#endif
  alignas(64) float wide[2][V::size];
  for (std::size_t i = 0; i < 2 * V::size; ++i) wide[i % 2][i / 2] = static_cast<float>(p[i]);
  even = load<V>(wide[0]);
  odd = load<V>(wide[1]);
}

}  // namespace simd
}  // namespace limen::inline LIMEN_ABI
