#pragma once
/// @file  A threshold that follows the cost of a service.

#include <algorithm>
#include <string>

#include <limen/core/error.hpp>

namespace limen::inline LIMEN_ABI {

/// Holds the mean cost of a service at its budget while the data drifts:
///   λ <- clamp(λ + η (mean cost - budget), 0, 1),  threshold = strict + λ (loose - strict)
/// with a moving average of the cost, each as a share of the dearest. λ is kept in 0..1, so that it
/// comes back at once after a time in which the budget could not be met.
struct BudgetController {
  double budget = 0.5;               ///< share of the dearest exit's cost
  double strict = 1.0, loose = 0.0;  ///< thresholds at λ = 0 and 1
  double rate = 0.1;                 ///< η
  double memory = 0.9;               ///< of the moving average
  double lambda = 0, mean = 0, weight = 0;

  Status check() const {
    if (!(budget > 0 && budget <= 1)) {
      return Error{"BudgetController: .budget", "above 0, to 1", std::to_string(budget)};
    }
    if (!(memory >= 0 && memory < 1)) {
      return Error{"BudgetController: .memory", "0 to below 1", std::to_string(memory)};
    }
    return {};
  }
  double threshold() const noexcept { return strict + lambda * (loose - strict); }

  /// `cost`: of the latest rows, as a share.
  void update(double cost) noexcept {
    mean = memory * mean + (1 - memory) * cost;
    weight = memory * weight + (1 - memory);
    lambda = std::clamp(lambda + rate * (mean / weight - budget), 0.0, 1.0);
  }
};

}  // namespace limen::inline LIMEN_ABI
