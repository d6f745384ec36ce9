#pragma once
/// @file  Powers: 2^v, e^v, and e^v as the parts that sigmoid and tanh are made of.
///
/// v = n ln2 + r with n an integer (or a multiple of 1/32: see `power_by_table`), e^v = 2^n p(r).
/// V is a vector of floats or doubles. Coefficients are minimax, fitted for this file. Errors: the
/// table in kernel/math.hpp.

#include <array>

#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {
namespace math {
namespace detail {

template <class V>
using RealOf = typename V::value_type;

template <class V>
inline constexpr bool is_float = sizeof(RealOf<V>) == 4;

/// True where simd::fma rounds once.
template <class V>
inline constexpr bool fused =
#if (defined(__FMA__) || defined(__ARM_FEATURE_FMA)) && !defined(LIMEN_SCALAR)
    V::size > 1;
#else
    false;
#endif

/// c[0] + c[1] x + c[2] x^2 + ... by Horner's rule: the fewest instructions.
template <class V, class Real, std::size_t N>
LIMEN_INLINE V horner(const V& x, const std::array<Real, N>& c) {
  V p(c[N - 1]);
  LIMEN_UNROLL for (std::size_t k = 1; k < N; ++k) p = simd::fma(p, x, V(c[N - 1 - k]));
  return p;
}
template <class V, class Real, std::size_t N>
LIMEN_INLINE V horner(const V& x, const Real (&c)[N]) {
  V p(c[N - 1]);
  LIMEN_UNROLL for (std::size_t k = 1; k < N; ++k) p = simd::fma(p, x, V(c[N - 1 - k]));
  return p;
}

/// Adding and subtracting 1.5 2^m, m the number of mantissa bits, rounds to the nearest integer;
/// in between the low bits hold that integer.
template <class Real>
inline constexpr Real magic = sizeof(Real) == 4 ? Real(12582912) : Real(6755399441055744);
template <class Real>
inline constexpr int mantissa_bits = sizeof(Real) == 4 ? 23 : 52;
template <class Real>
inline constexpr int bias = sizeof(Real) == 4 ? 127 : 1023;

/// ln 2 and log2 e as sums of two. `high` of ln 2 times an n <= 2048 is exact without fma.
template <class Real>
struct Ln2;
template <>
struct Ln2<float> {
  static constexpr float high = 0.693145752f, low = 1.42860677e-6f, all = 0.693147181f;
};
template <>
struct Ln2<double> {
  static constexpr double high = 0x1.62e42fefa0000p-1, low = 0x1.cf79abc9e3b39p-40,
                          all = 0x1.62e42fefa39efp-1;
};
template <class Real>
inline constexpr Real log2_e = Real(1.4426950408889634074L);
template <class Real>
inline constexpr Real log2_e_low =
    sizeof(Real) == 4 ? Real(1.92596299e-8) : Real(2.0355273740931033e-17);

/// scale (c[0] + c[1] a x + c[2] (a x)^2 + ...), as coefficients of x: a and scale cost nothing.
template <class Real, std::size_t N>
constexpr std::array<Real, N> in_powers_of(int a, std::array<double, N> c, int scale = 1) {
  std::array<Real, N> result{};
  double power = scale;
  for (std::size_t k = 0; k < N; ++k, power *= a) result[k] = static_cast<Real>(c[k] * power);
  return result;
}

/// e^x on |x| <= ln2 / 2: 1, 1, 1/2, ...
template <class Real>
constexpr auto exp_series() {
  if constexpr (sizeof(Real) == 4) {
    return std::array{1.0,
                      0.9999997071892403,
                      0.499991495304724,
                      0.16667636195537514,
                      0.04189792931920318,
                      0.008290314669424884};
  } else {
    return std::array{1.0,
                      1.0,
                      0.5000000000000011,
                      0.16666666666666405,
                      0.04166666666652701,
                      0.008333333333498229,
                      0.001388888894457745,
                      0.00019841269500709495,
                      2.4801492012579196e-05,
                      2.7557589503899895e-06,
                      2.7630668489758176e-07,
                      2.4999750245734603e-08};
  }
}

/// (e^x - 1) / x on |x| <= ln2 / 2
template <class Real>
constexpr auto expm1_series() {
  if constexpr (sizeof(Real) == 4) {
    return std::array{1.0,
                      0.4999999812428305,
                      0.16666506217380614,
                      0.04166713629152185,
                      0.008369068745794262,
                      0.001388886958375198};
  } else {
    return std::array{1.0,
                      0.5000000000000006,
                      0.16666666666666563,
                      0.04166666666657391,
                      0.008333333333397827,
                      0.0013888888932258635,
                      0.00019841269707475116,
                      2.4801504602389958e-05,
                      2.7557414785646432e-06,
                      2.7626262714831617e-07,
                      2.5052097058793284e-08};
  }
}

/// 2^x on |x| <= 1/2
template <class Real>
constexpr auto exp2_series() {
  if constexpr (sizeof(Real) == 4) {
    return std::array{1.0, 0.693147, 0.2402224, 0.055507362, 0.009671725, 0.0013264458};
  } else {
    return std::array{1.0,
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
  }
}

/// a x = n ln2 + a r:  n + Bias in the low bits of t, |a r| <= ln2 / 2.
template <class V>
struct Reduced {
  V t, n, r;
  /// 2^(n + Bias - bias), for 0 <= n + Bias <= 2 bias + 1; 0 and inf at the ends.
  LIMEN_INLINE V power() const {
    return simd::as_real<V>(simd::as_int(t) << mantissa_bits<RealOf<V>>);
  }
};

/// One_step: n ln2 in one step, where ln 2 rounded to float is off by 2.7e-9 of itself.
template <int A, int Bias, bool One_step = false, class V>
LIMEN_INLINE Reduced<V> reduce(const V& x) {
  using Real = RealOf<V>;
  constexpr Real big = magic<Real> + Bias;
  const V t = simd::fma(x, V(A * log2_e<Real>), V(big)), n = t - V(big);
  if constexpr (One_step) {
    return {t, n, simd::fnma(n, V(Ln2<Real>::all / A), x)};
  } else {
    return {t, n, simd::fnma(n, V(Ln2<Real>::low / A), simd::fnma(n, V(Ln2<Real>::high / A), x))};
  }
}

/// Below, e^-x is infinite and sigma(x) is 0.
template <class Real>
inline constexpr Real lowest_gate = -(bias<Real> + 1) * Ln2<Real>::all;

/// 2^(k / size) for 0 <= k < size: as many as two registers hold.
template <class Real>
struct Powers;
template <>
struct Powers<float> {
  static constexpr int size = 32;
  alignas(64) static constexpr float value[size] = {
      1.0f,        1.0218972f,  1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f,  1.13878858f,
      1.1637249f,  1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f,
      1.35425556f, 1.38390994f, 1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f,
      1.5759809f,  1.61049032f, 1.64575553f, 1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f,
      1.8340081f,  1.87416768f, 1.91520655f, 1.95714414f};
  static constexpr float series[] = {-0.693157375f, 0.240229949f};
};
template <>
struct Powers<double> {
  static constexpr int size = 16;
  alignas(64) static constexpr double value[size] = {1.0,
                                                     1.0442737824274138,
                                                     1.0905077326652577,
                                                     1.1387886347566916,
                                                     1.189207115002721,
                                                     1.241857812073484,
                                                     1.2968395546510096,
                                                     1.3542555469368927,
                                                     1.4142135623730951,
                                                     1.4768261459394993,
                                                     1.5422108254079407,
                                                     1.6104903319492543,
                                                     1.681792830507429,
                                                     1.7562521603732995,
                                                     1.8340080864093424,
                                                     1.9152065613971474};
  static constexpr double series[] = {-0.6931471805599468,    0.24022650695910167,
                                      -0.05550410865195442,   0.00961812910204874,
                                      -0.0013333820234593097, 0.0001540421217091808};
};

/// Added and subtracted, rounds to a multiple of 1 / size.
template <class Real>
inline constexpr Real table_magic = magic<Real> / Powers<Real>::size;

/// 2^(n - r) for n = t - table_magic, a multiple of 1 / size. The table leaves so little for r that
/// 3 multiplications do (double: 7). Over- and underflow, infinities and NaN come from n.
template <class V>
LIMEN_INLINE V power_by_table(const V& t, const V& n, V r) {
  using Table = Powers<RealOf<V>>;
  r = simd::within_one(r);  // n may be infinite, and r is then NaN
  const V power = simd::lookup(simd::as_int(t), Table::value);
  return simd::scale(simd::fma(power * r, horner(r, Table::series), power), n);
}

/// e^(A x). Fast: where there is no better way the error grows with |x|, up to 3.91e-7 in float.
template <int A, bool Fast = false, class V>
LIMEN_INLINE V exp_times(V x) {
  using Real = RealOf<V>;
  if constexpr (simd::has_scale<V>) {
    const V t = simd::fma(x, V(A * log2_e<Real>), V(table_magic<Real>));
    const V n = t - V(table_magic<Real>);
    const V r = simd::fnma(x, V(A * log2_e<Real>), n);
    return power_by_table(t, n, simd::fnma(x, V(A * log2_e_low<Real>), r));
  } else {
    // 2 p times 2^(n - 1): 2^n itself would be infinite a little too early.
    constexpr Real over = is_float<V> ? Real(89) : Real(710);
    constexpr Real under = (1 - bias<Real>)*Ln2<Real>::all;
    x = simd::max(V(A > 0 ? under / A : over / A), simd::min(V(A > 0 ? over / A : under / A), x));
    constexpr bool one_step = Fast && is_float<V> && fused<V>;
    const auto reduced = reduce<A, bias<Real> - 1, one_step>(x);
    static constexpr auto twice = in_powers_of<Real>(A, exp_series<Real>(), 2);
    return horner(reduced.r, twice) * reduced.power();
  }
}

/// sigma(x) = 1 / (1 + e^-x) as a fraction. 0 from e^-x = 2^128 (2^1024) on.
template <class V>
struct Fraction {
  V top, bottom;
};
template <class V>
LIMEN_INLINE Fraction<V> sigmoid_fraction(V x) {
  using Real = RealOf<V>;
  const V one(Real(1));
  if constexpr (simd::has_scale<V>) {
    return {one, exp_times<-1>(x) + one};
  } else {
    x = simd::max(V(lowest_gate<Real>), simd::min(V(bias<Real> * Ln2<Real>::all), x));
    if constexpr (is_float<V> && fused<V>) {
      // e^-r = (c - r) / (c + r) with c = r coth(r / 2): the division is made anyway, and an error
      // of 3e-10 leaves room for a reduction in one step.
      constexpr float c[] = {2.0f, 0.166665839f, -0.00276395036f};
      const auto [t, n, r] = reduce<-1, bias<Real>, true>(x);
      const V even = horner(r * r, c), top = even + r;
      return {top, simd::fma(Reduced<V>{t, n, r}.power(), even - r, top)};
    } else {
      const auto reduced = reduce<-1, bias<Real>>(x);
      static constexpr auto p = in_powers_of<Real>(-1, exp_series<Real>());
      return {one, simd::fma(horner(reduced.r, p), reduced.power(), one)};
    }
  }
}

}  // namespace detail

/// 2^v
template <class V>
LIMEN_INLINE V exp2(V v) {
  using Real = detail::RealOf<V>;
  if constexpr (simd::has_scale<V>) {
    const V t = v + V(detail::table_magic<Real>), n = t - V(detail::table_magic<Real>);
    return detail::power_by_table(t, n, n - v);
  } else {
    constexpr int e = detail::bias<Real> - 1;
    constexpr Real big = detail::magic<Real> + e;
    v = simd::max(V(Real(-e)), simd::min(V(Real(e + 2)), v));
    const V t = v + V(big);
    static constexpr auto twice = detail::in_powers_of<Real>(1, detail::exp2_series<Real>(), 2);
    return detail::horner(v - (t - V(big)), twice) * detail::Reduced<V>{t, t, t}.power();
  }
}

/// e^v
template <class V>
LIMEN_INLINE V exp(const V& v) {
  return detail::exp_times<1, true>(v);
}

}  // namespace math
}  // namespace limen::inline LIMEN_ABI
