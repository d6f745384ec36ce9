#pragma once
/// @file  Inputs that keep every exit closed: how slow can somebody make this network?
///
///     const auto slow = slowdown_attack(net, x, {.least = 0, .greatest = 1});
///     exit_efficacy(net.run(x, {}, policy), cost), exit_efficacy(net.run(slow, {}, policy), cost)
///
///   L = Σ_{k<K} CE(uniform, p_k) + keep CE(p_K, what the last head said of x)
///       CE(uniform, p) = -1/C Σ_c log p_c,     dz_k = p_k - 1/C
///   x <- clip(x - step sign(dL/dx))  to |x - x_0| <= radius and to the range of inputs
///
/// Rows are attacked each for itself, or by one offset for all of them (`universal`). To learn from
/// such rows, `slowdown_loss` is a loss like others. Hong et al., DeepSloth, arXiv:2010.02432,
/// section 5. What holds against it: exit/caps.hpp.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <limen/exit/costs.hpp>
#include <limen/exit/early_exit.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

struct SlowdownOptions {
  double radius = 1.0 / 32;
  double step = 0.002;
  Index steps = 30;
  double keep = 0;  ///< how much the last head should still say what it said
  bool universal = false;
  /// The range of inputs must be said: what lies outside is no input.
  double least = std::numeric_limits<double>::quiet_NaN();
  double greatest = std::numeric_limits<double>::quiet_NaN();
  std::uint64_t seed = 0;
};

/// y [T x K C]; labels [T] for `keep`, else none. The sum over rows, not the mean.
template <Index K, class Real, Index D>
Loss<Real, D> slowdown_loss(SequenceView<Real, D> y, std::span<const int> labels = {},
                            double keep = 0) {
  static_assert(K >= 2, "slowdown_loss: a network with one exit cannot be slowed down");
  static_assert(D % K == 0, "slowdown_loss: y must have all K heads side by side");
  constexpr Index C = D / K;
  const FlushDenormals guard;
  Loss<Real, D> loss;
  loss.reduction = Reduction::sum;
  loss.weight = static_cast<double>(y.rows());
  loss.dy = Sequence<Real, D>::zeros(y.rows());
  for (Index t = 0; t < y.rows(); ++t) {
    for (Index k = 0; k + 1 < K; ++k) {
      const Real* z = y.row(t).data() + k * C;
      Real* dz = loss.dy.row_data(t) + k * C;
      const double log_sum = softmax_row(z, dz, C);
      double mean = 0;
      for (Index c = 0; c < C; ++c) {
        mean += static_cast<double>(z[c]) / static_cast<double>(C);
        dz[c] -= Real(1) / Real(C);
      }
      loss.value += log_sum - mean;
    }
  }
  if (keep > 0) {
    if (detail::check_labels(labels, y.rows(), C, -1) < 0) return {};
    loss.value +=
        keep * detail::cross_entropy<Real>(y.matrix().middle_cols((K - 1) * C, C), labels,
                                           loss.dy.matrix().middle_cols((K - 1) * C, C), {}, keep);
  }
  return loss;
}

namespace detail {

/// The same network with the slopes of a loss, whatever it is trained with.
template <class Net>
struct PlainExits;
template <EarlyExitConfig C, class... Parts>
struct PlainExits<EarlyExitWith<C, Parts...>> {
  using type = EarlyExitWith<EarlyExitConfig{}, Parts...>;
};

inline bool check_slowdown(const SlowdownOptions& o) {
  if (!(o.least < o.greatest)) {
    fail({"slowdown_attack: .least, .greatest", "the range of inputs, one below the other",
          std::to_string(o.least) + ", " + std::to_string(o.greatest)});
    return false;
  }
  if (!(o.radius >= 0) || !(o.step > 0) || o.steps < 0 || !(o.keep >= 0)) {
    fail({"slowdown_attack: .radius, .step, .steps, .keep", "0 or more, above 0, 0 or more twice",
          std::to_string(o.radius) + ", " + std::to_string(o.step) + ", " +
              std::to_string(o.steps) + ", " + std::to_string(o.keep)});
    return false;
  }
  return true;
}

}  // namespace detail

/// x [T x in] as inputs come -> the same a little off. The learning form of the network: it needs
/// backward. Layers with memory see the rows as one sequence from rest.
template <class Net>
Sequence<typename Net::Scalar, Net::in> slowdown_attack(
    const Net& net, SequenceView<typename Net::Scalar, Net::in> x, const SlowdownOptions& options) {
  using Real = typename Net::Scalar;
  using Plain = typename detail::PlainExits<Net>::type;
  constexpr Index K = Net::exits, C = Net::classes, D = Net::in;
  if (!detail::check_slowdown(options)) return {};
  const Plain plain{net.parts};
  const auto least = static_cast<Real>(options.least);
  const auto greatest = static_cast<Real>(options.greatest);
  const auto radius = static_cast<Real>(options.radius);
  const auto step = static_cast<Real>(options.step);

  std::vector<int> said;
  const auto clean = forward(plain, x);
  for (Index t = 0; t < x.rows(); ++t) {
    const std::span<const Real> z(clean.row(t).data() + (K - 1) * C, std::size_t{C});
    said.push_back(static_cast<int>(predicted_class(z)));
  }
  Sequence<Real, D> offset(options.universal ? 1 : x.rows());
  Random random(options.seed);
  for (Index i = 0; i < offset.size(); ++i) {
    offset.data()[i] =
        std::clamp(static_cast<Real>(random.uniform(-options.step, options.step)), -radius, radius);
  }
  const auto moved = [&] {
    Sequence<Real, D> at(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      const Real* by = offset.row(options.universal ? 0 : t).data();
      for (Index d = 0; d < D; ++d) at(t, d) = std::clamp(x(t, d) + by[d], least, greatest);
    }
    return at;
  };
  for (Index n = 0; n < options.steps; ++n) {
    typename Plain::Cache cache;
    Plain ignored;
    const auto y = forward(plain, moved(), cache);
    const auto loss = slowdown_loss<K>(SequenceView<Real, Net::out>(y), said, options.keep);
    auto slope = backward(plain, loss.dy, cache, ignored);
    if (options.universal) {
      for (Index t = 1; t < x.rows(); ++t) {
        for (Index d = 0; d < D; ++d) slope(0, d) += slope(t, d);
      }
    }
    for (Index i = 0; i < offset.size(); ++i) {
      const Real g = slope.data()[i];
      const Real way = g > 0 ? step : g < 0 ? -step : Real(0);
      offset.data()[i] = std::clamp(offset.data()[i] - way, -radius, radius);
    }
  }
  return moved();
}

/// Area over the cost that rows were done with: Σ_k share_k (1 - C_k / C_K). 0 where none leaves
/// early, towards 1 where all leave at an exit that costs next to nothing.
template <class Left>
double exit_efficacy(const Left& left, std::span<const double> cost) {
  double sum = 0;
  for (std::size_t k = 0; k < left.count.size(); ++k) {
    sum += static_cast<double>(left.count[k]) * (1 - cost[k] / cost.back());
  }
  return left.exit.size() == 0 ? 0 : sum / static_cast<double>(left.exit.size());
}

/// Of the rows of a run: Σ_k count_k C_k / N.
template <class Left>
double mean_exit_cost(const Left& left, std::span<const double> cost) {
  double sum = 0;
  for (std::size_t k = 0; k < left.count.size(); ++k) {
    sum += static_cast<double>(left.count[k]) * cost[k];
  }
  return left.exit.size() == 0 ? 0 : sum / static_cast<double>(left.exit.size());
}

}  // namespace limen::inline LIMEN_ABI
