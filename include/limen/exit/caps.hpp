#pragma once
/// @file  Budgets that no input can exceed, whatever it makes the network believe.
///
///     any_of(ConfidenceAtLeast{0.9}, RowBudget{exit_macs<Net>(), 3e5})        each row for itself
///     BatchBudget{ConfidenceAtLeast{0.9}, exit_macs<Net>(), 3e5}              the mean of a batch
///
/// A row budget is a depth that no row passes. A batch budget lets hard rows have what easy ones
/// have saved: with n_j rows gone at exit j and n here at exit k, of those that want to stay
///
///   s = ⌊(N budget - Σ_j n_j C_j - n C_k) / (C_{k+1} - C_k)⌋
///
/// may, and the surest of the others go; so one row's way depends on who else is there. C counts
/// all heads: what a run costs is at most that. The answer to inputs made to be slow
/// (exit/slowdown.hpp).

#include <array>
#include <cmath>

#include <limen/exit/costs.hpp>
#include <limen/exit/policies.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
inline Status check_cap(const char* who, std::span<const double> cost, double budget, Index exits) {
  if (static_cast<Index>(cost.size()) != exits) {
    return Error{std::string(who) + ": costs", std::to_string(exits) + ", one for each exit",
                 std::to_string(cost.size())};
  }
  if (const Status sound = check_costs(cost); !sound) return sound;
  if (budget >= cost.front()) return {};
  return Error{std::string(who) + ": budget", budget_range(cost), std::to_string(budget)};
}
}  // namespace detail

/// Leaves where the next exit would cost more than a row may.
template <std::size_t K>
struct RowBudget {
  std::array<double, K> cost;
  double budget;

  template <class Real>
  bool operator()(std::span<const Real>, Index k) const noexcept {
    return asks(k);
  }
  bool asks(Index k) const noexcept { return cost[static_cast<std::size_t>(k) + 1] > budget; }
  Status check(Index exits, Index) const {
    return detail::check_cap("RowBudget", cost, budget, exits);
  }
};
template <std::size_t K>
RowBudget(std::array<double, K>, double) -> RowBudget<K>;

template <class Policy, std::size_t K>
struct BatchBudget {
  Policy policy;
  std::array<double, K> cost;
  double budget;  ///< mean of the rows

  using Memory = exit_memory<Policy>;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k, Memory& row,
                  std::span<const Real> h = {}) const {
    return leaves(policy, z, k, row, h);
  }
  template <class Real>
    requires detail::reads_sums<Policy, Real>
  bool by_sums(const RowSums<Real>& z, Index k, Memory& row) const {
    return detail::leaves_by_sums(policy, z, k, row);
  }
  Index may_stay(std::span<const Index> left, Index here, Index k) const noexcept {
    const auto at = static_cast<std::size_t>(k);
    double spent = static_cast<double>(here) * cost[at], rows = static_cast<double>(here);
    for (std::size_t j = 0; j < left.size(); ++j) {
      spent += static_cast<double>(left[j]) * cost[j];
      rows += static_cast<double>(left[j]);
    }
    const double more = cost[at + 1] - cost[at], free = rows * budget - spent;
    if (!(free > 0)) return more > 0 ? 0 : here;
    return free >= more * static_cast<double>(here) ? here : static_cast<Index>(free / more);
  }
  Status check(Index exits, Index classes) const {
    if (const Status fits = detail::check_cap("BatchBudget", cost, budget, exits); !fits) {
      return fits;
    }
    return check_exits(policy, exits, classes);
  }
};
template <class Policy, std::size_t K>
BatchBudget(Policy, std::array<double, K>, double) -> BatchBudget<Policy, K>;

}  // namespace limen::inline LIMEN_ABI
