#pragma once
/// @file  A threshold with a guarantee: leaving early costs at most δ, but for a chance of ε.
///
///   R(t) in 0..1, mean over n rows that were not trained on; p(t) = exp(-2 n max(0, δ - R(t))²)
///   from the safest threshold on as long as p <= ε; the last one that passed
///
/// Rows and thresholds are not tested twice, so the order needs no correction (Angelopoulos et al.,
/// Learn then Test, arXiv:2110.01052; CALM, arXiv:2207.07061, section 3.5).

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <limen/exit/budget.hpp>

namespace limen::inline LIMEN_ABI {

struct RiskOptions {
  double most = 0.02;    ///< δ
  double chance = 0.05;  ///< ε
};

/// Hoeffding's bound on how likely so small a mean is if the risk were δ.
inline double risk_p_value(double mean, double rows, double most) {
  const double less = std::max(0.0, most - mean);
  return std::exp(-2 * rows * less * less);
}

/// thresholds: the safest first. risk(t): mean loss of `rows` rows. Infinity where none passes.
template <class Risk>
Result<double> threshold_for_risk(std::span<const double> thresholds, std::size_t rows, Risk risk,
                                  const RiskOptions& options = {}) {
  if (!(options.most > 0 && options.most <= 1 && options.chance > 0 && options.chance < 1)) {
    return Error{"RiskOptions: .most, .chance", "above 0, to 1, and between 0 and 1",
                 std::to_string(options.most) + ", " + std::to_string(options.chance)};
  }
  const double n = static_cast<double>(rows);
  if (risk_p_value(0, n, options.most) > options.chance) {
    const double needed = std::log(1 / options.chance) / (2 * options.most * options.most);
    return Error{"threshold_for_risk: rows",
                 std::to_string(static_cast<long>(std::ceil(needed))) + " or more, to tell so much",
                 std::to_string(rows)};
  }
  double passed = detail::nobody;
  for (const double t : thresholds) {
    const double mean = risk(t);
    if (!(mean >= 0 && mean <= 1)) {
      return Error{"threshold_for_risk: risk", "0 to 1", std::to_string(mean)};
    }
    if (risk_p_value(mean, n, options.most) > options.chance) break;
    passed = t;
  }
  return passed;
}

/// One threshold for all exits such that accuracy falls by at most δ: the loss of a row is 1 where
/// the last head is right and the one where it leaves is not. `thresholds`: the safest first; none:
/// 1, 0.99, ..., 0.
inline Result<double> threshold_for_accuracy_drop(const ExitRecord& record,
                                                  const RiskOptions& options = {},
                                                  std::vector<double> thresholds = {}) {
  if (thresholds.empty()) {
    for (int i = 100; i >= 0; --i) thresholds.push_back(i / 100.0);
  }
  return threshold_for_risk(
      thresholds, record.rows(),
      [&](double t) {
        double lost = 0;
        for (std::size_t i = 0; i < record.rows(); ++i) {
          std::size_t k = 0;
          while (k + 1 < record.exits() && !(record.confidence[k][i] >= t)) ++k;
          lost += record.correct.back()[i] != 0 && record.correct[k][i] == 0;
        }
        return lost / static_cast<double>(record.rows());
      },
      options);
}

}  // namespace limen::inline LIMEN_ABI
