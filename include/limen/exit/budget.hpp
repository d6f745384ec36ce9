#pragma once
/// @file  From a budget to thresholds.
///
///     const auto record = record_exits(net, x, {}, labels);            // of validation data
///     auto plan = thresholds_for_budget(record, exit_macs<Net>(), 2e6).value();
///     net.run(x, {}, ConfidenceAtLeast{plan.thresholds});
///
///   cost C_k ascends, [K]: multiply-accumulates (exit_macs), or nanoseconds (measure_exit_ns)
///   share of exit k:  π_k = q^k / Σ q^j,   expected cost  E(q) = Σ π_k C_k  ascends with q
///
/// Shares by q and thresholds from them: MSDNet (Huang et al., arXiv:1703.09844, section 5). They
/// are quantiles of the record, so it must not be what is tested on.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <limen/core/sort.hpp>
#include <limen/exit/costs.hpp>
#include <limen/exit/early_exit.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

/// How sure each head was of each row, and whether it was right: [K][N].
struct ExitRecord {
  std::vector<std::vector<double>> confidence;
  std::vector<std::vector<char>> correct;

  std::size_t exits() const { return confidence.size(); }
  std::size_t rows() const { return confidence.empty() ? 0 : confidence[0].size(); }
};

/// All heads on all rows. `score`: the surer the larger, such as max_probability.
template <class Net, class Score>
ExitRecord record_exits(const Net& net, SequenceView<typename Net::Scalar, Net::in> x,
                        Batch<typename Net::State> batch, std::span<const int> labels,
                        Score score) {
  using Real = typename Net::Scalar;
  constexpr Index C = Net::classes;
  if (detail::check_labels(labels, x.rows(), C, -1) < 0) return {};
  const auto y = net.forward(x, batch);
  if (y.rows() != x.rows()) return {};
  ExitRecord record;
  for (Index k = 0; k < Net::exits; ++k) {
    auto& confidence = record.confidence.emplace_back();
    auto& correct = record.correct.emplace_back();
    for (Index t = 0; t < y.rows(); ++t) {
      const std::span<const Real> z(y.row(t).data() + k * C, std::size_t{C});
      confidence.push_back(score(z));
      correct.push_back(predicted_class(z) == labels[static_cast<std::size_t>(t)]);
    }
  }
  return record;
}

template <class Net>
ExitRecord record_exits(const Net& net, SequenceView<typename Net::Scalar, Net::in> x,
                        Batch<typename Net::State> batch, std::span<const int> labels) {
  return record_exits(net, x, batch, labels, [](auto z) { return max_probability(z); });
}

/// What thresholds would do to the rows of a record.
struct ExitOutcome {
  double accuracy = 0, cost = 0;  ///< means over rows
  std::vector<double> share;      ///< of rows that leave at each exit
};

/// thresholds [K - 1]: a row leaves at the first exit where its confidence is at least that.
inline ExitOutcome simulate_exits(const ExitRecord& record, std::span<const double> thresholds,
                                  std::span<const double> cost) {
  ExitOutcome outcome;
  outcome.share.resize(record.exits());
  const double each = 1 / static_cast<double>(record.rows());
  for (std::size_t t = 0; t < record.rows(); ++t) {
    std::size_t k = 0;
    while (k + 1 < record.exits() && !(record.confidence[k][t] >= thresholds[k])) ++k;
    outcome.share[k] += each;
    outcome.cost += each * cost[k];
    outcome.accuracy += record.correct[k][t] != 0 ? each : 0;
  }
  return outcome;
}

