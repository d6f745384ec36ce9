#pragma once
/// @file  Which blocks a row runs, decided at once by a net that looks at the input: BlockDrop.
///
///   s' = α s + (1 - α)(1 - s)          s [T x L] in 0..1 of the policy net, α < 1 keeps it curious
///   u ~ Bernoulli(s'),  u° = [s >= 1/2]
///   R(u) = 1 - (|u| / L)² where the row came out right, else -γ
///   L = -mean (R(u) - R(u°)) log π(u),  log π = Σ u log s' + (1 - u) log(1 - s')
///
/// Wu et al., "BlockDrop: dynamic inference paths in residual networks", arXiv:1711.08393, section
/// 3.2. Train the last blocks first: those before them forced to 1.

#include <cmath>
#include <span>
#include <string>

#include <limen/core/denormals.hpp>
#include <limen/core/random.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

struct BlockDropOptions {
  double alpha = 0.8;    ///< α, above 1/2
  double gamma = 5;      ///< γ, what a wrong row costs
  double curiosity = 0;  ///< β, times the mean entropy of s'
};

/// ran: how many of `blocks`. 3 of 6, right: 0.75.
inline double block_drop_reward(Index ran, Index blocks, bool right, double gamma) {
  const double share = static_cast<double>(ran) / static_cast<double>(blocks);
  return right ? 1 - share * share : -gamma;
}

/// u [T x L], 0 or 1, from logits a, s = σ(a).
template <class Real, Index L>
Sequence<Real, L> block_drop_sample(SequenceView<Real, L> a, Random& random,
                                    const BlockDropOptions& options = {}) {
  Sequence<Real, L> u(a.rows());
  for (Index t = 0; t < a.rows(); ++t) {
    for (Index l = 0; l < L; ++l) {
      const double s = 1 / (1 + std::exp(-static_cast<double>(a(t, l))));
      u(t, l) = Real(random.uniform() < (2 * options.alpha - 1) * s + 1 - options.alpha);
    }
  }
  return u;
}

/// advantage [T]: R(u) - R(u°). dy: in the logits a.
template <class Real, Index L>
Loss<Real, L> block_drop_loss(SequenceView<Real, L> a, SequenceView<Real, L> u,
                              std::span<const double> advantage,
                              const BlockDropOptions& options = {}) {
  if (!(options.alpha > 0.5 && options.alpha <= 1)) {
    fail({"BlockDropOptions: .alpha", "above 0.5, to 1", std::to_string(options.alpha)});
    return {};
  }
  if (u.rows() != a.rows() || static_cast<Index>(advantage.size()) != a.rows()) {
    fail({"block_drop_loss: rows of u, advantages", std::to_string(a.rows()) + " each",
          std::to_string(u.rows()) + ", " + std::to_string(advantage.size())});
    return {};
  }
  const FlushDenormals guard;
  Loss<Real, L> loss;
  loss.weight = static_cast<double>(a.rows());
  loss.dy = Sequence<Real, L>(a.rows());
  const double mean = a.rows() > 0 ? 1 / static_cast<double>(a.rows()) : 0;
  const double slope = 2 * options.alpha - 1;  // ds'/ds
  for (Index t = 0; t < a.rows(); ++t) {
    const double reward = advantage[static_cast<std::size_t>(t)];
    for (Index l = 0; l < L; ++l) {
      const double s = 1 / (1 + std::exp(-static_cast<double>(a(t, l))));
      const double p = slope * s + 1 - options.alpha, own = u(t, l) > 0 ? p : 1 - p;
      const double log_p = std::log(p), log_q = std::log1p(-p);
      double d = own > 0 ? -reward * (u(t, l) > 0 ? 1 : -1) / own : 0;
      if (own > 0) loss.value -= mean * reward * std::log(own);
      if (options.curiosity > 0 && p > 0 && p < 1) {
        loss.value += mean * options.curiosity * (p * log_p + (1 - p) * log_q);
        d += options.curiosity * (log_p - log_q);
      }
      loss.dy(t, l) = static_cast<Real>(mean * d * slope * s * (1 - s));
    }
  }
  return loss;
}

}  // namespace limen::inline LIMEN_ABI
