#pragma once
/// @file  Logarithms: log v, log(1 + v).  Errors: the table in kernel/math.hpp.

#include <bit>
#include <limits>

#include <limen/kernel/exp.hpp>

namespace limen::inline LIMEN_ABI {
namespace math {
namespace detail {

/// log(1 + u) for 0 <= u <= 1, relative.
template <class V>
LIMEN_INLINE V log1p_unit(const V& u) {
  if constexpr (is_float<V>) {
    constexpr float q[] = {1,
                           -0.4999993f,
                           0.33330512f,
                           -0.24958588f,
                           0.19695403f,
                           -0.15355404f,
                           0.106805675f,
                           -0.057664555f,
                           0.020204643f,
                           -0.0033184849f};
    return u * horner(u, q);
  } else {
    // 2 atanh(s), s = u / (2 + u) <= 1/3
    constexpr double q[] = {0.6666666666666667,  0.3999999999999398,  0.28571428572509994,
                            0.22222222125472912, 0.18181823202824168, 0.15384451934600832,
                            0.13336805780254588, 0.11715951056499627, 0.10972564406370211,
                            0.06994255525819747, 0.16467621535596288};
    const V s = u / (u + V(2)), z = s * s;
    return simd::fma(z * s, horner(z, q), s + s);
  }
}

}  // namespace detail

/// log v; -inf at 0, NaN below.
template <class V>
LIMEN_INLINE V log(const V& v) {
  using Real = detail::RealOf<V>;
  using Limits = std::numeric_limits<Real>;
  using I = simd::Int<Real>;
  constexpr int bits = detail::mantissa_bits<Real>;
  // v = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); subnormal numbers are made normal first.
  const auto tiny = v < V(Limits::min());
  const V normal = simd::select(tiny, v * V(Real(I(1) << bits)), v);
  constexpr I one = static_cast<I>(Limits::max_exponent - 1) << bits;
  constexpr I root = sizeof(Real) == 4 ? I(0x3f3504f3) : I(0x3fe6a09e667f3bcc);
  using IV = simd::IntOf<V>;
  const IV k = simd::as_int(normal) + IV(I(one - root));
  const V e0 = simd::as_real<V>((k >> bits) + IV(std::bit_cast<I>(detail::magic<Real>))) -
               V(detail::magic<Real> + Real(Limits::max_exponent - 1));
  const V e = simd::select(tiny, e0 - V(Real(bits)), e0);
  const V m = simd::as_real<V>((k & IV((I(1) << bits) - 1)) + IV(root));
  const V f = m - V(Real(1));
  V y;
  if constexpr (detail::is_float<V>) {
    constexpr float q[] = {0.3333333f,  -0.2500082f, 0.20001228f, -0.1662336f,
                           0.14201736f, -0.1316014f, 0.12761678f, -0.07634705f};
    const V z = f * f;
    y = simd::fma(f * z, detail::horner(f, q), e * V(detail::Ln2<Real>::low));
    y = simd::fnma(V(Real(0.5)), z, y) + f;
  } else {
    constexpr double q[] = {0.6666666666666666,  0.40000000000006264, 0.28571428569081053,
                            0.22222222647524337, 0.18181775607239564, 0.1538709330956885,
                            0.13250060460544702, 0.13251854934617635};
    // log(1 + f) = f - s (f - z q(z)),  s = f / (2 + f), z = s^2: f is exact, the rest is small
    const V s = f / (f + V(2)), z = s * s;
    y = simd::fnma(s, simd::fnma(z, detail::horner(z, q), f), e * V(detail::Ln2<Real>::low)) + f;
  }
  y = simd::fma(e, V(detail::Ln2<Real>::high), y);
  y = simd::select(v == V(Real(0)), V(-Limits::infinity()), y);
  y = simd::select(v < V(Real(0)), V(Limits::quiet_NaN()), y);
  return simd::select(v < V(Limits::infinity()), y, v);  // inf and NaN are their own logarithms
}

/// log(1 + v), accurate near 0: log(w) v / (w - 1) with w = 1 + v rounded.
template <class V>
LIMEN_INLINE V log1p(const V& v) {
  using Real = detail::RealOf<V>;
  const V one(Real(1)), w = v + one, d = w - one;
  const V y = simd::select(d == V(Real(0)), v, math::log(w) * (v / d));
  return simd::select(v < V(std::numeric_limits<Real>::infinity()), y, v);
}

}  // namespace math
}  // namespace limen::inline LIMEN_ABI
