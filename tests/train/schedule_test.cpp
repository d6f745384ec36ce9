#include <limen/train/schedule.hpp>

#include <array>
#include <cmath>
#include <span>

#include "../catch.hpp"
#include "../goldens/train_schedules.hpp"

using namespace limen;

namespace {

void follows(const Schedule& schedule, std::span<const double> expected) {
  REQUIRE(schedule.check());
  for (std::size_t t = 0; t < expected.size(); ++t) {
    INFO("step " << t);
    REQUIRE(std::abs(schedule(static_cast<Index>(t)) - expected[t]) < 1e-12);
  }
}

}  // namespace

TEST_CASE("Schedules are PyTorch's", "[train][schedule][golden]") {
  namespace g = goldens::schedules;
  follows({.decay = Decay::cosine, .total = 20, .least = 0.1}, g::cosine);
  follows({.decay = Decay::cosine, .warm_up = 5, .total = 20}, g::late_cosine);
  follows({.decay = Decay::linear, .total = 20, .least = 0.1}, g::linear);
  follows({.decay = Decay::step, .gamma = 0.5, .milestones = {3, 4, 11}}, g::step);
}

TEST_CASE("Schedules by hand", "[train][schedule]") {
  follows({}, std::array{1.0, 1.0, 1.0});
  follows({.warm_up = 4}, std::array{0.25, 0.5, 0.75, 1.0, 1.0});
  follows({.decay = Decay::inverse_sqrt, .warm_up = 4},
          std::array{0.25, 0.5, 0.75, 1.0, 1.0, std::sqrt(0.8), std::sqrt(4.0 / 6)});
  follows({.decay = Decay::inverse_sqrt}, std::array{1.0, 1.0, std::sqrt(0.5)});
  follows({.decay = Decay::trapezoid, .warm_up = 2, .total = 10, .least = 0.2, .last_share = 0.4},
          std::array{0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2});
}

TEST_CASE("After its end a schedule stays where it is", "[train][schedule]") {
  for (const Decay decay : {Decay::cosine, Decay::linear, Decay::trapezoid}) {
    const Schedule s{.decay = decay, .total = 10, .least = 0.3};
    REQUIRE(s(10) == Approx(0.3));
    REQUIRE(s(1000000) == Approx(0.3));
  }
}

TEST_CASE("A schedule without sense is refused", "[train][schedule]") {
  const auto who = [](const Schedule& s) { return s.check() ? "" : s.check().error().who; };
  REQUIRE(who({.warm_up = -1}) == "Schedule.warm_up");
  REQUIRE(who({.decay = Decay::cosine}) == "Schedule.total");
  REQUIRE(who({.decay = Decay::linear, .warm_up = 5, .total = 5}) == "Schedule.total");
  REQUIRE(who({.decay = Decay::trapezoid, .total = 5, .last_share = 0}) == "Schedule.last_share");
  REQUIRE(who({.least = 2}) == "Schedule.least");
  REQUIRE(who({.decay = static_cast<Decay>(9)}) == "Schedule.decay");
}
