#pragma once
/// @file  How the learning rate changes over a run: a factor for the optimizer's rate.
///
///   t          how many updates were done before this one: 0, 1, 2, ...
///   warm-up    (t + 1) / T_w                                         for t < T_w
///   then       cosine         m + (1 - m) (1 + cos(π s)) / 2         s = (t - T_w) / (T - T_w)
///              linear         m + (1 - m) (1 - s)
///              step           γ^(milestones reached by t)
///              inverse_sqrt   √(W / max(t, W)),  W = max(T_w, 1)
///              trapezoid      1, and in the last share of T straight to m
///
/// From t = T on the factor is the one of T.

#include <array>
#include <cmath>
#include <numbers>
#include <string>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

enum class Decay : int { none, cosine, linear, step, inverse_sqrt, trapezoid };

struct Schedule {
  Decay decay = Decay::none;
  Index warm_up = 0;                  ///< T_w
  Index total = 0;                    ///< T, for cosine, linear and trapezoid
  double least = 0;                   ///< m, the factor at the end
  double gamma = 0.1;                 ///< γ, at each milestone of step
  double last_share = 0.2;            ///< of T, in which a trapezoid descends
  std::array<Index, 8> milestones{};  ///< of step; 0 for those not used

  double operator()(Index t) const {
    if (t < warm_up) return static_cast<double>(t + 1) / static_cast<double>(warm_up);
    switch (decay) {
      case Decay::none:
        return 1;
      case Decay::cosine:
        return least + (1 - least) * (1 + std::cos(std::numbers::pi * share(t, warm_up))) / 2;
      case Decay::linear:
        return least + (1 - least) * (1 - share(t, warm_up));
      case Decay::step: {
        double factor = 1;
        for (const Index m : milestones) factor *= m > 0 && m <= t ? gamma : 1;
        return factor;
      }
      case Decay::inverse_sqrt: {
        const Index w = warm_up > 1 ? warm_up : 1;
        return std::sqrt(static_cast<double>(w) / static_cast<double>(t > w ? t : w));
      }
      case Decay::trapezoid: {
        const double begin = static_cast<double>(total) * (1 - last_share);
        const double s = (static_cast<double>(t) - begin) / (static_cast<double>(total) - begin);
        return s <= 0 ? 1 : s >= 1 ? least : 1 - s * (1 - least);
      }
    }
    return 1;
  }

  Status check() const {
    const bool ends = decay == Decay::cosine || decay == Decay::linear || decay == Decay::trapezoid;
    if (decay < Decay::none || decay > Decay::trapezoid) {
      return Error{"Schedule.decay", "one of Decay", std::to_string(static_cast<int>(decay))};
    }
    if (warm_up < 0) return Error{"Schedule.warm_up", "0 or more", std::to_string(warm_up)};
    if (ends && total <= warm_up) {
      return Error{"Schedule.total", "more than the warm-up of " + std::to_string(warm_up),
                   std::to_string(total)};
    }
    if (!(last_share > 0 && last_share <= 1)) {
      return Error{"Schedule.last_share", "more than 0 and at most 1", std::to_string(last_share)};
    }
    if (!(least >= 0 && least <= 1)) {
      return Error{"Schedule.least", "from 0 to 1", std::to_string(least)};
    }
    return {};
  }

  /// What a checkpoint keeps of it.
  template <class Inventory>
  void list(Inventory& inventory, const std::string& prefix) {
    inventory.add_number(prefix + "decay", decay);
    inventory.add_number(prefix + "warm_up", warm_up);
    inventory.add_number(prefix + "total", total);
    inventory.add_number(prefix + "least", least);
    inventory.add_number(prefix + "gamma", gamma);
    inventory.add_number(prefix + "last_share", last_share);
    inventory.add_numbers(prefix + "milestones", {static_cast<Index>(milestones.size())},
                          milestones.data());
  }

 private:
  double share(Index t, Index begin) const {
    const double s = static_cast<double>(t - begin) / static_cast<double>(total - begin);
    return s < 1 ? s : 1;
  }
};

}  // namespace limen::inline LIMEN_ABI
