#pragma once
/// @file  Elementary functions of vectors: exp, log, sigmoid, tanh, softplus, GELU, erf, sin, cos.
///
/// V is a vector of floats or doubles (simd::Vec, simd::Sized). One source for both: the reductions
/// are the same, the polynomials differ in degree. All polynomials are minimax fits made for this
/// file (Remez exchange in 50 digits).

#include <limits>

#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {
namespace math {
namespace detail {

template <class V>
using RealOf = typename V::value_type;

template <class V>
inline constexpr bool is_float = sizeof(RealOf<V>) == 4;

/// c[0] + c[1] x + c[2] x^2 + ... by Horner's rule: the fewest instructions.
template <class V, class Real, int N>
LIMEN_INLINE V horner(const V& x, const Real (&c)[N]) {
  V p(c[N - 1]);
  LIMEN_UNROLL for (int k = N - 2; k >= 0; --k) p = simd::fma(p, x, V(c[k]));
  return p;
}

/// Adding and subtracting 1.5 2^m, m the number of mantissa bits, rounds to the nearest integer;
/// in between the low bits hold that integer.
template <class Real>
inline constexpr Real magic = sizeof(Real) == 4 ? Real(12582912) : Real(6755399441055744);
template <class Real>
inline constexpr int mantissa_bits = sizeof(Real) == 4 ? 23 : 52;

template <class Real>
struct Ln2;
template <>
struct Ln2<float> {
  static constexpr float high = 0.693145752f, low = 1.42860677e-6f;
};
template <>
struct Ln2<double> {
  static constexpr double high = 0x1.62e42fefa0000p-1, low = 0x1.cf79abc9e3b39p-40;
};
template <class Real>
inline constexpr Real log2_e = Real(1.4426950408889634074L);

constexpr double power(double a, int k) { return k == 0 ? 1 : a * power(a, k - 1); }

/// (e^(a x) - 1) / x on |a x| <= ln2 / 2, by a power of two `a` (which costs nothing).
template <class V>
LIMEN_INLINE V exp_tail(const V& x, double a) {
  using Real = RealOf<V>;
  const auto c = [a](double value, int k)
                     __attribute__((always_inline)) { return Real(value * power(a, k)); };
  if constexpr (is_float<V>) {
    const Real q[] = {c(1, 1), c(0.49999222, 2), c(0.1666712, 3), c(0.04189142, 4),
                      c(0.008312358, 5)};
    return horner(x, q);
  } else {
    const Real q[] = {c(1, 1),
                      c(0.5000000000000011, 2),
                      c(0.16666666666666405, 3),
                      c(0.04166666666652701, 4),
                      c(0.008333333333498229, 5),
                      c(0.001388888894457745, 6),
                      c(0.00019841269500709495, 7),
                      c(2.4801492012579196e-05, 8),
                      c(2.7557589503899895e-06, 9),
                      c(2.7630668489758176e-07, 10),
                      c(2.4999750245734603e-08, 11)};
    return horner(x, q);
  }
}

/// y with y^2 = e^(A x), for x between the bounds where e^(A x) has become 0 and inf. The square
/// root, because its exponent always fits: squaring then over- and underflows by itself.
template <int A, class V>
LIMEN_INLINE V exp_root(V x) {
  using Real = RealOf<V>;
  constexpr Real a = Real(A) / 2;
  constexpr Real over = is_float<V> ? Real(89) : Real(710), under = is_float<V> ? -104 : -746;
  constexpr Real low = A > 0 ? under / A : over / A, high = A > 0 ? over / A : under / A;
  x = simd::max(V(low), simd::min(V(high), x));
  const V t = simd::fma(x, V(a * log2_e<Real>), V(magic<Real>)), n = t - V(magic<Real>);
  const V r = simd::fnma(n, V(Ln2<Real>::low / a), simd::fnma(n, V(Ln2<Real>::high / a), x));
  const V p = simd::fma(exp_tail(r, double(A) / 2), r, V(1));
  return simd::as_real<V>(simd::as_int(p) + (simd::as_int(t) << mantissa_bits<Real>));
}

/// e^(A x), A a power of two.
template <int A, class V>
LIMEN_INLINE V exp_times(const V& x) {
  using Real = RealOf<V>;
  if constexpr (simd::has_scale<V>) {
    constexpr Real a = Real(A);
    const V t = x * V(a * log2_e<Real>), n = t - simd::remainder(t);
    V r = simd::fnma(n, V(Ln2<Real>::low / a), simd::fnma(n, V(Ln2<Real>::high / a), x));
    r = simd::max(V(Real(-1)), simd::min(r, V(Real(1))));  // finite, where n is not
    return simd::scale(simd::fma(exp_tail(r, double(A)), r, V(1)), n);
  } else {
    const V y = exp_root<A>(x);
    return y * y;
  }
}

/// 1 + e^(A x)
template <int A, class V>
LIMEN_INLINE V one_plus_exp_times(const V& x) {
  if constexpr (simd::has_scale<V>) {
    return exp_times<A>(x) + V(1);
  } else {
    const V y = exp_root<A>(x);
    return simd::fma(y, y, V(1));
  }
}

/// 2^r on |r| <= 1/2
template <class V>
LIMEN_INLINE V exp2_fraction(const V& r) {
  if constexpr (is_float<V>) {
    constexpr float q[] = {1, 0.693147f, 0.2402224f, 0.055507362f, 0.009671725f, 0.0013264458f};
    return horner(r, q);
  } else {
    constexpr double q[] = {1,
                            0.6931471805599453,
                            0.24022650695910133,
                            0.05550410866482006,
                            0.009618129107593567,
                            0.0013333558146779903,
                            0.0001540353045788017,
                            1.5252733489630537e-05,
                            1.3215434869258375e-06,
                            1.0178200385556045e-07,
                            7.073858792085306e-09,
                            4.434742060844973e-10};
    return horner(r, q);
  }
}

}  // namespace detail

/// 2^v. 0 below the smallest normal number (2^-126, 2^-1022).
template <class V>
LIMEN_INLINE V exp2(V v) {
  using Real = detail::RealOf<V>;
  if constexpr (simd::has_scale<V>) {
    const V r = simd::remainder(v);
    return simd::scale(detail::exp2_fraction(r), v - r);
  } else {
    constexpr int e = std::numeric_limits<Real>::max_exponent;
    v = simd::max(V(Real(1 - e)), simd::min(V(Real(e)), v));
    const V t = v + V(detail::magic<Real>), r = v - (t - V(detail::magic<Real>));
    return simd::as_real<V>(simd::as_int(detail::exp2_fraction(r)) +
                            (simd::as_int(t) << detail::mantissa_bits<Real>));
  }
}

/// e^v
template <class V>
LIMEN_INLINE V exp(const V& v) {
  return detail::exp_times<1>(v);
}

/// 1 / v
template <class V>
LIMEN_INLINE V reciprocal(const V& v) {
  return simd::reciprocal(v);
}

/// 1 / sqrt(v)
template <class V>
LIMEN_INLINE V rsqrt(const V& v) {
  return V(detail::RealOf<V>(1)) / simd::sqrt(v);
}

/// 1 / (1 + 2^v): a gate whose argument was multiplied by -log2 e in its weights.
template <class V>
LIMEN_INLINE V gate2(const V& v) {
  return simd::reciprocal(math::exp2(v) + V(detail::RealOf<V>(1)));
}

/// sigma(v) = 1 / (1 + e^-v)
template <class V>
LIMEN_INLINE V sigmoid(const V& v) {
  return simd::reciprocal(detail::one_plus_exp_times<-1>(v));
}

/// v sigma(v)
template <class V>
LIMEN_INLINE V silu(const V& v) {
  using Real = detail::RealOf<V>;
  return simd::max(V(-std::numeric_limits<Real>::max()), v) * sigmoid(v);  // not -inf times 0
}

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

/// tanh v = -E / (2 + E) with E = e^(-2 |v|) - 1, in relative precision.
template <class V>
LIMEN_INLINE V tanh(const V& v) {
  using Real = detail::RealOf<V>;
  constexpr Real a = -2;
  const V x = simd::min(V(Real(detail::is_float<V> ? 10 : 20)), simd::abs(v));
  const V t = simd::fma(x, V(a * detail::log2_e<Real>), V(detail::magic<Real>));
  const V n = t - V(detail::magic<Real>);
  const V r = simd::fnma(n, V(detail::Ln2<Real>::low / a),
                         simd::fnma(n, V(detail::Ln2<Real>::high / a), x));
  constexpr auto one = std::bit_cast<simd::Int<Real>>(Real(1));
  const V s =
      simd::as_real<V>((simd::as_int(t) << detail::mantissa_bits<Real>)+simd::IntOf<V>(one));
  const V E = simd::fma(detail::exp_tail(r, -2.0) * r, s, s - V(Real(1)));
  const V y = E / (V(Real(-2)) - E);
  return simd::select(v < V(Real(0)), -y, y);
}

namespace detail {

/// True where simd::fma rounds once.
template <class V>
inline constexpr bool fused =
#if (defined(__FMA__) || defined(__ARM_FEATURE_FMA)) && !defined(LIMEN_SCALAR)
    V::size > 1;
#else
    false;
#endif

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
  const V e = math::exp(V(Real(-0.5)) * square);
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
    const V u = simd::reciprocal(a + V(4.0f)) * V(4.0f);
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
  return simd::fnma(a, detail::gaussian(a) * detail::mills(a), simd::max(V(Real(0)), v));
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
  return x * sigmoid(x * u);
}

template <class V>
LIMEN_INLINE V gelu_tanh_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  const V one(Real(1)), far(Real(40));
  const V x = simd::max(-far, simd::min(far, v)), z = x * x;
  const V s = sigmoid(x * simd::fma(z, V(Real(detail::gelu_c3)), V(Real(detail::gelu_c1))));
  const V slope = simd::fma(z, V(Real(3 * detail::gelu_c3)), V(Real(detail::gelu_c1)));
  return simd::fma(s * (one - s), x * slope, s);
}

/// sigma'(v) = sigma(v) sigma(-v), in relative precision.
template <class V>
LIMEN_INLINE V sigmoid_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  const V e = detail::exp_times<-1>(simd::abs(v)), r = simd::reciprocal(V(Real(1)) + e);
  return e * r * r;
}

/// tanh'(v) = 1 - tanh^2 v = 4 sigma'(2 v)
template <class V>
LIMEN_INLINE V tanh_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  return V(Real(4)) * sigmoid_derivative(v + v);
}

/// sigma(v) (1 + v (1 - sigma(v)))
template <class V>
LIMEN_INLINE V silu_derivative(const V& v) {
  using Real = detail::RealOf<V>;
  constexpr Real most = std::numeric_limits<Real>::max();
  const V x = simd::max(V(-most), simd::min(V(most), v)), one(Real(1)), s = sigmoid(x);
  return s * simd::fma(x, one - s, one);
}

}  // namespace math
}  // namespace limen::inline LIMEN_ABI
