#pragma once
/// @file  Thresholds of exits.

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>

#include <limen/core/error.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// One number for all exits, or one for each but the last. Takes no memory from the heap.
class Thresholds {
 public:
  static constexpr Index most = 63;

  Thresholds(double all = 0) { values_.fill(all); }  // NOLINT: a number is a threshold
  Thresholds(std::initializer_list<double> each)
      : Thresholds(std::span<const double>(each.begin(), each.size())) {}
  explicit Thresholds(std::span<const double> each) : count_(static_cast<Index>(each.size())) {
    values_.fill(std::numeric_limits<double>::quiet_NaN());  // passes nothing
    std::copy_n(each.begin(), std::min(each.size(), values_.size()), values_.begin());
  }

  double operator[](Index exit) const { return values_[static_cast<std::size_t>(exit)]; }

  /// As many as there are exits, each infinite (nobody, or everybody) or between the two.
  Status check(const char* who, Index exits, double least, double greatest) const {
    if (count_ >= 0 && count_ != exits - 1) {
      return Error{std::string(who) + ": thresholds",
                   "1, or " + std::to_string(exits - 1) + ": all exits but the last",
                   std::to_string(count_)};
    }
    for (Index k = 0; k + 1 < exits; ++k) {
      const double t = (*this)[k];
      if (std::isinf(t) || (t >= least - 1e-12 && t <= greatest + 1e-12)) continue;
      return Error{std::string(who) + ": threshold of exit " + std::to_string(k),
                   std::to_string(least) + " to " + std::to_string(greatest) + ", or infinite",
                   std::to_string(t)};
    }
    return {};
  }

 private:
  std::array<double, std::size_t{most}> values_;
  Index count_ = -1;  ///< -1: one for all
};

}  // namespace limen::inline LIMEN_ABI
