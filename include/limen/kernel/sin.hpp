#pragma once
/// @file  sin v and cos v.  Errors: the table in kernel/math.hpp.
///
/// v = n pi/2 + r, with pi/2 as a sum of three numbers: exact to the last bit of r up to
/// `trigonometric_bound`. Lanes beyond it, where n no longer fits, are given to the C library, and
/// so is everything on machines without fma.

#include <cmath>

#include <limen/kernel/exp.hpp>

namespace limen::inline LIMEN_ABI {
namespace math {
namespace detail {

template <class Real>
inline constexpr Real trigonometric_bound = sizeof(Real) == 4 ? Real(1 << 20) : Real(1 << 30);

template <class Real>
struct HalfPi;
template <>
struct HalfPi<float> {
  static constexpr float part[] = {0x1.921fb6p0f, -0x1.777a5cp-25f, -0x1.ee59dap-50f};
};
template <>
struct HalfPi<double> {
  static constexpr double part[] = {0x1.921fb54442d18p0, 0x1.1a62633145c07p-54,
                                    -0x1.f1976b7ed8fbcp-110};
};

/// (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4 in powers of r^2, for |r| <= pi/4 + 0.04.
template <class Real>
struct Trigonometric;
template <>
struct Trigonometric<float> {
  static constexpr float sin[] = {-0.166666666f, 0.00833332802f, -0.000198389117f, 2.71443108e-06f};
  static constexpr float cos[] = {0.04166664f, -0.00138870349f, 2.44008173e-05f};
};
template <>
struct Trigonometric<double> {
  static constexpr double sin[] = {-0.16666666666666605,    0.008333333333315422,
                                   -0.00019841269824242476, 2.7557311781179904e-06,
                                   -2.505046307528113e-08,  1.5879974558398552e-10};
  static constexpr double cos[] = {0.041666666666666546,   -0.0013888888888864668,
                                   2.4801587283604094e-05, -2.755731266951101e-07,
                                   2.087549736899677e-09,  -1.134812726776561e-11};
};

/// `y`, with the lanes where |v| > bound (or all) from the C library.
template <class V, class F>
LIMEN_NOINLINE V by_library(const V& v, const V& y, RealOf<V> bound, F f) {
  using Real = RealOf<V>;
  alignas(64) Real in[V::size], out[V::size];
  simd::store(in, v);
  simd::store(out, y);
  for (std::size_t i = 0; i < V::size; ++i) {
    if (!(std::abs(in[i]) <= bound)) out[i] = f(in[i]);
  }
  return simd::load<V>(out);
}

/// sin(v + Turns pi/2)
template <int Turns, class V>
LIMEN_INLINE V sin_of_quarter(const V& v) {
  using Real = RealOf<V>;
  using I = simd::IntOf<V>;
  using P = HalfPi<Real>;
  const V t = simd::fma(v, V(Real(0.63661977236758134308L)), V(magic<Real>));
  const V n = t - V(magic<Real>);
  V r = simd::fnma(n, V(P::part[0]), v);
  r = simd::fnma(n, V(P::part[1]), r);
  r = simd::fnma(n, V(P::part[2]), r);
  const V z = r * r;
  const V s = simd::fma(horner(z, Trigonometric<Real>::sin), z * r, r);
  const V c = simd::fma(horner(z, Trigonometric<Real>::cos), z * z,
                        simd::fnma(z, V(Real(0.5)), V(Real(1))));
  constexpr int to_top = 8 * static_cast<int>(sizeof(Real)) - 2;
  const auto quarter = simd::as_int(t) + I(Turns);
  const V odd = simd::as_real<V>((quarter & I(1)) << to_top);  // 2 or 0
  const auto sign = (quarter & I(2)) << to_top;
  const V y = simd::select(odd > V(Real(0)), c, s);
  return simd::as_real<V>(simd::as_int(y) ^ sign);
}

template <int Turns, class V, class F>
LIMEN_INLINE V trigonometric(const V& v, F library) {
  using Real = RealOf<V>;
  if constexpr (!fused<V>) {
    return by_library(v, v, Real(-1), library);
  } else {
    constexpr Real bound = trigonometric_bound<Real>;
    const V y = sin_of_quarter<Turns>(v);
    if (simd::any(simd::abs(v) > V(bound))) [[unlikely]]
      return by_library(v, y, bound, library);
    return y;
  }
}

}  // namespace detail

template <class V>
LIMEN_INLINE V sin(const V& v) {
  return detail::trigonometric<0>(v, [](auto x) { return std::sin(x); });
}

template <class V>
LIMEN_INLINE V cos(const V& v) {
  return detail::trigonometric<1>(v, [](auto x) { return std::cos(x); });
}

}  // namespace math
}  // namespace limen::inline LIMEN_ABI
