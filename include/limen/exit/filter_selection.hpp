#pragma once
/// @file  Fire together, wire together: a gate that learns from the activations which channels they
/// were that mattered.
///
///   a_c = max_p |y_pc|,  n_c = a_c / Σ a        of the layer without its mask
///   target: the largest n_c, in order, as long as their sum stays within r (+ 1e-5)
///   L = 1/B Σ_b Σ_c BCE(e_bc, target_bc)        e of the gate (exit/channel_gate.hpp)
///
/// r = 1 drops what is 0 (n_c <= 1e-5); r < 0 keeps all. Where the first alone is more than r, it
/// is kept; where all is 0, all are. Of equals the lower channel comes first.
///
/// Elkerdawy et al., "Fire Together Wire Together: a dynamic pruning approach with self-supervised
/// mask prediction", arXiv:2110.08232, section 3.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <limen/core/error.hpp>
#include <limen/core/sequence.hpp>
#include <limen/core/sort.hpp>

namespace limen::inline LIMEN_ABI {

struct FilterTargetConfig {
  double mass = 0.9;         ///< r, at most 1 and not 0
  bool at_least_one = true;  ///< the largest channel stays even if it is more than r
};

/// Reports and says no if r is not a share.
inline bool fits_mass(double r) {
  if (r <= 1 && r != 0) return true;
  fail({"filter targets: mass", "at most 1, and not 0", std::to_string(r)});
  return false;
}

/// mask [O] of 0 and 1 from a [O], none of it negative.
template <class Real>
void filter_target(const Real* a, Index O, const FilterTargetConfig& how, Real* mask) {
  double sum = 0;
  for (Index c = 0; c < O; ++c) sum += static_cast<double>(a[c]);
  const bool all = how.mass < 0 || !(sum > 0);
  for (Index c = 0; c < O; ++c) mask[c] = all ? 1 : 0;
  if (all) return;
  std::vector<Index> order(static_cast<std::size_t>(O));
  std::iota(order.begin(), order.end(), Index{0});
  sort_by_highest(order, [a](Index c) { return a[c]; });
  double kept = 0;
  for (const Index c : order) {
    const double n = static_cast<double>(a[c]) / sum;
    kept += n;
    if (how.mass == 1 ? n <= 1e-5 : kept - how.mass > 1e-5) break;
    mask[c] = 1;
  }
  if (how.at_least_one) mask[order[0]] = 1;
}

/// The uniform variant: the first O - floor(ratio O) in the same order, without those a_c <= 1e-5.
template <class Real>
void uniform_filter_target(const Real* a, Index O, double ratio, Real* mask) {
  std::vector<Index> order(static_cast<std::size_t>(O));
  std::iota(order.begin(), order.end(), Index{0});
  sort_by_highest(order, [a](Index c) { return a[c]; });
  const Index stay = O - static_cast<Index>(ratio * static_cast<double>(O));
  for (Index c = 0; c < O; ++c) mask[c] = 0;
  for (Index i = 0; i < stay; ++i) {
    const Index c = order[static_cast<std::size_t>(i)];
    mask[c] = a[c] > Real(1e-5) ? 1 : 0;
  }
}

/// Targets [T x O] from y [T x P O].
template <Index O, class Real, Index N>
Sequence<Real, O> filter_targets(SequenceView<Real, N> y, const FilterTargetConfig& how = {}) {
  static_assert(N % O == 0, "filter_targets: y must be whole positions of O channels");
  if (!fits_mass(how.mass)) return {};
  Sequence<Real, O> targets(y.rows());
  Vector<Real, O> a;
  for (Index t = 0; t < y.rows(); ++t) {
    for (Index c = 0; c < O; ++c) a[c] = 0;
    for (Index n = 0; n < N; ++n) a[n % O] = std::max(a[n % O], std::abs(y(t, n)));
    filter_target(a.data(), O, how, targets.row_data(t));
  }
  return targets;
}

template <class Real, Index O>
struct FilterLoss {
  double value = 0;      ///< mean over rows of the sum over channels
  Sequence<Real, O> de;  ///< (σ(e) - target) / B
};

/// BCE of logits e against targets, both [T x O].
template <class Real, Index O>
FilterLoss<Real, O> filter_loss(SequenceView<Real, O> e, SequenceView<Real, O> targets) {
  FilterLoss<Real, O> loss;
  if (e.rows() != targets.rows() || e.rows() == 0) {
    fail({"filter loss: targets", std::to_string(e.rows()) + " rows, at least one",
          std::to_string(targets.rows())});
    return loss;
  }
  const double share = 1 / static_cast<double>(e.rows());
  loss.de = Sequence<Real, O>(e.rows());
  for (Index t = 0; t < e.rows(); ++t) {
    for (Index c = 0; c < O; ++c) {
      const double x = static_cast<double>(e(t, c)), y = static_cast<double>(targets(t, c));
      loss.value += share * (std::max(x, 0.0) - x * y + std::log1p(std::exp(-std::abs(x))));
      loss.de(t, c) = static_cast<Real>(share * (1 / (1 + std::exp(-x)) - y));
    }
  }
  return loss;
}

}  // namespace limen::inline LIMEN_ABI
