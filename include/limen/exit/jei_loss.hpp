#pragma once
/// @file  What exit gates and the heads they choose between do wrong: JEI-DNN.
///
///   gates, heads fixed    J_l = e_l + λ c_l,  τ = argmin J,  t_l = [τ <= l]        l = 1..G
///                         L = mean over rows and gates of m_l BCE(a_l, t_l),  m_l = t_l r_l + 1 -
///                         t_l da_l = m_l (σ(a_l) - t_l) / (T G)
///   heads, gates fixed    L = mean over rows of Σ_{l <= G} P(E = l) CE(z_l)
///                         dz_l = P(E = l) (p_l - onehot) / T
///
///   y [T x K C], all heads side by side;  c [K] ascends to 1;  r [G], see `jei_balance`
///
/// The paper's text weighs heads by P. A row that leaves late then has less say, so the code beside
/// it divides by the weights that are there: ρ = Σ CE / Σ P CE. Unless ρ is a constant the weights
/// cancel and what is left is the mean of all heads; here it is (`detached_ratio`), with a mean
/// over rows and gates as there. Chataoui & Coates, arXiv:2310.09163, equations 4 to 9.

#include <array>
#include <cmath>
#include <string>

#include <limen/exit/exit_gates.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

/// e_l
enum class JeiError {
  cross_entropy,  ///< CE(z_l)
  correct,        ///< -[right]
  confident       ///< -max p [right]
};

enum class JeiNormalise {
  none,           ///< weights are P
  detached_ratio  ///< ρ P / G, ρ constant
};

template <Index K>
struct JeiOptions {
  std::array<double, std::size_t{K}> cost{};  ///< c, of the whole network's (jei_costs)
  double lambda = 0.15;                       ///< λ, the price of the whole network
  JeiError error = JeiError::cross_entropy;
  std::array<double, std::size_t{K - 1}> balance = [] {  ///< r
    std::array<double, std::size_t{K - 1}> r;
    r.fill(1);
    return r;
  }();
  JeiNormalise normalise = JeiNormalise::detached_ratio;
};

template <Index K>
Status check_jei(const JeiOptions<K>& o, Index classes) {
  if (classes < 2) return Error{"JeiOptions: classes", "2 or more", std::to_string(classes)};
  if (!(o.lambda >= 0)) return Error{"JeiOptions: .lambda", "0 or more", std::to_string(o.lambda)};
  for (std::size_t k = 0; k < o.cost.size(); ++k) {
    if (!(o.cost[k] > (k == 0 ? 0 : o.cost[k - 1])) ||
        (k + 1 == K && std::abs(o.cost[k] - 1) > 1e-9)) {
      return Error{"JeiOptions: .cost of exit " + std::to_string(k),
                   k + 1 == K ? "1, the whole network" : "more than that of the exit before",
                   std::to_string(o.cost[k])};
    }
  }
  return {};
}

/// c [K] of a network: what has run when a row leaves there, the heads and gates on its way
/// included, as a share of the whole.
template <class Costs>
constexpr Costs jei_costs(Costs macs, Index classes) {
  const std::size_t last = macs.size() - 1;
  for (std::size_t k = 0; k < macs.size(); ++k) {
    const auto gates = static_cast<double>(std::min(k + 1, last));
    macs[k] += gates * static_cast<double>(ExitGates<1>::macs(classes));
  }
  for (std::size_t k = 0; k < last; ++k) macs[k] /= macs[last];
  macs[last] = 1;
  return macs;
}

namespace detail {

/// Where a row should leave, from 0.
template <Index K, class Real>
std::size_t jei_best(const Real* z, Index C, int label, const JeiOptions<K>& o) {
  std::size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t k = 0; k < K; ++k) {
    const std::span<const Real> row(z + static_cast<Index>(k) * C, static_cast<std::size_t>(C));
    double e = 0;
    if (o.error == JeiError::cross_entropy) {
      const Real m = score_shift(row);
      e = std::log(partition(row, m)) +
          static_cast<double>(m - row[static_cast<std::size_t>(label)]);
    } else if (predicted_class(row) == label) {
      e = o.error == JeiError::correct ? -1 : -max_probability(row);
    }
    const double j = e + o.lambda * o.cost[k];
    if (j < least) {
      least = j;
      best = k;
    }
  }
  return best;
}

}  // namespace detail

struct JeiGateLoss {
  double value = 0;
  Index rows = 0;  ///< that counted; 0 after an error
};

