#pragma once
// Bars that move over a small camera in one of eight directions, as events: rendered frames go
// through the change encoder, as in a camera of events.

#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include <limen/spiking/delta_encoder.hpp>

class Bars {
 public:
  using Index = limen::Index;
  static constexpr Index side = 9, pixels = side * side, frames = 26, directions = 8;
  static constexpr limen::DeltaEncoderConfig camera{.d_model = pixels,
                                                    .threshold = 0.35,
                                                    .test = limen::SpikeTest::gt,
                                                    .most_one = true,
                                                    .from_first = true,
                                                    .split = true};
  static constexpr Index width = 2 * pixels;  // brighter, darker

  Bars(Index count, limen::Random random) {
    for (Index i = 0; i < count; ++i) {
      labels_.push_back(static_cast<int>(random.below(directions)));
      events_.push_back(film(labels_.back(), random));
    }
  }

  Index size() const { return static_cast<Index>(events_.size()); }
  limen::SequenceView<float, width> operator[](Index i) const {
    return events_[static_cast<std::size_t>(i)];
  }
  int label(Index i) const { return labels_[static_cast<std::size_t>(i)]; }

  /// Towards the right, then turning with the clock (y goes down).
  static double angle(Index direction) {
    return 2 * std::numbers::pi * static_cast<double>(direction) / directions;
  }

 private:
  /// A bar three pixels wide crosses the field; when it comes, how fast, and what flickers is
  /// drawn.
  static limen::Sequence<float, width> film(int label, limen::Random& random) {
    const double a = angle(label) + random.uniform(-0.15, 0.15);
    const double speed = random.uniform(0.8, 1.2), start = random.uniform(-11, -8);
    const double dark = random.below(2) == 0 ? 1 : -1;  // on a dark ground, or a bright one
    limen::Sequence<float, pixels> film(frames);
    for (Index t = 0; t < frames; ++t) {
      const double at = start + speed * static_cast<double>(t);
      for (Index p = 0; p < pixels; ++p) {
        const double x = static_cast<double>(p % side) - side / 2;
        const double y = static_cast<double>(p / side) - side / 2;
        const double beside = std::abs(x * std::cos(a) + y * std::sin(a) - at);
        const double bar = beside < 1 ? 1 : beside < 2 ? 2 - beside : 0;
        const double flicker = random.uniform() < 0.01 ? 1 : 0;
        film(t, p) = static_cast<float>(dark * bar + flicker);
      }
    }
    return limen::forward(limen::DeltaEncoder<camera>{}, film);
  }

  std::vector<limen::Sequence<float, width>> events_;
  std::vector<int> labels_;
};
