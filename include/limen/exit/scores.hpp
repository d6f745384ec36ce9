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

/// log of one number as of a vector of them, which has bits of its own.
template <class Real>
LIMEN_INLINE Real log_of(Real s) {
  using V = simd::Vec<Real>;
  alignas(64) Real lanes[V::size];
  simd::store(lanes, math::log(V(s)));
  return lanes[0];
}

}  // namespace detail

/// What the scores of one row are made of: with m = max z, a = z - m, e = exp(a)
template <class Real>
struct RowSums {
  Real sum, next;           ///< Σ e, and the second largest e
  Real weighted, log_sum;   ///< Σ e a, log Σ e
  Real squares, weighted2;  ///< Σ e², Σ e² a
  Real log_squares;         ///< log Σ e²
  Index best;               ///< where z is m; -1 where a logit is NaN

  double max_probability() const noexcept { return 1 / wide(sum); }
  double margin() const noexcept { return (1 - wide(next)) / wide(sum); }
  double entropy() const noexcept { return wide(log_sum) - wide(weighted) / wide(sum); }
  double power_entropy() const noexcept {
    return wide(log_squares) - 2 * wide(weighted2) / wide(squares);
  }

 private:
  static double wide(Real v) noexcept { return static_cast<double>(v); }
};

namespace detail {

/// Which sums somebody will ask for; the others stay 0.
struct Wanted {
  bool next = false, entropy = false, power = false;
};

template <Wanted W, class Real>
LIMEN_INLINE RowSums<Real> sums_of(std::span<const Real> z) {
  using V = simd::Vec<Real>;
  const V m(score_shift(z)), one(Real(1)), zero(Real(0));
  V sum = zero, weighted = zero, squares = zero, weighted2 = zero, equals = zero, next = zero;
  for_each_filled(z, [&](const V& v) {
    const V a = v - m, e = math::exp(a);
    sum = sum + e;
    if constexpr (W.entropy) weighted = weighted + simd::select(e == zero, zero, e * a);  // 0 log 0
    if constexpr (W.power) {
      const V e2 = e * e;
      squares = squares + e2;
      weighted2 = weighted2 + simd::select(e2 == zero, zero, e2 * a);
    }
    if constexpr (W.next) {
      equals = equals + simd::select(a == zero, one, zero);
      next = simd::max(next, simd::select(a == zero, zero, e));
    }
  });
  RowSums<Real> r{};
  r.sum = simd::reduce_add(sum);
  if constexpr (W.next) r.next = simd::reduce_add(equals) > 1 ? 1 : simd::reduce_max(next);
  if constexpr (W.entropy) {
    r.weighted = simd::reduce_add(weighted);
    r.log_sum = log_of(r.sum);
  }
  if constexpr (W.power) {
    r.squares = simd::reduce_add(squares);
    r.weighted2 = simd::reduce_add(weighted2);
    r.log_squares = log_of(r.squares);
  }
  return r;
}

}  // namespace detail

template <class Real>
LIMEN_NOINLINE double max_probability(std::span<const Real> z) noexcept {
  return detail::sums_of<detail::Wanted{}>(z).max_probability();
}

template <class Real>
LIMEN_NOINLINE double probability_margin(std::span<const Real> z) noexcept {
  return detail::sums_of<detail::Wanted{.next = true}>(z).margin();
}

template <class Real>
LIMEN_NOINLINE double entropy(std::span<const Real> z) noexcept {
  return detail::sums_of<detail::Wanted{.entropy = true}>(z).entropy();
}

template <class Real>
double normalised_entropy(std::span<const Real> z) noexcept {
  return entropy(z) / std::log(static_cast<double>(z.size()));
}

template <class Real>
LIMEN_NOINLINE double power_entropy(std::span<const Real> z) noexcept {
  return detail::sums_of<detail::Wanted{.power = true}>(z).power_entropy();
}

template <class Real>
LIMEN_NOINLINE Index predicted_class(std::span<const Real> z) noexcept {
  using V = simd::Vec<Real>;
  const V m(detail::score_shift(z)), zero(Real(0)), one(Real(1));
  const V nobody(-std::numeric_limits<Real>::infinity()), next(static_cast<Real>(V::size));
  V number = zero - simd::load<V>(detail::lane_numbers<V>.at), best = nobody, bad = zero;
  detail::for_each_filled(z, [&](const V& v) {
    best = simd::max(best, simd::select(v == m, number, nobody));
    // NaN counts. NOLINTNEXTLINE(misc-redundant-expression)
    bad = bad + simd::select(v == v, zero, one);
    number = number - next;
  });
  return simd::reduce_add(bad) > 0 ? -1 : -static_cast<Index>(simd::reduce_max(best));
}

}  // namespace limen::inline LIMEN_ABI
