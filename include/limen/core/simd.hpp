#pragma once
/// @file  Vectors of numbers, and the one place where compilers, instruction sets and versions of
/// xsimd differ.
///
///   simd::Vec<Real>        as many lanes as the machine has    batch<float, avx512> is 16 floats
///   simd::Sized<Real, N>   exactly N lanes                     for rows too short for a full
///   vector
///
/// Kernels are written once with the functions below, called by their full name (simd::fma: xsimd
/// has namesakes that the compiler would find by itself), and `+ - * /`, `<`, `==`. Where the
/// machine has no vectors (or LIMEN_SCALAR is defined), Vec is one number and the same source still
/// runs.
///
/// What is isolated here, and why:
///   fma        xsimd 8.1 has none for AVX-512: mul + add, 1.6x slower scans under clang
///   bit casts  bitwise_cast changed its template argument in xsimd 9
///   reduce     hadd became reduce_add in xsimd 10, and its AVX-512 form makes g++ 12 warn
///   scale      2^n by exponent arithmetic; AVX-512 has an instruction for it
///   load(p, n) the ragged end of a row: masked loads and stores where there are any

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>

#if !defined(LIMEN_SCALAR)
#include <xsimd/xsimd.hpp>
#if defined(XSIMD_NO_SUPPORTED_ARCHITECTURE)
#define LIMEN_SCALAR
#endif
#endif

#if defined(__x86_64__) && !defined(LIMEN_SCALAR)
#include <immintrin.h>
#endif

namespace limen::inline LIMEN_ABI {

using Index = std::ptrdiff_t;

namespace simd {

template <class Real>
using Int = std::conditional_t<sizeof(Real) == 4, std::int32_t, std::int64_t>;

#if defined(LIMEN_SCALAR)

/// One number in the clothes of a vector.
template <class Real>
struct Single {
  using value_type = Real;
  static constexpr std::size_t size = 1;
  Real value{};

  Single() = default;
  LIMEN_INLINE Single(Real x) : value(x) {}  // NOLINT: a number broadcasts, as in xsimd

