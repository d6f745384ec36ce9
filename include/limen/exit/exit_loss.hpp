#pragma once
/// @file  What all heads of an EarlyExit do wrong, together.
///
///   L = Σ_k w_k ((1 - α_k) CE(z_k, label) + α_k τ² KL(softmax(z_K / τ) ‖ softmax(z_k / τ)))
///
///   y [T x K C], all heads side by side;  α_K = 0, else .distill: what the last head thinks is a
///   target for the others, and constant.  dz_k = w_k ((1 - α)(p - onehot) + α τ (p^τ - q^τ)) / T
///
/// w: equal (MSDNet, arXiv:1703.09844), rising k / Σ k with k from 1 (PABEE, arXiv:2006.04152),
/// doubling 2^(k-1) / Σ (CALM, arXiv:2207.07061), falling K - k + 1 (JEI-DNN, arXiv:2310.09163).
/// Rising and doubling sum to 1, equal to K, falling to more: a learning rate for one is not one
/// for the others. Distillation: Hinton et al., arXiv:1503.02531.

#include <algorithm>
#include <array>
#include <string>

#include <limen/kernel/rows.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

template <Index K>
using ExitWeights = std::array<double, std::size_t{K}>;

template <Index K>
constexpr ExitWeights<K> equal_weights() {
  ExitWeights<K> w{};
  w.fill(1);
  return w;
}

template <Index K>
constexpr ExitWeights<K> rising_weights() {
  ExitWeights<K> w{};
  for (std::size_t k = 0; k < w.size(); ++k) {
    w[k] = static_cast<double>(k + 1) / (static_cast<double>(K) * static_cast<double>(K + 1) / 2);
  }
  return w;
}

template <Index K>
constexpr ExitWeights<K> falling_weights() {
  ExitWeights<K> w{};
  for (std::size_t k = 0; k < w.size(); ++k) w[k] = static_cast<double>(K) - static_cast<double>(k);
  return w;
}

template <Index K>
constexpr ExitWeights<K> doubling_weights() {
  ExitWeights<K> w{};
  double sum = 0;
  for (std::size_t k = 0; k < w.size(); ++k) sum += w[k] = k == 0 ? 1 : 2 * w[k - 1];
  for (double& v : w) v /= sum;
  return w;
}

template <Index K>
struct ExitLossOptions {
  ExitWeights<K> weights = equal_weights<K>();
  double distill = 0;      ///< α, the share of the last head in what the others learn
  double temperature = 1;  ///< τ
  CrossEntropyOptions labels{};
};

namespace detail {

template <Index K>
bool check_exit_loss(const ExitLossOptions<K>& o) {
  double sum = 0;
  for (const double w : o.weights) {
    if (!(w >= 0)) {
      fail({"exit_loss: .weights", "0 or more", std::to_string(w)});
      return false;
    }
    sum += w;
  }
  if (!(sum > 0)) {
    fail({"exit_loss: .weights", "one that is not 0", "none"});
    return false;
  }
  if (!(o.distill >= 0 && o.distill <= 1)) {
    fail({"exit_loss: .distill", "0 to 1", std::to_string(o.distill)});
    return false;
  }
  if (!(o.temperature > 0)) {
    fail({"exit_loss: .temperature", "more than 0", std::to_string(o.temperature)});
    return false;
  }
  return true;
}

/// dz += scale τ (softmax(z / τ) - q); gives Σ KL(q ‖ softmax(z / τ)).
template <class Real, Index C>
double add_distillation(MatrixView<const Real> z, const Sequence<Real, C>& q, double tau,
                        MatrixView<Real> dz, double scale) {
  Sequence<Real, C> softer(z.rows), d(z.rows);
  copy_rows<Real>(z, softer.matrix());
  scale_scores(softer.data(), softer.size(), 1 / tau);
  const auto& given = softer;
  const double loss = kl_divergence<Real>(given.matrix(), q.matrix(), d.matrix(), scale * tau);
  add_rows<Real>(d.matrix(), dz);
  return loss;
}

}  // namespace detail

/// y [T x K C], labels [T].  `exit_loss<3>(y, labels, {.weights = rising_weights<3>()})`
template <Index K, class Real, Index D>
Loss<Real, D> exit_loss(SequenceView<Real, D> y, std::span<const int> labels,
                        const std::type_identity_t<ExitLossOptions<K>>& options = {}) {
  static_assert(K > 0 && D % K == 0, "exit_loss: y must have all K heads side by side");
  constexpr Index C = D / K;
  const Index count = detail::check_labels(labels, y.rows(), C, options.labels.ignore);
  if (count < 0 || !detail::check_exit_loss<K>(options)) return {};
  const FlushDenormals guard;
  Loss<Real, D> loss;
  loss.dy = Sequence<Real, D>(y.rows());
  loss.weight = static_cast<double>(count);
  loss.reduction = options.labels.reduction;
  const double mean =
      loss.reduction == Reduction::mean && count > 0 ? 1 / static_cast<double>(count) : 1;
  const double alpha = options.distill, tau = options.temperature;

  Sequence<Real, C> q(alpha > 0 ? y.rows() : 0);  // of the last head; 0 in rows that do not count
  for (Index t = 0; t < q.rows(); ++t) {
    Real* to = q.row_data(t);
    if (labels[static_cast<std::size_t>(t)] == options.labels.ignore) {
      std::fill_n(to, C, Real(0));
      continue;
    }
    std::copy_n(y.row(t).data() + (K - 1) * C, C, to);
    detail::scale_scores(to, C, 1 / tau);
    softmax_row(to, to, C);
  }
  for (Index k = 0; k < K; ++k) {
    const auto z = y.matrix().middle_cols(k * C, C);
    const auto dz = loss.dy.matrix().middle_cols(k * C, C);
    const double w = options.weights[static_cast<std::size_t>(k)] * mean;
    const double a = k + 1 < K ? alpha : 0;
    loss.value +=
        w * (1 - a) * detail::cross_entropy<Real>(z, labels, dz, options.labels, w * (1 - a));
    if (a > 0) {
      loss.value += w * a * tau * tau * detail::add_distillation<Real, C>(z, q, tau, dz, w * a);
    }
  }
  return loss;
}

template <Index K, class Real, Index D>
Loss<Real, D> exit_loss(const Sequence<Real, D>& y, std::span<const int> labels,
                        const std::type_identity_t<ExitLossOptions<K>>& options = {}) {
  return exit_loss<K>(SequenceView<Real, D>(y), labels, options);
}

}  // namespace limen::inline LIMEN_ABI
