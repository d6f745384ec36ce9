#pragma once
/// @file  simd::Vec on xsimd: arithmetic, comparisons, bits, sums of lanes, loads and stores.
/// Include core/simd.hpp, which chooses.
///
/// What is isolated here, and why:
///   fma        xsimd 8.1 has none for AVX-512: mul + add, 1.6x slower scans under clang
///   bit casts  bitwise_cast changed its template argument in xsimd 9
///   reduce     hadd became reduce_add in xsimd 10, and its AVX-512 form makes g++ 12 warn
///   load(p, n) the ragged end of a row: masked loads and stores where there are any

#include <cstring>
#include <utility>

#include <limen/core/simd/machine.hpp>

#if !defined(LIMEN_SCALAR)

namespace limen::inline LIMEN_ABI::simd {

template <class Real>
using Vec = xsimd::batch<Real>;
/// N lanes; `void` where the machine has no such vector.
template <class Real, int N>
using Sized = typename xsimd::make_sized_batch<Real, N>::type;
/// The integers with the width of V's lanes.
template <class V>
using IntOf = xsimd::batch<Int<typename V::value_type>, typename V::arch_type>;

// xsimd's operators come along with its types; the functions are named here once.

/// a b + c
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> fma(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b,
                                    const xsimd::batch<T, A>& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, float>) return _mm512_fmadd_ps(a, b, c);
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, double>) return _mm512_fmadd_pd(a, b, c);
#endif
#if defined(__FMA__)
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, float>) return _mm256_fmadd_ps(a, b, c);
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, double>) return _mm256_fmadd_pd(a, b, c);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, float>) return _mm_fmadd_ps(a, b, c);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, double>) return _mm_fmadd_pd(a, b, c);
#endif
  return xsimd::fma(a, b, c);
}

/// c - a b
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> fnma(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b,
                                     const xsimd::batch<T, A>& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, float>) return _mm512_fnmadd_ps(a, b, c);
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, double>) return _mm512_fnmadd_pd(a, b, c);
#endif
#if defined(__FMA__)
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, float>) return _mm256_fnmadd_ps(a, b, c);
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, double>) return _mm256_fnmadd_pd(a, b, c);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, float>) return _mm_fnmadd_ps(a, b, c);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, double>) return _mm_fnmadd_pd(a, b, c);
#endif
  return simd::fma(-a, b, c);
}

/// The larger; the second where either is NaN, which xsimd's own does in some versions only.
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> max(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, float>) return _mm512_max_ps(a, b);
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, double>) return _mm512_max_pd(a, b);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, float>) return _mm256_max_ps(a, b);
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, double>) return _mm256_max_pd(a, b);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, float>) return _mm_max_ps(a, b);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, double>) return _mm_max_pd(a, b);
#endif
  return xsimd::select(a > b, a, b);
}
/// The smaller; the second where either is NaN, which xsimd's own does in some versions only.
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> min(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, float>) return _mm512_min_ps(a, b);
  if constexpr (sizeof(a) == 64 && std::is_same_v<T, double>) return _mm512_min_pd(a, b);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, float>) return _mm256_min_ps(a, b);
  if constexpr (sizeof(a) == 32 && std::is_same_v<T, double>) return _mm256_min_pd(a, b);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, float>) return _mm_min_ps(a, b);
  if constexpr (sizeof(a) == 16 && std::is_same_v<T, double>) return _mm_min_pd(a, b);
#endif
  return xsimd::select(a < b, a, b);
}
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> abs(const xsimd::batch<T, A>& a) {
  return xsimd::abs(a);
}
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> sqrt(const xsimd::batch<T, A>& a) {
  return xsimd::sqrt(a);
}
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> floor(const xsimd::batch<T, A>& a) {
  return xsimd::floor(a);
}
/// a where the mask is set, b elsewhere.
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> select(const xsimd::batch_bool<T, A>& mask,
                                       const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
  return xsimd::select(mask, a, b);
}
template <class T, class A>
LIMEN_INLINE bool any(const xsimd::batch_bool<T, A>& mask) {
  return xsimd::any(mask);
}
template <class T, class A>
LIMEN_INLINE bool all(const xsimd::batch_bool<T, A>& mask) {
  return xsimd::all(mask);
}

