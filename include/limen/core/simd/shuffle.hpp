#pragma once
/// @file  Lanes that change places: zips, sums of many vectors at once, transposition. Include
/// core/simd.hpp.

#include <limen/core/simd/batch.hpp>
#include <limen/core/simd/scalar.hpp>

namespace limen::inline LIMEN_ABI::simd {

#if !defined(LIMEN_SCALAR)

namespace detail {

/// a[first], b[first], a[first + 1], b[first + 1], ...
template <std::size_t First, class T, class A>
LIMEN_INLINE xsimd::batch<T, A> zip(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
  constexpr std::size_t n = xsimd::batch<T, A>::size;
  using N = Native<T, n>;
  if constexpr (std::is_convertible_v<xsimd::batch<T, A>, N>) {
    return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      constexpr int first = static_cast<int>(First), lanes = static_cast<int>(n);
      return xsimd::batch<T, A>(__builtin_shufflevector(static_cast<N>(a), static_cast<N>(b),
                                                        (first + I / 2 + (I % 2) * lanes)...));
    }(std::make_integer_sequence<int, static_cast<int>(n)>{});
  } else {
    alignas(64) T from[2][n], to[n];
    a.store_aligned(from[0]);
    b.store_aligned(from[1]);
    for (std::size_t i = 0; i < n; ++i) to[i] = from[i % 2][First + i / 2];
    return xsimd::batch<T, A>::load_aligned(to);
  }
}

/// a[By], a[By + 1], ... and round
template <std::size_t By, class T, class A>
LIMEN_INLINE xsimd::batch<T, A> rotate(const xsimd::batch<T, A>& a) {
  constexpr std::size_t n = xsimd::batch<T, A>::size;
  using N = Native<T, n>;
  if constexpr (std::is_convertible_v<xsimd::batch<T, A>, N>) {
    return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      constexpr int by = static_cast<int>(By), lanes = static_cast<int>(n);
      return xsimd::batch<T, A>(
          __builtin_shufflevector(static_cast<N>(a), static_cast<N>(a), ((I + by) % lanes)...));
    }(std::make_integer_sequence<int, static_cast<int>(n)>{});
  } else {
    alignas(64) T from[n], to[n];
    a.store_aligned(from);
    for (std::size_t i = 0; i < n; ++i) to[i] = from[(i + By) % n];
    return xsimd::batch<T, A>::load_aligned(to);
  }
}

}  // namespace detail

/// The lower halves of both, lane by lane: a0 b0 a1 b1 ...
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> zip_low(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
  return detail::zip<0>(a, b);
}
/// The upper halves of both.
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> zip_high(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
  return detail::zip<xsimd::batch<T, A>::size / 2>(a, b);
}

namespace detail {

/// Lanes I of a and b, counted through both.
template <int... I, class V>
LIMEN_INLINE V pick(const V& a, const V& b) {
  using N = Native<typename V::value_type, V::size>;
  return V(__builtin_shufflevector(static_cast<N>(a), static_cast<N>(b), I...));
}

/// reduce_add_each of 16 vectors of 16 lanes, by shuffles and blends that stay within 128 or 256
/// bits.
template <class V>
LIMEN_INLINE V reduce_add_sixteen(const V* v) {
  V w[4];  // w[l] has, 128 bits each, four sums for v[l], v[4 + l], v[8 + l], v[12 + l]
  LIMEN_UNROLL for (int l = 0; l < 4; ++l) {
    V half[2];
    LIMEN_UNROLL for (int i = 0; i < 2; ++i) {
      const V &a = v[8 * i + l], &b = v[8 * i + 4 + l];
      half[i] = pick<0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31>(a, b) +
                pick<8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23>(a, b);
    }
    w[l] = pick<0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27>(half[0], half[1]) +
           pick<4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31>(half[0], half[1]);
  }
  V two[2];
  LIMEN_UNROLL for (int i = 0; i < 2; ++i) {
    const V &a = w[2 * i], &b = w[2 * i + 1];
    two[i] = pick<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(a, b) +
             pick<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(a, b);
  }
  return pick<0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30>(two[0], two[1]) +
         pick<1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31>(two[0], two[1]);
}

}  // namespace detail

#endif

/// Lane j of the result, for j < N: the sum of the lanes of v[j]. Two shuffles for each instead of
/// four; the additions are those of reduce_add, in its order. N is a power of two, at most lanes.
template <std::size_t N, class V>
LIMEN_INLINE V reduce_add_each(const V* v) {
  static_assert(N <= V::size);
#if !defined(LIMEN_SCALAR)
  if constexpr (N == 16 && V::size == 16 && sizeof(V) == 64) {
    if constexpr (std::is_convertible_v<V, detail::Native<typename V::value_type, N>>) {
      return detail::reduce_add_sixteen(v);
    }
  }
#endif
  V sums[N];
  LIMEN_UNROLL for (std::size_t i = 0; i < N; ++i) sums[i] = v[i];
  LIMEN_UNROLL for (std::size_t half = N / 2; half > 0; half /= 2) {
    LIMEN_UNROLL for (std::size_t i = 0; i < half; ++i) {
      sums[i] = simd::zip_low(sums[i], sums[i + half]) + simd::zip_high(sums[i], sums[i + half]);
    }
  }
#if !defined(LIMEN_SCALAR)
  if constexpr (N <= V::size / 4) sums[0] = sums[0] + detail::rotate<V::size / 2>(sums[0]);
  if constexpr (N <= V::size / 8) sums[0] = sums[0] + detail::rotate<V::size / 4>(sums[0]);
  if constexpr (N <= V::size / 16) sums[0] = sums[0] + detail::rotate<V::size / 8>(sums[0]);
  if constexpr (N < V::size) sums[0] = sums[0] + detail::rotate<N>(sums[0]);
#endif
  return sums[0];
}

/// A square of lanes x lanes numbers, rows for columns. (Each round moves one bit of the row number
/// into the lane number.)
template <class V, std::size_t N>
LIMEN_INLINE void transpose(V (&rows)[N]) {
  static_assert(N == V::size, "simd::transpose: as many rows as lanes");
  LIMEN_UNROLL for (std::size_t round = 1; round < N; round *= 2) {
    V next[N];
    LIMEN_UNROLL for (std::size_t i = 0; i < N / 2; ++i) {
      next[2 * i] = simd::zip_low(rows[i], rows[i + N / 2]);
      next[2 * i + 1] = simd::zip_high(rows[i], rows[i + N / 2]);
    }
    LIMEN_UNROLL for (std::size_t i = 0; i < N; ++i) rows[i] = next[i];
  }
}

}  // namespace limen::inline LIMEN_ABI::simd
