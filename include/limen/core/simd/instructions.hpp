#pragma once
/// @file  Instructions that only some machines have, of which elementary functions are made
/// (kernel/exp.hpp): powers of two, fractions, tables in registers. Include core/simd.hpp.

#include <limen/core/simd/batch.hpp>
#include <limen/core/simd/scalar.hpp>

namespace limen::inline LIMEN_ABI::simd {

/// True where the machine has scale, fraction and a 14 bit reciprocal as instructions.
template <class V>
inline constexpr bool has_scale =
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(LIMEN_SCALAR)
    sizeof(V) == 64;
#else
    false;
#endif

/// a 2^floor(n), with overflow, underflow, infinities and NaN as the product would have them.
/// Where has_scale.
template <class V>
LIMEN_INLINE V scale(const V& a, [[maybe_unused]] const V& n) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(LIMEN_SCALAR)
  if constexpr (sizeof(V) == 64) {
    if constexpr (sizeof(typename V::value_type) == 4) return V(_mm512_scalef_ps(a, n));
    if constexpr (sizeof(typename V::value_type) == 8) return V(_mm512_scalef_pd(a, n));
  }
#endif
  static_assert(has_scale<V>, "simd::scale: ask has_scale first");
  return a;
}

/// True where 32 floats can be looked up by the low five bits of each lane.
template <class V>
inline constexpr bool has_lookup =
#if defined(__AVX512F__) && !defined(LIMEN_SCALAR)
    sizeof(V) == 64 && sizeof(typename V::value_type) == 4;
#else
    false;
#endif

/// table[i mod 32] for each lane i, `low` and `high` the halves of the table. Where has_lookup.
template <class V, class I>
LIMEN_INLINE V lookup(const V& low, [[maybe_unused]] const V& high, [[maybe_unused]] const I& i) {
#if defined(__AVX512F__) && !defined(LIMEN_SCALAR)
  if constexpr (has_lookup<V>) return V(_mm512_permutex2var_ps(low, i, high));
#endif
  static_assert(has_lookup<V>, "simd::lookup: ask has_lookup first");
  return low;
}

/// v - round(v), in [-1/2, 1/2]; 0 for infinities. Where has_scale.
template <class V>
LIMEN_INLINE V remainder(const V& v) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(LIMEN_SCALAR)
  if constexpr (sizeof(V) == 64) {
    if constexpr (sizeof(typename V::value_type) == 4) return V(_mm512_reduce_ps(v, 0x08));
    if constexpr (sizeof(typename V::value_type) == 8) return V(_mm512_reduce_pd(v, 0x08));
  }
#endif
  static_assert(has_scale<V>, "simd::remainder: ask has_scale first");
  return v;
}

/// table[i], i the low bits of an integer, for a table of 2 V::size numbers. Where has_scale.
template <class I, class Real, std::size_t N>
LIMEN_INLINE auto lookup([[maybe_unused]] const I& index, const Real (&table)[N]) {
  using V = Vec<Real>;
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(LIMEN_SCALAR)
  if constexpr (sizeof(V) == 64 && N == 2 * V::size) {
    const V low = simd::load<V>(table), high = simd::load<V>(table + V::size);
    if constexpr (sizeof(Real) == 4) return V(_mm512_permutex2var_ps(low, index, high));
    if constexpr (sizeof(Real) == 8) return V(_mm512_permutex2var_pd(low, index, high));
  }
#endif
  static_assert(has_scale<V>, "simd::lookup: ask has_scale first");
  return V(table[0]);
}

/// v where |v| <= 1, else 1 with its sign; 1 or -1 for NaN. Where has_scale.
template <class V>
LIMEN_INLINE V within_one(const V& v) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(LIMEN_SCALAR)
  if constexpr (sizeof(V) == 64) {
    if constexpr (sizeof(typename V::value_type) == 4) return V(_mm512_range_ps(v, V(1), 2));
    if constexpr (sizeof(typename V::value_type) == 8) return V(_mm512_range_pd(v, V(1), 2));
  }
#endif
  static_assert(has_scale<V>, "simd::within_one: ask has_scale first");
  return v;
}

/// 1 / v for |v| in [2^-126, inf]: within 1 ulp, no divider where the machine has an estimate good
/// enough for one Newton step. 1 / 1 = 1, 1 / inf = 0, 1 / 0 = inf.
template <class V>
LIMEN_INLINE V reciprocal(const V& v) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(LIMEN_SCALAR)
  if constexpr (sizeof(V) == 64 && sizeof(typename V::value_type) == 4) {
    const V y(_mm512_rcp14_ps(v));
    // The max is for v = inf and v = 0: fnma is NaN there, and max takes its second argument.
    return y * simd::max(simd::fnma(v, y, V(2)), V(0.5f));
  }
#endif
  return V(1) / v;
}

}  // namespace limen::inline LIMEN_ABI::simd