namespace detail {

inline constexpr double nobody = std::numeric_limits<double>::infinity();

/// π_k = q^k / Σ q^j
inline std::vector<double> shares_of(std::size_t exits, double log_q) {
  std::vector<double> share(exits);
  const double most = std::max(0.0, log_q * static_cast<double>(exits - 1));
  double sum = 0;
  for (std::size_t k = 0; k < exits; ++k) {
    sum += share[k] = std::exp(log_q * static_cast<double>(k) - most);
  }
  for (double& s : share) s /= sum;
  return share;
}

inline constexpr double most_log_q = 50;

/// The largest log q with f(log q) <= budget, f ascending.
template <class F>
double largest_log_q(double budget, F f) {
  double low = -most_log_q, high = most_log_q;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (f(middle) <= budget ? low : high) = middle;
  }
  return low;
}

}  // namespace detail

/// Shares π [K] of the family q^k whose expected cost is the budget.
inline Result<std::vector<double>> shares_for_budget(std::span<const double> cost, double budget) {
  if (const Status sound = detail::check_budget(cost, budget); !sound) return sound.error();
  std::vector<double> ends(cost.size());
  if (budget == cost.front() || budget == cost.back()) {
    (budget == cost.front() ? ends.front() : ends.back()) = 1;
    return ends;
  }
  return detail::shares_of(cost.size(), detail::largest_log_q(budget, [&](double log_q) {
                             return expected_cost(detail::shares_of(cost.size(), log_q), cost);
                           }));
}

/// Shares by hand: exit k gets `factor` times its share, and the rest of what is left goes to those
/// after it, in their proportions; one exit after the other. As in Dynamic Perceiver (Han et al.,
/// arXiv:2306.11248), which takes 0.85, 1, 0.5, 1.
inline std::vector<double> reshaped_shares(std::vector<double> share,
                                           std::span<const double> factor) {
  double left = 1;
  for (std::size_t k = 0; k + 1 < share.size() && k < factor.size(); ++k) {
    share[k] = std::clamp(share[k] * factor[k], 0.0, left);
    left -= share[k];
    const double after =
        std::accumulate(share.begin() + static_cast<std::ptrdiff_t>(k) + 1, share.end(), 0.0);
    for (std::size_t j = k + 1; j < share.size(); ++j) {
      share[j] =
          after > 0 ? share[j] * left / after : left / static_cast<double>(share.size() - k - 1);
    }
  }
  return share;
}

/// Thresholds of a record of -entropy as EntropyBelow takes them, which is strict.
inline std::vector<double> below(std::vector<double> thresholds) {
  for (double& t : thresholds) {
    t = std::isinf(t) ? -t : std::nextafter(-t, detail::nobody);
  }
  return thresholds;
}

/// Thresholds [K - 1] that send the share π_k of the rows, the surest of those that are left, out
/// at exit k. Equals at a threshold all leave; where too few rows are left nobody does.
inline Result<std::vector<double>> thresholds_for_shares(const ExitRecord& record,
                                                         std::span<const double> share) {
  if (record.rows() == 0) return Error{"record", "one row or more", "none"};
  if (share.size() != record.exits()) {
    return Error{"shares", std::to_string(record.exits()), std::to_string(share.size())};
  }
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  if (!(std::abs(sum - 1) < 1e-9) || !(*std::min_element(share.begin(), share.end()) >= 0)) {
    return Error{"shares", "numbers from 0 on with sum 1", "sum " + std::to_string(sum)};
  }
  std::vector<double> thresholds;
  std::vector<char> gone(record.rows());
  for (std::size_t k = 0; k + 1 < record.exits(); ++k) {
    const auto& confidence = record.confidence[k];
    std::vector<double> left;
    for (std::size_t t = 0; t < gone.size(); ++t) {
      if (!gone[t] && !std::isnan(confidence[t])) left.push_back(confidence[t]);
    }
    // 1e-9: N π that is a whole number, but for rounding
    const auto n = static_cast<std::size_t>(static_cast<double>(gone.size()) * share[k] + 1e-9);
    double threshold = detail::nobody;
    if (n > 0 && n <= left.size()) {
      const auto at = left.begin() + static_cast<std::ptrdiff_t>(n - 1);
      std::nth_element(left.begin(), at, left.end(), std::greater<>());
      threshold = *at;
    }
    thresholds.push_back(threshold);
    for (std::size_t t = 0; t < gone.size(); ++t) gone[t] |= confidence[t] >= threshold;
  }
  return thresholds;
}

