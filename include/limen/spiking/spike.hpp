#pragma once
/// @file  From what a neuron is said to be (time constants in milliseconds) to what its layer is
/// told: the factor of one step.
///
///   exact_decay(dt, tau) = e^(-dt/tau)      the solution of  tau v' = -v  after dt
///   euler_decay(dt, tau) = 1 - dt/tau       one explicit step of it
///
/// All are constexpr, for the config of a layer: wrong numbers are then errors of the compiler. At
/// run time they `fail`, and give NaN (or 0 steps) where nothing is thrown.

#include <limits>
#include <string>

#include <limen/core/error.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/fire.hpp>

namespace limen::inline LIMEN_ABI {

/// How a number of a neuron is learned. One that is learned has a member of that name.
enum class Learned {
  no,        ///< the number in the config stays
  together,  ///< one number for the layer
  each       ///< one for each neuron
};

/// The member for a number that may be learned.
template <Learned L, class Real, Index D>
using LearnedNumber = Optional<L != Learned::no, Tensor<Real, L == Learned::each ? D : 1>>;

namespace detail {

/// Not constexpr, so that the compiler stops here when a config reaches it.
LIMEN_NOINLINE inline double wrong_time(const char* who, const char* wanted, double found) {
  fail({who, wanted, std::to_string(found)});
  return std::numeric_limits<double>::quiet_NaN();
}

constexpr bool finite(double x) {
  return x >= std::numeric_limits<double>::lowest() && x <= std::numeric_limits<double>::max();
}
constexpr bool positive(double x) { return x > 0 && finite(x); }

/// e^x for x <= 0, within 2 ulp.
constexpr double exp_below_zero(double x) {
  if (x < -745.2) return 0;
  constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  const int n = static_cast<int>(x / (ln2_high + ln2_low) - 0.5);
  const double r = (x - n * ln2_high) - n * ln2_low;  // |r| <= ln2 / 2
  double sum = 1;
  for (int k = 16; k > 0; --k) sum = 1 + sum * r / k;
  for (int i = 0; i > n; --i) sum /= 2;
  return sum;
}

}  // namespace detail

constexpr double exact_decay(double dt_ms, double tau_ms) {
  if (!detail::positive(dt_ms)) {
    return detail::wrong_time("exact_decay: dt_ms", "a positive number", dt_ms);
  }
  if (!detail::positive(tau_ms)) {
    return detail::wrong_time("exact_decay: tau_ms", "a positive number", tau_ms);
  }
  return detail::exp_below_zero(-dt_ms / tau_ms);
}

/// A step longer than tau would turn the membrane's sign and is refused.
constexpr double euler_decay(double dt_ms, double tau_ms) {
  if (!detail::positive(dt_ms)) {
    return detail::wrong_time("euler_decay: dt_ms", "a positive number", dt_ms);
  }
  if (!detail::positive(tau_ms)) {
    return detail::wrong_time("euler_decay: tau_ms", "a positive number", tau_ms);
  }
  if (dt_ms > tau_ms) {
    return detail::wrong_time("euler_decay: dt_ms", "at most tau_ms", dt_ms);
  }
  return 1 - dt_ms / tau_ms;
}

/// Steps that last at least `period_ms`: 2 ms are 4 steps of 0.5 ms, and 7 of 0.3 ms.
constexpr Index refractory_steps(double period_ms, double dt_ms) {
  if (!detail::positive(dt_ms)) {
    detail::wrong_time("refractory_steps: dt_ms", "a positive number", dt_ms);
    return 0;
  }
  if (!(period_ms >= 0 && period_ms / dt_ms < 1e9)) {
    detail::wrong_time("refractory_steps: period_ms", "from 0 to 1e9 steps", period_ms);
    return 0;
  }
  const double steps = period_ms / dt_ms - 1e-9;
  const auto whole = static_cast<Index>(steps);
  return whole + (static_cast<double>(whole) < steps ? 1 : 0);
}

}  // namespace limen::inline LIMEN_ABI
