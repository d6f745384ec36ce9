#pragma once
/// @file  Masks as bits, and bits as lists: what core/simd.hpp leaves out, because only the kernels
/// that make lists of lanes need it.

#include <array>
#include <bit>
#include <cstdint>

#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI::simd {

/// The lanes of a mask as bits, the first one lowest.
#if defined(LIMEN_SCALAR)
LIMEN_INLINE std::uint32_t lane_bits(bool mask) { return mask ? 1 : 0; }
#else
template <class T, class A>
LIMEN_INLINE std::uint32_t lane_bits(const xsimd::batch_bool<T, A>& mask) {
  using M = xsimd::batch_bool<T, A>;
  [[maybe_unused]] constexpr std::size_t bytes = M::size * sizeof(T);
#if defined(__AVX512F__)
  if constexpr (bytes == 64) {
    return static_cast<std::uint32_t>(static_cast<typename M::register_type>(mask));
  }
#endif
#if defined(__AVX__)
  if constexpr (bytes == 32 && std::is_same_v<T, float>) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(mask));
  } else if constexpr (bytes == 32 && std::is_same_v<T, double>) {
    return static_cast<std::uint32_t>(_mm256_movemask_pd(mask));
  }
#endif
  bool lanes[M::size];
  mask.store_unaligned(lanes);
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < M::size; ++i) bits |= std::uint32_t{lanes[i]} << i;
  return bits;
}
#endif

/// What `list_bits` may write behind the last entry of its list.
inline constexpr Index list_slack = 16;

namespace detail {
/// The places of the set bits of each byte.
inline constexpr auto places_of_bits = [] {
  std::array<std::array<std::uint8_t, 8>, 256> places{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::size_t n = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      if ((byte >> bit & 1u) != 0) places[byte][n++] = static_cast<std::uint8_t>(bit);
    }
  }
  return places;
}();
}  // namespace detail

/// Writes first + i for each of the `Bits` low bits i that is set, in ascending order, and gives
/// their number. No branch: always writes a whole vector.
template <int Bits>
LIMEN_INLINE Index list_bits(std::uint32_t bits, std::int32_t first, std::int32_t* to) {
  static_assert(Bits <= 16);
#if defined(__AVX512F__) && !defined(LIMEN_SCALAR)
  if constexpr (Bits > 8) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_storeu_si512(
        to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits),
                                        _mm512_add_epi32(lane, _mm512_set1_epi32(first))));
    return std::popcount(bits);
  }
#endif
  if constexpr (Bits == 1) {
    to[0] = first;
    return static_cast<Index>(bits);
  } else if constexpr (Bits > 8) {
    const Index low = list_bits<8>(bits & 255u, first, to);
    return low + list_bits<Bits - 8>(bits >> 8, first + 8, to + low);
  } else {
    const auto& places = detail::places_of_bits[bits];
    LIMEN_UNROLL for (std::size_t k = 0; k < 8; ++k) to[k] = first + places[k];
    return std::popcount(bits);
  }
}

}  // namespace limen::inline LIMEN_ABI::simd
