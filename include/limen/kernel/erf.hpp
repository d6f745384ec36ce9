#pragma once
/// @file  The error function, and GELU, which is made of it.  Errors: the table in kernel/math.hpp.
///
/// Hendrycks and Gimpel, "Gaussian error linear units", arXiv:1606.08415.

#include <limits>

#include <limen/kernel/exp.hpp>

namespace limen::inline LIMEN_ABI {
namespace math {
namespace detail {

/// e^(-a^2 / 2), in relative precision: what a^2 loses by rounding comes back as a factor.
template <class V>
LIMEN_INLINE V gaussian(const V& a) {
  using Real = RealOf<V>;
  V square, lost;
  if constexpr (fused<V>) {
    square = a * a;
    lost = simd::fma(a, a, -square);
  } else {
    using I = simd::Int<Real>;
    constexpr I upper = is_float<V> ? I(-4096) : I(-134217728);  // half of the mantissa
    const V high = simd::as_real<V>(simd::as_int(a) & simd::IntOf<V>(upper));
    const V rest = (a - high) * (a + high);
    square = high * high + rest;
    lost = (high * high - square) + rest;
  }
  const V e = detail::exp_times<-1>(V(Real(0.5)) * square);
  return simd::fnma(e * V(Real(0.5)), lost, e);
}

/// e^(a^2 / 2) times the part of a normal distribution beyond a >= 0.  (Mills' ratio over
/// sqrt(2 pi).) A polynomial in w = (a - k) / (a + k), which keeps w in -1..1 for all a.
template <class V>
LIMEN_INLINE V mills(const V& a) {
  if constexpr (is_float<V>) {
    constexpr float q[] = {0.188821284f,    -0.151974147f,   0.0967842253f,    -0.0466308604f,
                           0.0151009578f,   -0.00188131781f, -0.000878138645f, 0.000392480762f,
                           4.48387065e-05f, -3.29928269e-05f};
    const V u = V(4.0f) / (a + V(4.0f));
    return u * horner(simd::fnma(u, V(2.0f), V(1.0f)), q);
  } else {
    constexpr double q[] = {0.15383860995001258,    -0.13307650057801132,    0.0990611231939954,
                            -0.06270663133426314,   0.033004073234072305,    -0.013823727741190393,
                            0.0041590133600485435,  -0.000598675355139246,   -0.0001595738802966597,
                            0.00010897982117402212, -1.1875142252782749e-05, -9.95260204835605e-06,
                            3.3362289551446872e-06, 7.962982473319321e-07,   -5.538110162959153e-07,
                            -6.754862129478702e-08, 8.653725379129882e-08,   8.722458440235917e-09,
                            -1.306394246554988e-08, -2.042169351646893e-09,  1.4363865108565323e-09,
                            4.0277939058350334e-10};
    const V u = V(5.0) / (a + V(5.0));
    return u * horner(simd::fnma(u, V(2.0), V(1.0)), q);
  }
}

/// |v|, as far as e^(-v^2 / 2) is not 0.
template <class V>
LIMEN_INLINE V normal_range(const V& v) {
  return simd::min(V(RealOf<V>(is_float<V> ? 15 : 40)), simd::abs(v));
}

}  // namespace detail

/// erf v = 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to v.
template <class V>
LIMEN_INLINE V erf(const V& v) {
  using Real = detail::RealOf<V>;
  const V x = simd::min(V(Real(detail::is_float<V> ? 5 : 7)), simd::abs(v)), z = x * x;
  V near;
  if constexpr (detail::is_float<V>) {
    constexpr float q[] = {1.12837917f,    -0.376126258f,    0.112835851f,  -0.0268538119f,
                           0.00518832767f, -0.000801019336f, 7.8538602e-05f};
    near = x * detail::horner(z, q);
  } else {
    constexpr double q[] = {
        1.1283791670955126,      -0.3761263890318352,     0.11283791670944185,
        -0.026866170643111493,   0.005223977606118642,    -0.0008548325929320601,
        0.00012055293577034857,  -1.4924712303799977e-05, 1.6447131585130883e-06,
        -1.6206313811342183e-07, 1.3710980432956925e-08,  -7.779468251062854e-10};
    near = x * detail::horner(z, q);
  }
  const V tail = detail::exp_times<-1>(z) * detail::mills(x * V(Real(1.4142135623730950488L)));
  const V y = simd::select(x < V(Real(1)), near, simd::fnma(V(Real(2)), tail, V(Real(1))));
  return simd::select(v < V(Real(0)), -y, y);
}

/// GELU, v Phi(v), Phi the normal distribution function: max(0, v) - |v| Phi(-|v|).
template <class V>
LIMEN_INLINE V gelu(const V& v) {
  using Real = detail::RealOf<V>;
  const V a = detail::normal_range(v);
  return simd::fnma(a * detail::gaussian(a), detail::mills(a), simd::max(V(Real(0)), v));
}

/// Phi(v) + v phi(v)
template <class V>
LIMEN_INLINE V gelu_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  const V a = detail::normal_range(v);
  const V scale(Real(0.39894228040143267794L));  // 1 / sqrt(2 pi)
  const V d = detail::gaussian(a) * simd::fnma(a, scale, detail::mills(a));
  return simd::select(v < V(Real(0)), d, V(Real(1)) - d);
}

namespace detail {
/// The tanh form of GELU is v sigma(v (c1 + c3 v^2)), because (1 + tanh u) / 2 = sigma(2 u).
inline constexpr long double gelu_c1 = 1.5957691216057307117L;  // 2 sqrt(2 / pi)
inline constexpr long double gelu_c3 = gelu_c1 * 0.044715L;
}  // namespace detail

/// GELU in its tanh form, v (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3))) / 2.
template <class V>
LIMEN_INLINE V gelu_tanh(const V& v) {
  using Real = detail::RealOf<V>;
  const V x = simd::max(V(-std::numeric_limits<Real>::max()), v);
  const V u = simd::fma(x * x, V(Real(detail::gelu_c3)), V(Real(detail::gelu_c1)));
  const auto sigma = detail::sigmoid_fraction(x * u);
  return x * (sigma.top / sigma.bottom);
}

/// With s = sigma(u), u = v (c1 + c3 v^2):  s + v s'(u) (c1 + 3 c3 v^2)
template <class V>
LIMEN_INLINE V gelu_tanh_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  const V one(Real(1)), far(Real(40));
  const V x = simd::max(-far, simd::min(far, v)), z = x * x;
  const V u = x * simd::fma(z, V(Real(detail::gelu_c3)), V(Real(detail::gelu_c1)));
  const V slope = simd::fma(z, V(Real(3 * detail::gelu_c3)), V(Real(detail::gelu_c1)));
  const V e = detail::exp_times<-1>(simd::abs(u)), r = one / (one + e);
  return simd::fma(e * r * r, x * slope, simd::select(x < V(Real(0)), e * r, r));
}

}  // namespace math
}  // namespace limen::inline LIMEN_ABI