  friend LIMEN_INLINE Single operator+(Single a, Single b) { return a.value + b.value; }
  friend LIMEN_INLINE Single operator-(Single a, Single b) { return a.value - b.value; }
  friend LIMEN_INLINE Single operator*(Single a, Single b) { return a.value * b.value; }
  friend LIMEN_INLINE Single operator/(Single a, Single b) { return a.value / b.value; }
  friend LIMEN_INLINE Single operator-(Single a) { return -a.value; }
  friend LIMEN_INLINE bool operator<(Single a, Single b) { return a.value < b.value; }
  friend LIMEN_INLINE bool operator<=(Single a, Single b) { return a.value <= b.value; }
  friend LIMEN_INLINE bool operator>(Single a, Single b) { return a.value > b.value; }
  friend LIMEN_INLINE bool operator>=(Single a, Single b) { return a.value >= b.value; }
  friend LIMEN_INLINE bool operator==(Single a, Single b) { return a.value == b.value; }
  friend LIMEN_INLINE bool operator!=(Single a, Single b) { return a.value != b.value; }
  Single& operator+=(Single b) { return *this = *this + b; }
  Single& operator-=(Single b) { return *this = *this - b; }
  Single& operator*=(Single b) { return *this = *this * b; }
};

template <class Real>
using Vec = Single<Real>;
template <class Real, int N>
using Sized = Single<Real>;
template <class V>
using IntOf = Int<typename V::value_type>;

template <class R>
LIMEN_INLINE Single<R> fma(Single<R> a, Single<R> b, Single<R> c) {
  return a * b + c;
}
template <class R>
LIMEN_INLINE Single<R> fnma(Single<R> a, Single<R> b, Single<R> c) {
  return c - a * b;
}
template <class R>
LIMEN_INLINE Single<R> max(Single<R> a, Single<R> b) {
  return a.value > b.value ? a : b;
}
template <class R>
LIMEN_INLINE Single<R> min(Single<R> a, Single<R> b) {
  return a.value < b.value ? a : b;
}
template <class R>
LIMEN_INLINE Single<R> abs(Single<R> a) {
  return std::abs(a.value);
}
template <class R>
LIMEN_INLINE Single<R> sqrt(Single<R> a) {
  return std::sqrt(a.value);
}
template <class R>
LIMEN_INLINE Single<R> floor(Single<R> a) {
  return std::floor(a.value);
}
template <class R>
LIMEN_INLINE Single<R> select(bool m, Single<R> a, Single<R> b) {
  return m ? a : b;
}
template <class R>
LIMEN_INLINE Int<R> as_int(Single<R> a) {
  return std::bit_cast<Int<R>>(a.value);
}
template <class V, class I>
LIMEN_INLINE V as_real(I a) {
  return std::bit_cast<typename V::value_type>(a);
}
template <class R>
LIMEN_INLINE R reduce_add(Single<R> a) {
  return a.value;
}
template <class R>
LIMEN_INLINE R reduce_max(Single<R> a) {
  return a.value;
}
template <class V, class R>
LIMEN_INLINE V load(const R* p) {
  return *p;
}
template <class R>
LIMEN_INLINE void store(R* p, Single<R> v) {
  *p = v.value;
}
template <class V, class R>
LIMEN_INLINE V load(const R* p, Index n) {
  return n > 0 ? *p : R(0);
}
template <class R>
LIMEN_INLINE void store(R* p, Single<R> v, Index n) {
  if (n > 0) *p = v.value;
}
template <class R>
LIMEN_INLINE Single<R> zip_low(Single<R> a, Single<R>) {
  return a;
}
template <class R>
LIMEN_INLINE Single<R> zip_high(Single<R>, Single<R> b) {
  return b;
}
LIMEN_INLINE bool any(bool mask) { return mask; }
LIMEN_INLINE bool all(bool mask) { return mask; }

#else

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

/// The larger; the second where either is NaN.
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> max(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
  return xsimd::max(a, b);
}
/// The smaller; the second where either is NaN.
template <class T, class A>
LIMEN_INLINE xsimd::batch<T, A> min(const xsimd::batch<T, A>& a, const xsimd::batch<T, A>& b) {
  return xsimd::min(a, b);
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

#endif

// What elementary functions are made of (kernel/math.hpp).

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

/// Lanes of the widest vector, as a signed number.
template <class Real>
inline constexpr Index lanes = static_cast<Index>(Vec<Real>::size);

#if !defined(LIMEN_SCALAR)
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

/// v, in a register: g++ would rather load it again at each use where that saves an instruction,
/// and an inner loop is then bound by loads.
template <class V>
LIMEN_INLINE V in_register(const V& v) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(LIMEN_SCALAR)
  using N = detail::Native<typename V::value_type, V::size>;
  if constexpr (std::is_convertible_v<V, N>) {
    N n = static_cast<N>(v);
    __asm__("" : "+v"(n));
    return V(n);
  }
#endif
  return v;
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

/// Asks for the cache line of p; free where it is already there.
LIMEN_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#else
  static_cast<void>(p);
#endif
}

/// f(i, load, store) over 0 <= i < count in steps of one vector; the last, ragged step is handed
/// its length, so that `load` and `store` touch only what is there:
///
///     simd::for_each<float>(n, [&](Index i, auto load, auto store) {
///       store(y + i, load(x + i) * a);
///     });
template <class Real, class F>
LIMEN_INLINE void for_each(Index count, F&& f) {
  using V = Vec<Real>;
  Index i = 0;
  for (; i + lanes<Real> <= count; i += lanes<Real>) {
    f(
        i, [](const Real* p) { return simd::load<V>(p); },
        [](Real* p, const V& v) { simd::store(p, v); });
  }
  if (i < count) {
    const Index n = count - i;
    f(
        i, [n](const Real* p) { return simd::load<V>(p, n); },
        [n](Real* p, const V& v) { simd::store(p, v, n); });
  }
}

/// f(v) -> v over an array: out[i] = f(in[i]). `in` may be `out`.
template <class Real, class F>
LIMEN_INLINE void transform(const Real* in, Real* out, Index count, F&& f) {
  // One call of f, for the ragged end too: g++ does not inline a large f that is called twice.
  for (Index i = 0; i < count; i += lanes<Real>) {
    const Index n = count - i;
    simd::store(out + i, f(simd::load<Vec<Real>>(in + i, n)), n);
  }
}

}  // namespace simd
}  // namespace limen::inline LIMEN_ABI