struct ExitBudgetPlan {
  Thresholds thresholds;
  ExitOutcome outcome;  ///< on the record
};

/// The thresholds whose measured cost on the record comes nearest to the budget from below: shares
/// alone may miss it where rows are equal or too few. A budget that no thresholds reach is an error
/// that names the range.
inline Result<ExitBudgetPlan> thresholds_for_budget(const ExitRecord& record,
                                                    std::span<const double> cost, double budget) {
  if (cost.size() != record.exits()) {
    return Error{"costs", std::to_string(record.exits()) + ", one for each exit",
                 std::to_string(cost.size())};
  }
  if (record.rows() == 0) return Error{"record", "one row or more", "none"};
  if (const Status sound = detail::check_budget(cost, budget); !sound) return sound.error();
  std::vector<double> best;
  double best_cost = -1;
  const auto measured = [&](const std::vector<double>& thresholds) {
    const double c = simulate_exits(record, thresholds, cost).cost;
    if (c <= budget * (1 + 1e-12) && c > best_cost) {
      best_cost = c;
      best = thresholds;
    }
    return c;
  };
  measured(std::vector<double>(cost.size() - 1, -detail::nobody));  // all leave at once
  measured(std::vector<double>(cost.size() - 1, detail::nobody));
  detail::largest_log_q(budget, [&](double log_q) {
    return measured(*thresholds_for_shares(record, detail::shares_of(cost.size(), log_q)));
  });
  return ExitBudgetPlan{Thresholds(best), simulate_exits(record, best, cost)};
}

/// Thresholds [K - 1] such that the rows above each are right more often than `accuracy`: the last
/// of the rows in falling confidence up to which that holds; the first 10 are too few to tell.
/// Where none does, nobody leaves.
inline Result<std::vector<double>> thresholds_for_accuracy(const ExitRecord& record,
                                                           double accuracy) {
  if (!(accuracy >= 0 && accuracy <= 1)) {
    return Error{"thresholds_for_accuracy: accuracy", "0 to 1", std::to_string(accuracy)};
  }
  std::vector<double> thresholds;
  for (std::size_t k = 0; k + 1 < record.exits(); ++k) {
    const auto& confidence = record.confidence[k];
    std::vector<std::size_t> order;
    for (std::size_t t = 0; t < confidence.size(); ++t) {
      if (!std::isnan(confidence[t])) order.push_back(t);
    }
    sort_by_highest(order, [&](std::size_t t) { return confidence[t]; });
    double threshold = detail::nobody, right = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
      right += record.correct[k][order[i]] != 0;
      if (i >= 10 && right / static_cast<double>(i + 1) > accuracy) {
        threshold = confidence[order[i]];
      }
    }
    thresholds.push_back(threshold);
  }
  return thresholds;
}

/// [K], ascending: nanoseconds per row of x until it leaves at exit k, all heads before it asked.
/// The least of `repeats` runs.
template <class Net>
std::array<double, std::size_t{Net::exits}> measure_exit_ns(
    const Net& net, SequenceView<typename Net::Scalar, Net::in> x,
    Batch<typename Net::State> batch = {}, int repeats = 20) {
  std::array<double, std::size_t{Net::exits}> cost{};
  if (x.rows() == 0) return cost;
  for (std::size_t k = 0; k < cost.size(); ++k) {
    double least = detail::nobody;
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      net.run(x, batch, [k](auto, Index exit) { return exit == static_cast<Index>(k); });
      const std::chrono::duration<double, std::nano> ns = std::chrono::steady_clock::now() - start;
      least = std::min(least, ns.count());
    }
    cost[k] = std::max(least / static_cast<double>(x.rows()), k == 0 ? 0.0 : cost[k - 1]);
  }
  return cost;
}

}  // namespace limen::inline LIMEN_ABI
