#pragma once
/// @file  Elementary functions of vectors: exp, log, sigmoid, tanh, softplus, GELU, erf, sin, cos.
///
/// V is a vector of floats or doubles (simd::Vec, simd::Sized). One source for both. NaN stays NaN.
///
/// Largest error in units of the last place (ulp; float: 6e-8 to 1.2e-7 of the value). They hold on
/// every machine, for every number; tests/kernel/math_test.cpp checks them (float: all 2^32).
///
///                          float           double     float, below which size it is absolute
///   exp                    5.6 (a)         2          1.7e-38 (b)
///   exp2                   3               2          1.7e-38 (b)
///   log, log1p             1, 3 (d)        1, 3
///   sigmoid, gate2         5               4, 5       1.7e-38
///   silu                   6               5          6e-37: 0 below v = -88
///   softplus, log_sigmoid  4               4          1.7e-38
///   tanh                   4               4
///   erf                    3               3
///   gelu                   8               8          3e-37
///   gelu_tanh              5 or 4e-7       5 or 8e-16
///   sin, cos               2               2          (c)
///   rsqrt                  1.6 (d)         1.6        subnormal v as the hardware has it
///   sigmoid', tanh'        7               7          7e-38
///   silu'                  3e-7 absolute   6e-16      they cross 0
///   gelu', gelu_tanh'      4e-7 absolute   1e-15
///
/// (a) 2 with AVX-512; elsewhere it grows with |v|, to 3.91e-7 of the value at |v| = 88.
/// (b) Without AVX-512 results below 2^-125.5 (2^-1021.5) are 0; with it they are as the mode says.
/// (c) |v| up to 2^20 (2^30) here, lanes beyond it by std::sin and std::cos.
/// (d) 2 more on AArch64, where xsimd divides floats by an estimate and two Newton steps.

#include <limits>

#include <limen/core/simd.hpp>
#include <limen/kernel/erf.hpp>
#include <limen/kernel/exp.hpp>
#include <limen/kernel/log.hpp>
#include <limen/kernel/sin.hpp>

namespace limen::inline LIMEN_ABI {
namespace math {

/// 1 / v
template <class V>
LIMEN_INLINE V reciprocal(const V& v) {
  return V(detail::RealOf<V>(1)) / v;
}

/// 1 / sqrt(v)
template <class V>
LIMEN_INLINE V rsqrt(const V& v) {
  return V(detail::RealOf<V>(1)) / simd::sqrt(v);
}

/// 1 / (1 + 2^v): a gate whose argument was multiplied by -log2 e in its weights.
template <class V>
LIMEN_INLINE V gate2(const V& v) {
  const V one(detail::RealOf<V>(1));
  return one / (one + math::exp2(v));
}

/// sigma(v) = 1 / (1 + e^-v)
template <class V>
LIMEN_INLINE V sigmoid(const V& v) {
  const auto sigma = detail::sigmoid_fraction(v);
  return sigma.top / sigma.bottom;
}

/// sigma'(v) = sigma(v) sigma(-v), in relative precision.
template <class V>
LIMEN_INLINE V sigmoid_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  const V e = detail::exp_times<-1>(simd::abs(v)), d = V(Real(1)) + e;
  return e / (d * d);
}

/// v sigma(v)
template <class V>
LIMEN_INLINE V silu(const V& v) {
  using Real = detail::RealOf<V>;
  const V x = simd::max(V(detail::lowest_gate<Real>), v);  // not -inf / inf
  const auto sigma = detail::sigmoid_fraction(v);
  if constexpr (simd::has_scale<V>) return x / sigma.bottom;
  return x * (sigma.top / sigma.bottom);
}

/// sigma(v) + v sigma'(v)
template <class V>
LIMEN_INLINE V silu_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  constexpr Real most = std::numeric_limits<Real>::max();
  const V x = simd::max(V(-most), simd::min(V(most), v));
  const V e = detail::exp_times<-1>(simd::abs(x)), r = V(Real(1)) / (V(Real(1)) + e);
  return simd::fma(x, e * r * r, simd::select(x < V(Real(0)), e * r, r));
}

/// log(1 + e^v), and v itself from 20 on.
template <class V>
LIMEN_INLINE V softplus(const V& v) {
  using Real = detail::RealOf<V>;
  const V positive = simd::max(V(Real(0)), v);
  const V tail = detail::log1p_unit(detail::exp_times<-1>(simd::abs(v)));
  return positive + tail;
}

/// log sigma(v) = -log(1 + e^-v)
template <class V>
LIMEN_INLINE V log_sigmoid(const V& v) {
  using Real = detail::RealOf<V>;
  return simd::min(V(Real(0)), v) - detail::log1p_unit(detail::exp_times<-1>(simd::abs(v)));
}

/// tanh v = E / (2 + E) with E = e^(2 v) - 1, in relative precision.
template <class V>
LIMEN_INLINE V tanh(const V& v) {
  using Real = detail::RealOf<V>;
  const V far(Real(detail::is_float<V> ? 10 : 20)), one(Real(1));
  const V x = simd::max(-far, simd::min(far, v));
  const auto reduced = detail::reduce<2, detail::bias<Real>, true>(x);
  // (e^(2 r) - 1) / r
  static constexpr auto tail = detail::in_powers_of<Real>(2, detail::expm1_series<Real>(), 2);
  const V power = reduced.power();
  const V E = simd::fma(detail::horner(reduced.r, tail) * reduced.r, power, power - one);
  return E / (E + V(Real(2)));
}

/// tanh'(v) = 1 - tanh^2 v = 4 sigma'(2 v)
template <class V>
LIMEN_INLINE V tanh_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  return V(Real(4)) * sigmoid_derivative(v + v);
}

}  // namespace math
}  // namespace limen::inline LIMEN_ABI
