#include <limen/exit/exit_loss.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("Weights of heads count from 1", "[exit][loss]") {
  REQUIRE(rising_weights<3>()[0] == Approx(1 / 6.0));
  REQUIRE(rising_weights<3>()[2] == Approx(3 / 6.0));
  REQUIRE(doubling_weights<3>()[1] == Approx(2 / 7.0));
  REQUIRE(equal_weights<3>()[1] == 1);
  // cross entropies of 0.6, 0.3 and 0.2 make 0.3
  const auto logit = [](double loss) { return -std::log(std::expm1(loss)); };  // of class 0 over 1
  const Sequence<double, 6> y{{logit(0.6), 0, logit(0.3), 0, logit(0.2), 0}};
  const std::vector<int> labels{0};
  REQUIRE(exit_loss<3>(y, labels, {.weights = rising_weights<3>()}).value == Approx(0.3));
}

TEST_CASE("The gradient of the joint loss is its slope, the last head a fixed target",
          "[exit][loss]") {
  Random random(3);
  Sequence<double, 12> y(5);
  for (Index i = 0; i < y.size(); ++i) y.data()[i] = random.normal();
  const std::vector<int> labels{1, 3, -1, 0, 2};
  for (const double distill : {0.0, 0.4, 1.0}) {
    const ExitLossOptions<3> options{.weights = {0.5, 0, 2},
                                     .distill = distill,
                                     .temperature = 2.5,
                                     .labels = {.smoothing = 0.1}};
    const auto loss = exit_loss<3>(y, labels, options);
    REQUIRE(loss.weight == 4);
    // what the last head gives as a target is constant: only its own cross entropy counts for it
    auto own = options;
    own.weights = {0, 0, 2};
    for (Index i = 0; i < y.size(); ++i) {
      const auto& of = i % 12 < 8 ? options : own;
      const double before = y.data()[i], h = 1e-5;
      y.data()[i] = before + h;
      const double above = exit_loss<3>(y, labels, of).value;
      y.data()[i] = before - h;
      const double below = exit_loss<3>(y, labels, of).value;
      y.data()[i] = before;
      INFO("distill " << distill << ", element " << i);
      REQUIRE(loss.dy.data()[i] == Approx((above - below) / (2 * h)).margin(1e-8));
    }
  }
}

TEST_CASE("A head that says what the last one says has nothing to learn from it", "[exit][loss]") {
  const Sequence<double, 6> y{{1, 2, 3, 1, 2, 3}};
  const std::vector<int> labels{0};
  const auto loss = exit_loss<2>(y, labels, {.weights = {1, 0}, .distill = 1, .temperature = 4});
  REQUIRE(loss.value == Approx(0).margin(1e-14));
  for (Index i = 0; i < 6; ++i) REQUIRE(loss.dy.data()[i] == Approx(0).margin(1e-14));
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Weights below 0, or all 0, are errors", "[exit][loss]") {
  const Sequence<double, 4> y(1);
  const std::vector<int> labels{0};
  REQUIRE_THROWS_WITH(exit_loss<2>(y, labels, {.weights = {1, -1}}), has_part("0 or more"));
  REQUIRE_THROWS_WITH(exit_loss<2>(y, labels, {.weights = {0, 0}}), has_part("none"));
  REQUIRE_THROWS_WITH(exit_loss<2>(y, labels, {.distill = 2}), has_part(".distill"));
  REQUIRE_THROWS_WITH(exit_loss<2>(y, labels, {.temperature = 0}), has_part(".temperature"));
  REQUIRE_THROWS_WITH(exit_loss<2>(y, std::vector<int>{2}), has_part("label of row 0"));
}
#endif