/// Adds to `gradient`.  `jei_gate_loss(gates, y, labels, {.cost = c}, gradient)`
template <Index G, class Real, Index D>
JeiGateLoss jei_gate_loss(const ExitGates<G, Real>& gates, SequenceView<Real, D> y,
                          std::span<const int> labels, const JeiOptions<G + 1>& options,
                          ExitGates<G, Real>& gradient) {
  constexpr Index K = G + 1, C = D / K;
  static_assert(D % K == 0, "jei_gate_loss: y must have a head for each gate and one more");
  JeiGateLoss loss;
  if (const Status fits = check_jei(options, C); !fits) {
    fits.value();
    return loss;
  }
  const Index count = detail::check_labels(labels, y.rows(), C, -1);
  if (count <= 0) return loss;
  loss.rows = count;
  const double each = 1 / static_cast<double>(count * G);
  for (Index t = 0; t < y.rows(); ++t) {
    const int label = labels[static_cast<std::size_t>(t)];
    if (label < 0) continue;
    const Real* z = y.row(t).data();
    const std::size_t tau = detail::jei_best<K>(z, C, label, options);
    for (Index l = 0; l < G; ++l) {
      const auto at = static_cast<std::size_t>(l);
      const auto f = exit_features(std::span<const Real>(z + l * C, std::size_t{C}));
      const double a = gates.logit(l, f), t_l = tau <= at ? 1 : 0;
      const double m = each * (t_l > 0 ? options.balance[at] : 1);
      loss.value += m * (std::max(a, 0.0) + std::log1p(std::exp(-std::abs(a))) - a * t_l);
      const double da = m * (ExitGates<G, Real>::sigmoid(a) - t_l);
      for (Index i = 0; i < 4; ++i) {
        gradient.weight(l, i) += static_cast<Real>(da * f[static_cast<std::size_t>(i)]);
      }
      gradient.bias[l] += static_cast<Real>(da);
    }
  }
  return loss;
}

/// r [G] from validation data: rows that should leave at l are few at some l.
///   n_l = rows with τ = l, at least 0.1,   r_l = min((T - n_l) / n_l, 5)
template <Index K, class Real, Index D>
std::array<double, std::size_t{K - 1}> jei_balance(SequenceView<Real, D> y,
                                                   std::span<const int> labels,
                                                   const JeiOptions<K>& options) {
  constexpr Index C = D / K;
  auto r = options.balance;
  const Index count = detail::check_labels(labels, y.rows(), C, -1);
  if (count <= 0) return r;
  std::array<double, std::size_t{K}> n{};
  for (Index t = 0; t < y.rows(); ++t) {
    const int label = labels[static_cast<std::size_t>(t)];
    if (label >= 0) ++n[detail::jei_best<K>(y.row(t).data(), C, label, options)];
  }
  for (std::size_t l = 0; l < r.size(); ++l) {
    const double own = std::max(n[l], 0.1);
    r[l] = std::min((static_cast<double>(count) - own) / own, 5.0);
  }
  return r;
}

/// The last head has no gradient: it is frozen like the layers.
template <Index G, class Real, Index D>
Loss<Real, D> jei_head_loss(const ExitGates<G, Real>& gates, SequenceView<Real, D> y,
                            std::span<const int> labels,
                            JeiNormalise normalise = JeiNormalise::detached_ratio) {
  constexpr Index K = G + 1, C = D / K;
  static_assert(D % K == 0, "jei_head_loss: y must have a head for each gate and one more");
  const Index count = detail::check_labels(labels, y.rows(), C, -1);
  if (count < 0) return {};
  const FlushDenormals guard;
  Loss<Real, D> loss;
  loss.dy = Sequence<Real, D>::zeros(y.rows());
  loss.weight = static_cast<double>(count);
  for (Index t = 0; t < y.rows(); ++t) {
    const int label = labels[static_cast<std::size_t>(t)];
    if (label < 0) continue;
    const Real* z = y.row(t).data();
    Real* dz = loss.dy.row_data(t);
    const auto p = exit_law(gates.open(z, C));
    double plain = 0, weighted = 0;
    for (Index l = 0; l < G; ++l) {
      const double ce = detail::cross_entropy<Real>(MatrixView<const Real>{z + l * C, 1, C, C},
                                                    std::span<const int>(&label, 1),
                                                    MatrixView<Real>{dz + l * C, 1, C, C}, {}, 1);
      plain += ce;
      weighted += p[static_cast<std::size_t>(l)] * ce;
    }
    double by = 1 / static_cast<double>(count);
    if (normalise == JeiNormalise::detached_ratio) {
      by *= weighted > 0 ? plain / weighted / static_cast<double>(G) : 0;
    }
    loss.value += by * weighted;
    for (Index l = 0; l < G; ++l) {
      detail::scale_scores(dz + l * C, C, by * p[static_cast<std::size_t>(l)]);
    }
  }
  return loss;
}

template <Index G, class Real, Index D>
Loss<Real, D> jei_head_loss(const ExitGates<G, Real>& gates, const Sequence<Real, D>& y,
                            std::span<const int> labels,
                            JeiNormalise normalise = JeiNormalise::detached_ratio) {
  return jei_head_loss(gates, SequenceView<Real, D>(y), labels, normalise);
}

}  // namespace limen::inline LIMEN_ABI
