#pragma once
/// @file  Costs of exits, and prices on them.
///
///   C [K] ascends: what a row has cost when it leaves at exit k, all before it included. One
///   multiply-accumulate is 1 (exit_macs), not 2; or nanoseconds (measure_exit_ns)
///
///   expected_cost    E = Σ_k P_k C_k
///   cost_penalty     linear  λ E / C_K
///                    hinge   λ max(0, E / C_K - b)²
///                    target  λ (E / C_K - b)²          each with its slope in P_k

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <limen/core/error.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

inline Status check_costs(std::span<const double> cost) {
  if (cost.empty()) return Error{"budget: costs", "one for each exit", "none"};
  for (std::size_t k = 0; k < cost.size(); ++k) {
    if (!(cost[k] >= (k == 0 ? 0 : cost[k - 1])) || std::isinf(cost[k])) {
      return Error{"cost of exit " + std::to_string(k), "0 or more, and ascending",
                   std::to_string(cost[k])};
    }
  }
  return {};
}

inline std::string budget_range(std::span<const double> cost) {
  return std::to_string(cost.front()) + " (all leave at the first exit) to " +
         std::to_string(cost.back()) + " (none leaves early)";
}

inline Status check_budget(std::span<const double> cost, double budget) {
  if (const Status sound = check_costs(cost); !sound) return sound;
  if (budget >= cost.front() && budget <= cost.back()) return {};
  return Error{"budget", budget_range(cost), std::to_string(budget)};
}

}  // namespace detail

/// p [K] sums to 1: what exit_law gives, or shares of rows.
inline double expected_cost(std::span<const double> p, std::span<const double> cost) {
  return std::inner_product(p.begin(), p.end(), cost.begin(), 0.0);
}

enum class CostPrice { linear, hinge, target };

struct CostPenaltyOptions {
  CostPrice price = CostPrice::linear;
  double lambda = 1;
  double budget = 1;  ///< b, a share of the dearest; not for `linear`
};

struct CostPenalty {
  double value = 0;
  std::vector<double> slope;  ///< [K], in P_k
};

inline Result<CostPenalty> cost_penalty(std::span<const double> p, std::span<const double> cost,
                                        const CostPenaltyOptions& options = {}) {
  if (const Status sound = detail::check_costs(cost); !sound) return sound.error();
  if (p.size() != cost.size()) {
    return Error{"cost_penalty: costs", std::to_string(p.size()) + ", one for each exit",
                 std::to_string(cost.size())};
  }
  const double whole = cost.back(), b = options.budget;
  if (options.price != CostPrice::linear && !(b >= cost.front() / whole && b <= 1)) {
    return Error{"cost_penalty: .budget",
                 std::to_string(cost.front() / whole) + " (all leave at the first exit) to 1",
                 std::to_string(b)};
  }
  const double over = expected_cost(p, cost) / whole - b;
  CostPenalty found;
  double slope = options.lambda;  // in E / C_K
  if (options.price == CostPrice::linear) {
    found.value = options.lambda * (over + b);
  } else {
    const double e = options.price == CostPrice::hinge ? std::max(0.0, over) : over;
    found.value = options.lambda * e * e;
    slope *= 2 * e;
  }
  for (const double c : cost) found.slope.push_back(slope * c / whole);
  return found;
}

}  // namespace limen::inline LIMEN_ABI
