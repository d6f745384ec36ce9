#pragma once
/// @file  How long a step takes from one exit to the next, where it will run: what a Deadline
/// needs.
///
///     const auto times = measure_step_times(net, x, 20'000);
///     const Deadline<> policy{.until = start + 80us, .next_ns = times.next_ns(0.9999)};
///     times.least_ns(0.9999)                 a deadline nearer than that cannot be promised
///
/// A step that goes on has to arrive in time as often as the quantile says. The median is too
/// little: half of all ways take longer. What the machine does meanwhile (interrupts, others on its
/// core) is in the high quantiles, and beyond them no policy can know of it.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <limen/exit/early_exit.hpp>

namespace limen::inline LIMEN_ABI {

template <std::size_t K>
struct StepTimes {
  std::array<std::vector<double>, K> ways;  ///< ns to exit k from the one before, ascending

  /// At most this for the share q of all steps.
  double quantile(std::size_t k, double q) const {
    const auto& way = ways[k];
    const double rank = std::ceil(q * static_cast<double>(way.size()));
    return way[static_cast<std::size_t>(
        std::clamp(rank - 1, 0.0, static_cast<double>(way.size() - 1)))];
  }
  Thresholds next_ns(double q) const {
    std::vector<double> next;
    for (std::size_t k = 1; k < K; ++k) next.push_back(quantile(k, q));
    return Thresholds(next);
  }
  /// To the first exit.
  double least_ns(double q) const { return quantile(0, q); }
};

namespace detail {
/// Asks every head and leaves at none.
template <class Clock>
struct TellTime {
  typename Clock::time_point* at;
  template <class Real>
  bool operator()(std::span<const Real>, Index k) const noexcept {
    at[k] = Clock::now();
    return false;
  }
};
}  // namespace detail

/// `steps` steps over the rows of x, each from a state at rest.
template <class Clock = std::chrono::steady_clock, class Net>
StepTimes<std::size_t{Net::exits}> measure_step_times(const Net& net,
                                                      SequenceView<typename Net::Scalar, Net::in> x,
                                                      Index steps) {
  constexpr auto K = std::size_t{Net::exits};
  StepTimes<K> times;
  if (x.rows() == 0 || steps < 1) {
    fail({"measure_step_times: rows and steps", "1 or more",
          std::to_string(x.rows()) + " and " + std::to_string(steps)});
    return times;
  }
  for (auto& way : times.ways) way.reserve(static_cast<std::size_t>(steps));
  typename Clock::time_point at[K];
  for (Index i = 0; i < steps; ++i) {
    typename Net::State state{};
    auto before = Clock::now();
    const auto left = net.step(x.row(i % x.rows()), state, detail::TellTime<Clock>{at});
    at[left.exit] = Clock::now();
    for (std::size_t k = 0; k < K; ++k) {
      times.ways[k].push_back(std::chrono::duration<double, std::nano>(at[k] - before).count());
      before = at[k];
    }
  }
  for (auto& way : times.ways) std::sort(way.begin(), way.end());
  return times;
}

}  // namespace limen::inline LIMEN_ABI
