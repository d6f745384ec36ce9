#include <limen/exit/calibration.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("At temperature 2 the logits (2, 1, 0) lose 0.680270", "[exit][calibration]") {
  const Sequence<double, 3> z{{2, 1, 0}};
  const std::vector<int> labels{0};
  const SequenceView<double, 3> view(z);
  REQUIRE(*nll_at_temperature(view, labels, 2) == Approx(0.680270).epsilon(1e-6));
  const double h = 1e-5;  // its slope in T is known too
  REQUIRE((*nll_at_temperature(view, labels, 2 + h) - *nll_at_temperature(view, labels, 2 - h)) /
              (2 * h) ==
          Approx(0.169961).epsilon(1e-5));
  REQUIRE_FALSE(nll_at_temperature(view, labels, 0));
}

TEST_CASE("The temperature that was put in is found again", "[exit][calibration]") {
  Random random(2);
  const Index n = 20000;
  Sequence<double, 4> z(n);
  std::vector<int> labels;
  for (Index t = 0; t < n; ++t) {
    Vector<double, 4> p;
    for (Index c = 0; c < 4; ++c) z(t, c) = random.normal();
    softmax_row(z.row(t).data(), p.data(), 4);
    double u = random.uniform();
    int label = 0;
    while (label < 3 && u >= p[label]) u -= p[label++];
    labels.push_back(label);
    for (Index c = 0; c < 4; ++c) z(t, c) *= 2.5;  // too sure of itself
  }
  const SequenceView<double, 4> view(z);
  const double t = *fit_temperature(view, labels);
  REQUIRE(t == Approx(2.5).epsilon(0.05));
  for (const double other : {0.98 * t, 1.02 * t}) {
    REQUIRE(*nll_at_temperature(view, labels, t) < *nll_at_temperature(view, labels, other));
  }
}

TEST_CASE("Without a best temperature the search ends where it began", "[exit][calibration]") {
  const Sequence<double, 2> z{{1, 0}, {3, 0}};
  const SequenceView<double, 2> view(z);
  REQUIRE(*fit_temperature(view, std::vector<int>{0, 0}) < 0.05);  // nothing left to lose
  REQUIRE(*fit_temperature(view, std::vector<int>{1, 1}) == Approx(1e3));
  const Sequence<double, 2> bad{{1, std::numeric_limits<double>::quiet_NaN()}};
  REQUIRE_FALSE(fit_temperature(SequenceView<double, 2>(bad), std::vector<int>{0}));
}

TEST_CASE("The calibration error is the gap in each bin, by its share", "[exit][calibration]") {
  const std::vector<double> confidence{0.2, 0.4, 0.9, 1.0};
  const std::vector<char> correct{0, 1, 1, 1};
  // two bins of width 0.5: |0.5 - 0.3| and |1 - 0.95|, half of the rows each
  REQUIRE(*calibration_error(confidence, correct, Bins::uniform, 2) ==
          Approx(0.5 * 0.2 + 0.5 * 0.05));
  // four bins of one row each
  REQUIRE(*calibration_error(confidence, correct, Bins::quantile, 4) ==
          Approx((0.2 + 0.6 + 0.1 + 0.0) / 4));
  REQUIRE(*calibration_error(confidence, correct, Bins::quantile, 1) ==
          Approx(std::abs(0.75 - 0.625)));
  REQUIRE_FALSE(calibration_error({}, {}));
  REQUIRE_FALSE(calibration_error(confidence, std::vector<char>{1}));
  REQUIRE_FALSE(calibration_error(std::vector<double>{1.5}, std::vector<char>{1}));
}

TEST_CASE("The conformal rank is the eighth of nine for alpha 0.2", "[exit][calibration]") {
  const std::vector<double> scores{.5, .05, .2, .1, .3, .7, .35, .4, .6};
  REQUIRE(*conformal_quantile(scores, 0.2) == 0.6);
  REQUIRE(*conformal_quantile(scores, 0.2, ConformalRank::interpolated) == 0.7);
  REQUIRE(*conformal_quantile(scores, 0.05) == 1.0);  // nine rows are too few
  REQUIRE_FALSE(conformal_quantile({}, 0.2));
  REQUIRE_FALSE(conformal_quantile(scores, 1.0));
  const double z[] = {2, 1, 0};  // p = 0.665, 0.245, 0.090
  REQUIRE(conformal_set(std::span<const double>(z), 0.5) == std::vector<Index>{0});
  REQUIRE(conformal_set(std::span<const double>(z), 0.8) == std::vector<Index>{0, 1});
  REQUIRE(conformal_set(std::span<const double>(z), 1.0).size() == 3);
}

TEST_CASE("Conformal sets cover what they promise", "[exit][calibration]") {
  Random random(7);
  const auto draw = [&](Index n, Sequence<double, 5>& z, std::vector<int>& labels) {
    z = Sequence<double, 5>(n);
    for (Index t = 0; t < n; ++t) {
      labels.push_back(static_cast<int>(random.below(5)));
      for (Index c = 0; c < 5; ++c) z(t, c) = random.normal() + 2 * (c == labels.back());
    }
  };
  Sequence<double, 5> known, fresh;
  std::vector<int> known_labels, fresh_labels;
  draw(2000, known, known_labels);
  draw(2000, fresh, fresh_labels);
  const double q =
      *conformal_quantile(conformal_scores(SequenceView<double, 5>(known), known_labels), 0.1);
  double covered = 0;
  for (Index t = 0; t < 2000; ++t) {
    const auto set = conformal_set(std::span<const double>(fresh.row(t).data(), 5), q);
    covered += std::count(set.begin(), set.end(), fresh_labels[static_cast<std::size_t>(t)]) > 0;
  }
  REQUIRE(covered / 2000 == Approx(0.9).margin(0.025));
}

TEST_CASE("An exit that few rows took is calibrated on all", "[exit][calibration]") {
  std::vector<std::vector<double>> scores(2, std::vector<double>(30));
  std::vector<Index> exit(30, 0);
  for (std::size_t t = 0; t < 30; ++t) scores[0][t] = scores[1][t] = static_cast<double>(t) / 30;
  for (std::size_t t = 25; t < 30; ++t) exit[t] = 1;
  const auto q = *conformal_quantiles(scores, exit, 0.2);
  REQUIRE(q[0] == Approx(20 / 30.0));  // ⌈26 * 0.8⌉ = 21st of 25
  REQUIRE(q[1] == Approx(24 / 30.0));  // ⌈31 * 0.8⌉ = 25th of 30, not of 5
}

TEST_CASE("A class whose probability is just 1 - q is in the set", "[exit][conformal]") {
  const double z[] = {0, 0};
  REQUIRE(conformal_set(std::span<const double>(z), 0.5) == std::vector<Index>{0, 1});
}
