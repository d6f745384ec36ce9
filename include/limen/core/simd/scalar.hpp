#pragma once
/// @file  simd::Vec where there are no vectors, or LIMEN_SCALAR is defined: one number, with the
/// functions of simd/batch.hpp. Include core/simd.hpp, which chooses.

#include <bit>
#include <cmath>

#include <limen/core/simd/machine.hpp>

#if defined(LIMEN_SCALAR)

namespace limen::inline LIMEN_ABI::simd {

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

/// One rounding where the machine has the instruction: left to the compiler, it would be there in
/// one loop and not in another, and the bits of a row would depend on its company.
template <class R>
LIMEN_INLINE Single<R> fma(Single<R> a, Single<R> b, Single<R> c) {
#if defined(FP_FAST_FMA) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return std::fma(a.value, b.value, c.value);
#else
  return a * b + c;
#endif
}
template <class R>
LIMEN_INLINE Single<R> fnma(Single<R> a, Single<R> b, Single<R> c) {
  return simd::fma(-a, b, c);
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

}  // namespace limen::inline LIMEN_ABI::simd

#endif
