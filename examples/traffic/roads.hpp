#pragma once
// A city of 36 sensors on a grid of roads, and what they read, quarter hour by quarter hour: rush
// hours on working days, days that are busier than others, queues that grow where more comes than
// passes and spill onto the roads behind, and now and then an accident.

#include <algorithm>
#include <cmath>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/kernel/segment.hpp>

class Roads {
 public:
  using Index = limen::Index;
  static constexpr Index side = 6, sensors = side * side, slots = 96, days = 7;

  /// speeds()[t][n] in km/h for so many weeks, from Monday 0:00.
  Roads(Index weeks, std::uint64_t seed) : random_(seed), roads_(grid()) {
    for (Index n = 0; n < sensors; ++n) {
      const double in = 1 - distance(n) / distance(0);  // 1 in the middle of the city, 0 at corners
      free_.push_back(random_.uniform(55, 75) - 15 * in);
      load_.push_back(random_.uniform(0.75, 1.05) + 0.2 * in);
      morning_.push_back(random_.uniform(0.3, 1.0));
      evening_.push_back(1.3 - morning_.back());
    }
    ones_.assign(static_cast<std::size_t>(roads_.edges()), 1);
    queue_.assign(sensors, 0);
    drift_.assign(sensors, 0);
    closed_.assign(sensors, 0);
    for (Index day = 0; day < weeks * days; ++day) {
      const double busy = std::exp(0.1 * random_.normal()), late = 0.35 * random_.normal();
      for (Index slot = 0; slot < slots; ++slot) read(day % days, slot, busy, late);
    }
  }

  const std::vector<float>& speeds() const { return speeds_; }
  Index steps() const { return static_cast<Index>(speeds_.size()) / sensors; }
  Index accidents() const { return accidents_; }

 private:
  static double distance(Index n) {
    const double middle = 0.5 * static_cast<double>(side - 1);
    return std::hypot(static_cast<double>(n / side) - middle,
                      static_cast<double>(n % side) - middle);
  }

  /// Roads between neighbours, in both directions.
  static limen::Graph grid() {
    std::vector<limen::Edge> edges;
    for (Index n = 0; n < sensors; ++n) {
      if (n % side + 1 < side) edges.insert(edges.end(), {{n, n + 1}, {n + 1, n}});
      if (n + side < sensors) edges.insert(edges.end(), {{n, n + side}, {n + side, n}});
    }
    return limen::Graph::make(sensors, edges).value();
  }

  static double bump(double hour, double at, double wide) {
    return std::exp(-0.5 * (hour - at) * (hour - at) / (wide * wide));
  }

  double demand(Index n, Index day, double hour, double late) const {
    const auto i = static_cast<std::size_t>(n);
    const double light = 0.15 + 0.45 * bump(hour, 13.5, 4);
    if (day >= 5) return load_[i] * (light + 0.2 * bump(hour, day == 5 ? 19 : 17, 2));
    return load_[i] * (light + 0.95 * morning_[i] * bump(hour, 8 + late, 1) +
                       0.9 * evening_[i] * bump(hour, 17.5 + late, 1.3));
  }

  /// Three times five minutes, then every sensor is read once.
  void read(Index day, Index slot, double busy, double late) {
    std::vector<double> spill(sensors), behind(sensors);
    for (int part = 0; part < 3; ++part) {
      const double hour = 0.25 * (static_cast<double>(slot) + part / 3.0);
      for (Index n = 0; n < sensors; ++n) {
        const auto i = static_cast<std::size_t>(n);
        spill[i] = std::max(0.0, queue_[i] - 0.6);
      }
      // What spills from a node reaches those whose roads lead to it.
      std::fill(behind.begin(), behind.end(), 0);
      limen::flow_back<double>(roads_, 1, ones_.data(), {spill.data(), sensors, 1, 1},
                               {behind.data(), sensors, 1, 1});
      for (Index n = 0; n < sensors; ++n) {
        const auto i = static_cast<std::size_t>(n);
        drift_[i] = 0.98 * drift_[i] + 0.02 * random_.normal();
        if (closed_[i] > 0) --closed_[i];
        if (random_.uniform() < 1.2 / (288.0 * sensors) * 6 * busy * demand(n, day, hour, late)) {
          closed_[i] = static_cast<int>(random_.uniform(6, 18));
          ++accidents_;
        }
        const double passes = closed_[i] > 0 ? 0.35 : 1.0;
        const double comes = busy * demand(n, day, hour, late) * (1 + drift_[i]);
        queue_[i] = std::max(0.0, 0.985 * queue_[i] + 0.22 * (comes - passes) + 0.035 * behind[i]);
        queue_[i] = std::min(queue_[i], 3.0);
      }
    }
    for (Index n = 0; n < sensors; ++n) {
      const auto i = static_cast<std::size_t>(n);
      const double dense = busy * demand(n, day, 0.25 * static_cast<double>(slot), late);
      const double flows = free_[i] * (1 - 0.12 * std::min(dense, 1.5)) / (1 + 1.1 * queue_[i]);
      speeds_.push_back(static_cast<float>(flows + 1.2 * random_.normal()));
    }
  }

  limen::Random random_;
  limen::Graph roads_;
  std::vector<double> free_, load_, morning_, evening_;  ///< of each sensor
  std::vector<double> queue_, drift_, ones_;
  std::vector<int> closed_;  ///< how long an accident still lasts
  std::vector<float> speeds_;
  Index accidents_ = 0;
};
