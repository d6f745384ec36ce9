#pragma once
/// @file  Rows shared out evenly among experts, so that the sum of their affinities is largest.
///
///   max Σ_t A_{t,e(t)}     with exactly T / E rows for each expert        A [T x E]
///
/// Exact, and of equally good answers the one in which the first rows have the lowest experts
/// (equal: within 1e-12 of the largest affinity). Rows come one at a time, each along the cheapest
/// chain of moves that ends at an expert with room. A move from e to f costs what that row of e
/// loses that minds it least, so a chain is a path among E experts and E² prices are all that is
/// kept: T E² operations, about.
///
/// Kuhn, "The Hungarian method for the assignment problem" (1955), in the form of Jonker &
/// Volgenant (1987): shortest augmenting paths.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>

namespace limen::inline LIMEN_ABI {

class BalancedAssignment {
 public:
  /// A without NaN and infinity; E divides T.
  explicit BalancedAssignment(MatrixView<const double> affinity)
      : a_(affinity),
        rows_(a_.rows),
        experts_(a_.cols),
        expert_(rows_),
        count_(experts_),
        from_(experts_),
        mover_(experts_ * experts_),
        price_(experts_ * experts_),
        distance_(experts_) {
    double most = 0;
    for (Index t = 0; t < rows_; ++t) {
      expert_[t] = -1;
      for (Index e = 0; e < experts_; ++e) most = std::max(most, std::abs(a_(t, e)));
    }
    rounding_ = 1e-14 * most;
    std::fill_n(count_.data(), experts_, Index{0});
    std::fill_n(price_.data(), experts_ * experts_, none);
    for (Index t = 0; t < rows_; ++t) insert(t);
    std::fill_n(distance_.data(), experts_, 0.0);
    relax();  // distances are now the dual values of the experts
    for (Index t = 0; t < rows_; ++t) lower(t, 1e-12 * most);
  }

  /// e(t)
  Index expert(Index t) const { return expert_[t]; }

 private:
  static constexpr double none = std::numeric_limits<double>::infinity();

  /// distance_f = the least of distance_e and the moves from e to f; from_f is the expert before f.
  void relax() {
    for (bool changed = true; changed;) {
      changed = false;
      for (Index e = 0; e < experts_; ++e) {
        const double* const price = price_.data() + e * experts_;
        for (Index f = 0; f < experts_; ++f) {
          if (!(distance_[e] + price[f] < distance_[f] - rounding_)) continue;
          distance_[f] = distance_[e] + price[f];
          from_[f] = e;
          changed = true;
        }
      }
    }
  }

  void insert(Index t) {
    for (Index e = 0; e < experts_; ++e) {
      distance_[e] = -a_(t, e);
      from_[e] = -1;
    }
    relax();
    Index end = -1;
    for (Index e = 0; e < experts_; ++e) {
      const bool room = count_[e] < rows_ / experts_;
      if (room && (end < 0 || distance_[e] < distance_[end])) end = e;
    }
    ++count_[end];
    Index f = end;
    for (; from_[f] >= 0; f = from_[f]) expert_[mover_[from_[f] * experts_ + f]] = f;
    expert_[t] = f;
    for (f = end; f >= 0; f = from_[f]) find_prices(f);
  }

  void find_prices(Index e) {
    double* const price = price_.data() + e * experts_;
    std::fill_n(price, experts_, none);
    for (Index t = 0; t < rows_; ++t) {
      if (expert_[t] != e) continue;
      for (Index f = 0; f < experts_; ++f) {
        const double loss = a_(t, e) - a_(t, f);
        if (f == e || !(loss < price[f])) continue;
        price[f] = loss;
        mover_[e * experts_ + f] = t;
      }
    }
  }

  /// Does it change nothing if row t goes from its expert to f, and others follow?
  bool tied(Index t, Index f, double tolerance) const {
    const Index e = expert_[t];
    return a_(t, e) - a_(t, f) + distance_[e] - distance_[f] <= tolerance;
  }

  /// Gives row t the lowest expert among equally good answers that leave the rows before as they
  /// are: there must be a chain of tied moves of later rows from there back to its own.
  void lower(Index t, double tolerance) {
    const Index own = expert_[t];
    for (Index to = 0; to < own; ++to) {
      if (!tied(t, to, tolerance)) continue;
      std::fill_n(from_.data(), experts_, Index{-1});
      Buffer<Index> queue(experts_);
      Index head = 0, tail = 0;
      queue[tail++] = to;
      from_[to] = to;
      while (head < tail && from_[own] < 0) {
        const Index e = queue[head++];
        for (Index u = t + 1; u < rows_; ++u) {
          if (expert_[u] != e) continue;
          for (Index f = 0; f < experts_; ++f) {
            if (from_[f] >= 0 || !tied(u, f, tolerance)) continue;
            from_[f] = e;
            mover_[e * experts_ + f] = u;
            queue[tail++] = f;
          }
        }
      }
      if (from_[own] < 0) continue;
      for (Index f = own; f != to; f = from_[f]) expert_[mover_[from_[f] * experts_ + f]] = f;
      expert_[t] = to;
      return;
    }
  }

  MatrixView<const double> a_;
  Index rows_, experts_;
  Buffer<Index> expert_, count_;
  Buffer<Index> from_;   ///< [E]
  Buffer<Index> mover_;  ///< [E x E] the row that goes
  Buffer<double> price_;
  Buffer<double> distance_;
  double rounding_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
