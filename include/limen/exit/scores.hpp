#pragma once
/// @file  How sure a classifier is of one row of logits z, p = softmax(z).
///
///   max_probability    max p
///   probability_margin p_(1) - p_(2)                 the two largest
///   entropy            -Σ p log p                    0 to log C
///   normalised_entropy entropy / log C               0 to 1
///   power_entropy      entropy of q = p² / Σ p²      sharper: p of 0.6 counts more against 0.3
///   predicted_class    argmax z, the lowest of equals; -1 where a logit is NaN
///
/// NaN in, or nothing but -inf: NaN out, and a NaN passes no threshold. BranchyNet (Teerapittayanon
/// et al., arXiv:1709.01686) leaves by entropy, MSDNet (Huang et al., arXiv:1703.09844) by max p.

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// 0, 1, 2, ...
template <class V>
inline constexpr auto lane_numbers = [] {
  struct {
    alignas(64) typename V::value_type at[V::size];
  } lanes{};
  for (std::size_t i = 0; i < V::size; ++i) lanes.at[i] = static_cast<typename V::value_type>(i);
  return lanes;
}();

/// f(v) for all of z, a vector at a time; the last is filled up with -inf, which has p = 0. Not
/// through memory: a load that waits for two stores takes as long as all the rest.
template <class Real, class F>
LIMEN_INLINE void for_each_filled(std::span<const Real> z, F&& f) {
  using V = simd::Vec<Real>;
  constexpr std::size_t width = V::size;
  std::size_t i = 0;
  for (; i + width <= z.size(); i += width) f(simd::load<V>(z.data() + i));
  if (i < z.size()) {
    const std::size_t n = z.size() - i;
    const V low(-std::numeric_limits<Real>::infinity());
    f(simd::select(simd::load<V>(lane_numbers<V>.at) < V(static_cast<Real>(n)),
                   simd::load<V>(z.data() + i, static_cast<Index>(n)), low));
  }
}

/// max z. Where there are NaN it is any number: a sum over e^(z - max z) is NaN all the same.
template <class Real>
LIMEN_INLINE Real score_shift(std::span<const Real> z) {
  using V = simd::Vec<Real>;
  V most(-std::numeric_limits<Real>::infinity());
  for_each_filled(z, [&](const V& v) { most = simd::max(most, v); });
  return simd::reduce_max(most);
}

/// Σ e^(z - m); NaN where there is no answer.
template <class Real>
LIMEN_INLINE double partition(std::span<const Real> z, Real m) {
  using V = simd::Vec<Real>;
  const V shift(m);
  V sums(Real(0));
  for_each_filled(z, [&](const V& v) { sums = sums + math::exp(v - shift); });
  const Real sum = simd::reduce_add(sums);
  return sum > 0 ? static_cast<double>(sum) : std::numeric_limits<double>::quiet_NaN();
}

/// Entropy of softmax(power z):  log Σ e^a - Σ e^a a / Σ e^a,  a = power (z - max z)
template <class Real>
LIMEN_INLINE double entropy_of_power(std::span<const Real> z, Real power) {
  using V = simd::Vec<Real>;
  const V m(score_shift(z)), by(power), nothing(Real(0));
  V sum(Real(0)), weighted(Real(0));
  for_each_filled(z, [&](const V& v) {
    const V a = by * (v - m), e = math::exp(a);
    sum = sum + e;
    weighted = weighted + simd::select(e == nothing, nothing, e * a);  // 0 log 0 = 0
  });
  const double s = static_cast<double>(simd::reduce_add(sum));
  return std::log(s) - static_cast<double>(simd::reduce_add(weighted)) / s;
}

}  // namespace detail

template <class Real>
LIMEN_NOINLINE double max_probability(std::span<const Real> z) noexcept {
  return 1 / detail::partition(z, detail::score_shift(z));
}

template <class Real>
LIMEN_NOINLINE double probability_margin(std::span<const Real> z) noexcept {
  using V = simd::Vec<Real>;
  const V m(detail::score_shift(z)), one(Real(1)), zero(Real(0));
  V sum = zero, next = zero, equals = zero;
  detail::for_each_filled(z, [&](const V& v) {
    const V e = math::exp(v - m);
    sum = sum + e;
    equals = equals + simd::select(v == m, one, zero);
    next = simd::max(next, simd::select(v == m, zero, e));
  });
  const Real s = simd::reduce_add(sum);
  if (!(s > 0)) return std::numeric_limits<double>::quiet_NaN();
  if (simd::reduce_add(equals) > 1) return 0;  // two largest
  return (1 - static_cast<double>(simd::reduce_max(next))) / static_cast<double>(s);
}

template <class Real>
LIMEN_NOINLINE double entropy(std::span<const Real> z) noexcept {
  return detail::entropy_of_power(z, Real(1));
}

template <class Real>
double normalised_entropy(std::span<const Real> z) noexcept {
  return entropy(z) / std::log(static_cast<double>(z.size()));
}

template <class Real>
LIMEN_NOINLINE double power_entropy(std::span<const Real> z) noexcept {
  return detail::entropy_of_power(z, Real(2));
}

template <class Real>
LIMEN_NOINLINE Index predicted_class(std::span<const Real> z) noexcept {
  using V = simd::Vec<Real>;
  const V m(detail::score_shift(z)), zero(Real(0)), one(Real(1));
  const V nobody(-std::numeric_limits<Real>::infinity()), next(static_cast<Real>(V::size));
  V number = zero - simd::load<V>(detail::lane_numbers<V>.at), best = nobody, bad = zero;
  detail::for_each_filled(z, [&](const V& v) {
    best = simd::max(best, simd::select(v == m, number, nobody));
    bad = bad + simd::select(v == v, zero, one);
    number = number - next;
  });
  return simd::reduce_add(bad) > 0 ? -1 : -static_cast<Index>(simd::reduce_max(best));
}

}  // namespace limen::inline LIMEN_ABI
