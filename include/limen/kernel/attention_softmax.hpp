#pragma once
/// @file  The softmax of a row whose scores come block by block, in base 2.
///
///   m = max s,  Σ = Σ_j 2^(s_j - m)     a larger m makes what was gathered before smaller
///
/// Milakov & Gimelshein, arXiv:1805.02867.

#include <algorithm>
#include <cmath>

#include <limen/kernel/attention_rule.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// s [n], whole vectors: the maximum.
template <class Real>
Real maximum(const Real* s, Index n) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  V a(minus_infinity<Real>), b = a;
  Index j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) {
    a = simd::max(a, simd::load<V>(s + j));
    b = simd::max(b, simd::load<V>(s + j + lanes));
  }
  if (j < n) a = simd::max(a, simd::load<V>(s + j));
  return simd::reduce_max(simd::max(a, b));
}

/// s <- 2^(s - most) over whole vectors; gives the sum.
template <class Real>
Real exponentials(Real* s, Index n, Real most) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const V top(most);
  V a(Real(0)), b = a;
  Index j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) {
    const V x = math::exp2(simd::load<V>(s + j) - top);
    const V y = math::exp2(simd::load<V>(s + j + lanes) - top);
    simd::store(s + j, x);
    simd::store(s + j + lanes, y);
    a = a + x;
    b = b + y;
  }
  if (j < n) {
    const V x = math::exp2(simd::load<V>(s + j) - top);
    simd::store(s + j, x);
    a = a + x;
  }
  return simd::reduce_add(a + b);
}

/// A row of the softmax under way: the largest score so far, and the sum relative to it.
template <class Real>
struct Running {
  Real most = minus_infinity<Real>, sum = 0;

  /// Takes in scores s [n] (whole vectors), which become probabilities relative to `most`; gives
  /// the factor for what was gathered before.
  Real add(Real* s, Index n) {
    const Real now = std::max(most, maximum(s, n));
    if (now == minus_infinity<Real>) {
      std::fill(s, s + n, Real(0));
      return 1;
    }
    const Real factor = most == now ? Real(1) : std::exp2(most - now);
    sum = sum * factor + exponentials(s, n, now);
    most = now;
    return factor;
  }
  /// log Σ, in base e.
  Real lse() const { return sum > 0 ? (most + std::log2(sum)) * ln2<Real> : minus_infinity<Real>; }
};

/// A sink takes part in the sum from the start.
template <class Real>
Running<Real> at_start(const AttentionRule<Real>& rule, Index h) {
  if (rule.sinks == nullptr) return {};
  return {rule.sinks[h] * math::detail::log2_e<Real>, 1};
}

template <class Real>
void scale_row(Real* y, Index n, Real by) {
  const simd::Vec<Real> factor(by);
  simd::transform(y, y, n, [&](const auto& v) { return v * factor; });
}

template <class Real>
void copy_scaled(const Real* from, Real* to, Index n, Real by) {
  const simd::Vec<Real> factor(by);
  simd::transform(from, to, n, [&](const auto& v) { return v * factor; });
}

}  // namespace limen::inline LIMEN_ABI::detail