/// The bits of a real as an integer, and back.
template <class T, class A>
LIMEN_INLINE auto as_int(const xsimd::batch<T, A>& a) {
#if XSIMD_VERSION_MAJOR < 9
  return xsimd::bitwise_cast<xsimd::batch<Int<T>, A>>(a);
#else
  return xsimd::bitwise_cast<Int<T>>(a);
#endif
}
template <class V, class I, class A>
LIMEN_INLINE V as_real(const xsimd::batch<I, A>& a) {
#if XSIMD_VERSION_MAJOR < 9
  return xsimd::bitwise_cast<V>(a);
#else
  return xsimd::bitwise_cast<typename V::value_type>(a);
#endif
}

namespace detail {

/// Folds the upper half of the lanes onto the lower until one is left: the same order everywhere.
template <class T, std::size_t N, class F>
LIMEN_INLINE T fold(const T* lanes, F f) {
  if constexpr (N == 1) {
    return lanes[0];
  } else {
    T half[N / 2];
    LIMEN_UNROLL for (std::size_t i = 0; i < N / 2; ++i) half[i] = f(lanes[i], lanes[i + N / 2]);
    return fold<T, N / 2>(half, f);
  }
}

template <class T, std::size_t N>
using Native [[gnu::vector_size(N * sizeof(T))]] = T;

/// The same in registers. (Compiler vectors: g++ 12's AVX-512 header warns of its own shuffles.)
template <class T, std::size_t N>
LIMEN_INLINE T fold_add(Native<T, N> v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      constexpr int half = static_cast<int>(N / 2);
      const Native<T, N / 2> low = __builtin_shufflevector(v, v, I...);
      const Native<T, N / 2> high = __builtin_shufflevector(v, v, (I + half)...);
      return fold_add<T, N / 2>(low + high);
    }(std::make_integer_sequence<int, static_cast<int>(N / 2)>{});
  }
}

}  // namespace detail

/// The sum of the lanes.
template <class T, class A>
LIMEN_INLINE T reduce_add(const xsimd::batch<T, A>& a) {
  constexpr std::size_t n = xsimd::batch<T, A>::size;
  if constexpr (std::is_convertible_v<xsimd::batch<T, A>, detail::Native<T, n>>) {
    return detail::fold_add<T, n>(static_cast<detail::Native<T, n>>(a));
  } else {
    alignas(64) T values[n];
    a.store_aligned(values);
    return detail::fold<T, n>(values, [](T x, T y) { return x + y; });
  }
}
/// The largest of the lanes.
template <class T, class A>
LIMEN_INLINE T reduce_max(const xsimd::batch<T, A>& a) {
  constexpr std::size_t n = xsimd::batch<T, A>::size;
  alignas(64) T values[n];
  a.store_aligned(values);
  return detail::fold<T, n>(values, [](T x, T y) { return x > y ? x : y; });
}

template <class V>
LIMEN_INLINE V load(const typename V::value_type* p) {
  return V::load_unaligned(p);
}
template <class T, class A>
LIMEN_INLINE void store(T* p, const xsimd::batch<T, A>& v) {
  v.store_unaligned(p);
}

/// The first n lanes from memory, zeros behind them. Reads nothing past p + n.
template <class V>
LIMEN_INLINE V load(const typename V::value_type* p, Index n) {
  using T = typename V::value_type;
  constexpr Index lanes = static_cast<Index>(V::size);
  if (n >= lanes) [[likely]] {
    return V::load_unaligned(p);
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && std::is_same_v<T, float>) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p);
  } else if constexpr (sizeof(V) == 64 && std::is_same_v<T, double>) {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p);
  }
#endif
  alignas(64) T buffer[V::size] = {};
  if (n > 0) std::memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(T));
  return V::load_aligned(buffer);
}

/// The first n lanes to memory. Writes nothing past p + n.
template <class T, class A>
LIMEN_INLINE void store(T* p, const xsimd::batch<T, A>& v, Index n) {
  using V = xsimd::batch<T, A>;
  constexpr Index lanes = static_cast<Index>(V::size);
  if (n >= lanes) [[likely]] {
    v.store_unaligned(p);
    return;
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && std::is_same_v<T, float>) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v);
    return;
  } else if constexpr (sizeof(V) == 64 && std::is_same_v<T, double>) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), v);
    return;
  }
#endif
  alignas(64) T buffer[V::size];
  v.store_aligned(buffer);
  if (n > 0) std::memcpy(p, buffer, static_cast<std::size_t>(n) * sizeof(T));
}

}  // namespace limen::inline LIMEN_ABI::simd

#endif
