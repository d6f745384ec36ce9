#include <limen/probe/dead.hpp>
#include <limen/probe/dormant.hpp>
#include <limen/probe/growth.hpp>
#include <limen/probe/massive.hpp>
#include <limen/probe/steer.hpp>
#include <limen/probe/steering.hpp>

#include <limen/core/random.hpp>

#include "../catch.hpp"
#include "../goldens/golden.hpp"
#include "../goldens/probe_growth.hpp"
#include "../goldens/probe_hooks.hpp"
#include "models.hpp"

using namespace probed;
namespace hooks = goldens::probe_hooks;
namespace growth = goldens::probe_growth;

namespace {
std::string message(const auto& result) { return result ? "" : result.error().message(); }
template <std::size_t N>
std::vector<double> numbers(const double (&values)[N]) {
  return {values, values + N};
}
}  // namespace

// ── Dormant neurons ──────────────────────────────────────────────────────────────────────────────

TEST_CASE("Half of the units of the card are dormant", "[probe][dormant]") {
  const Activations h{2, 4, {1, -0.01, 0, 2, 3, 0.01, 0, -2}};
  const Dormancy d = dormant({&h});
  REQUIRE(d.scores[0][0] == Approx(1.995012).epsilon(1e-6));
  REQUIRE(d.scores[0][1] == Approx(0.009975).epsilon(1e-4));
  REQUIRE(d.scores[0][2] == 0);
  REQUIRE(d.scores[0][3] == Approx(1.995012).epsilon(1e-6));
  REQUIRE(d.dormant == 2);
  REQUIRE(d.ratio() == 0.5);
  REQUIRE(exploration_deviation(0.5) == Approx(0.762059).epsilon(1e-6));
  REQUIRE(exploitation_weight(0.2, 0.6) == Approx(0.3));
  REQUIRE(reset_share(0.5) == 0.2);
  REQUIRE(reset_share(0.3) == Approx(0.4));
  REQUIRE(reset_share(0.0) == 0.9);
  const Activations silent{2, 3, std::vector<double>(6)};
  REQUIRE(dormant({&silent}).ratio() == 1);
  REQUIRE(dormant({&h, &silent}).ratio() == Approx(5 / 7.0));
  REQUIRE(dormant({&h}, 0).ratio() == 0);  // strictly below
}

TEST_CASE("Scores of dormancy are those of PyTorch", "[probe][dormant][golden]") {
  const Activations h{5, 6, numbers(hooks::hidden)};
  golden::same("scores", dormant({&h}).scores[0], hooks::dormant_scores, 1e-12);
}

TEST_CASE("What is dormant of nothing is an error", "[probe][dormant]") {
  const Activations empty{0, 3, {}};
  REQUIRE_THROWS_WITH(dormant({&empty}), has_part("wanted at least one row, found an empty batch"));
  const Activations h{1, 1, {1}};
  REQUIRE_THROWS_WITH(dormant({&h}, -1), has_part("dormant: tau: wanted at least 0"));
}

TEST_CASE("A reset mixes in fresh parameters, where it is asked to", "[probe][dormant]") {
  using Model = Sequential<Map<1, 1>, Map<1, 1>>;
  Model old, fresh;
  set_parameters(old, std::vector<double>{1, 2, 3, 4});
  set_parameters(fresh, std::vector<double>{5, 6, 7, 8});
  Model model = old;
  reset(model, fresh, 0.25);
  REQUIRE(get<0>(model.layers).weight[0] == 4);
  REQUIRE(get<0>(model.layers).bias[0] == 5);
  REQUIRE(get<1>(model.layers).bias[0] == 7);
  model = old;
  reset(model, fresh, 0, {"1.*"});
  REQUIRE(get<0>(model.layers).weight[0] == 1);
  REQUIRE(get<1>(model.layers).weight[0] == 7);
  REQUIRE_THROWS_WITH(reset(model, fresh, 1.5), has_part("wanted 0 to 1"));
}

// ── Dead neurons ─────────────────────────────────────────────────────────────────────────────────

TEST_CASE("Dead units of the card: one for good, one on one row", "[probe][dead]") {
  const Activations h{2, 3, {0, 1, 2, 0, 0, 3}};
  const auto dead = dead_neurons(h, {0, 0, 1, 0, 1, 1});
  REQUIRE(dead.static_dead == 1);
  REQUIRE(dead.never_active == 1);
  REQUIRE(dead.dynamic_rate == Approx(0.5 / 3));
  REQUIRE(dead.of_unit == std::vector<double>{0, 0.5, 0});
  const auto unpruned = dead_neurons(h);
  REQUIRE(unpruned.static_dead == 0);
  REQUIRE(unpruned.dynamic_rate == Approx(1.5 / 3));
  REQUIRE_THROWS_WITH(dead_neurons(h, {1, 1}), has_part("mask of weights"));
  REQUIRE_THROWS_WITH(dead_neurons(Activations{0, 3, {}}), has_part("an empty batch"));
}

TEST_CASE("Some of the budget goes to negative weights of units that are dead most",
          "[probe][dead]") {
  const Activations W{3, 3, {1, -2, 3, -1, -5, 0.1, -9, 4, 4}};
  const std::vector<char> mask{1, 1, 1, 1, 1, 1, 1, 1, 1};
  std::vector<double> score;
  for (const double w : W.values) score.push_back(std::abs(w));
  const std::vector<double> rate{0.5, 0.9, 0};
  using Places = std::vector<std::size_t>;
  REQUIRE(selective_activation(W, mask, rate, score, 3, 0) == Places{5, 0, 3});
  // One by magnitude, two by deadness: unit 1 first, its most negative weight first.
  REQUIRE(selective_activation(W, mask, rate, score, 3, 2) == Places{5, 4, 3});
  // Unit 1 has no more: then unit 0, then unit 2, and no weight twice.
  REQUIRE(selective_activation(W, mask, rate, score, 5, 4) == Places{5, 4, 3, 1, 6});
  auto pruned = mask;
  pruned[4] = 0;
  REQUIRE(selective_activation(W, pruned, rate, score, 2, 1) == Places{5, 3});
  REQUIRE_THROWS_WITH(selective_activation(W, mask, rate, score, 1, 2),
                      has_part("Q: wanted at most P, 1, found 2"));
}

// ── Massive activations ──────────────────────────────────────────────────────────────────────────

TEST_CASE("Massive activations are found where they are", "[probe][massive]") {
  Activations h{2, 4, {0.2, -400, 0.1, 0.3, 150, 0.1, -0.2, 0.05}};
  const auto found = massive_activations(h);
  REQUIRE(found.max == 400);
  REQUIRE(found.median == 0.2);  // the lower one of 0.2 and 0.2; 0.05 0.1 0.1 0.2 | 0.2 0.3 ...
  REQUIRE(found.ratio() == Approx(2000));
  REQUIRE(found.largest.size() == 3);
  REQUIRE((found.largest[0].row == 0 && found.largest[0].column == 1));
  REQUIRE(found.largest[1].value == 150);
  REQUIRE(found.largest[2].value == 0.3);
  REQUIRE(found.massive.size() == 1);  // 150 is below 1000 medians
  REQUIRE(found.massive[0].value == -400);
  const Activations four{1, 4, {1, 2, 4, 8}};
  REQUIRE(massive_activations(four).median == 2);
  REQUIRE(massive_ratio({&h, &four}) == Approx((400 + 8) / 2.2));
  REQUIRE(massive_activations(four).massive.empty());
  const Activations zeros{1, 3, {0, 0, 7}};
  REQUIRE(massive_activations(zeros).median_is_zero);
  REQUIRE(std::isinf(massive_activations(zeros).ratio()));
  h(0, 0) = std::nan("");
  REQUIRE_THROWS_WITH(massive_activations(h), has_part("wanted finite numbers"));
}

TEST_CASE("The law of growth has the values, slopes and peak of the card", "[probe][growth]") {
  const GrowthLaw f{.A = 3, .lambda = 0.1, .gamma = 0.2, .t0 = 1, .K = 5};
  REQUIRE(f(0) == 5);
  REQUIRE(f.x(f.peak()) == Approx(5.728926).epsilon(1e-6));
  REQUIRE(f.peak() == Approx(23.644628).epsilon(1e-7));
  REQUIRE(f(f.peak()) == Approx(7.952868).epsilon(1e-6));
  REQUIRE(f(f.peak()) > f(f.peak() - 0.1));
  REQUIRE(f(f.peak()) > f(f.peak() + 0.1));
  REQUIRE(lambert_w(1) == Approx(0.5671432904097838).epsilon(1e-14));
  REQUIRE(lambert_w(0) == 0);
  for (const double w : {0.01, 1.0, 5.0, 50.0}) REQUIRE(lambert_w(w * std::exp(w)) == Approx(w));

  double GrowthLaw::* const all[] = {&GrowthLaw::A, &GrowthLaw::lambda, &GrowthLaw::gamma,
                                     &GrowthLaw::t0, &GrowthLaw::K};
  for (const double t : {0.5, 7.0, 60.0}) {
    for (std::size_t p = 0; p < 5; ++p) {
      GrowthLaw up = f, down = f;
      up.*all[p] += 1e-6;
      down.*all[p] -= 1e-6;
      INFO("parameter " << p << " at " << t);
      REQUIRE(f.slope(t)[p] == Approx((up(t) - down(t)) / 2e-6).epsilon(1e-7));
    }
  }
}

TEST_CASE("The fit finds the law that made the points", "[probe][growth][golden]") {
  auto fit = fit_growth(numbers(growth::t), numbers(growth::exact_r));
  REQUIRE(fit);
  REQUIRE(fit->r_squared > 1 - 1e-12);
  REQUIRE(fit->law.A == Approx(3).epsilon(1e-3));
  REQUIRE(fit->law.lambda == Approx(0.1).epsilon(1e-3));
  REQUIRE(fit->law.gamma == Approx(0.2).epsilon(1e-3));
  REQUIRE(fit->law.t0 == Approx(1).epsilon(1e-3));
  REQUIRE(fit->law.K == Approx(5).epsilon(1e-3));
  REQUIRE(fit->law.peak() == Approx(23.644628).epsilon(1e-3));
}

TEST_CASE("With noise the fit is as good as SciPy's", "[probe][growth][golden]") {
  auto fit = fit_growth(numbers(growth::t), numbers(growth::noisy_r));
  REQUIRE(fit);
  REQUIRE(fit->r_squared >= growth::noisy_r_squared[0] - 1e-9);
  for (std::size_t i = 0; i < std::size(growth::t); ++i) {
    REQUIRE(fit->law(growth::t[i]) == Approx(growth::noisy_at[i]).epsilon(2e-3));
  }
}

TEST_CASE("What cannot be fitted says why", "[probe][growth]") {
  const std::vector<double> t{0, 1, 2, 3, 4, 5}, flat(6, 1.0);
  REQUIRE(message(fit_growth({1, 2}, {1, 2})) ==
          "growth: wanted at least 6 points (t, r), found 2 and 2");
  REQUIRE_THAT(message(fit_growth(t, flat)), has_part("values that grow"));
  REQUIRE_THAT(message(fit_growth(t, {1, 2, std::nan(""), 4, 5, 6})),
               has_part("growth at point 2"));
}

// ── Steering ─────────────────────────────────────────────────────────────────────────────────────

TEST_CASE("Steering adds a direction, and 0 of it changes no bit", "[probe][steer]") {
  const Tap<"h", Bend<2>> model;
  Probe probe;
  const auto one = steer(probe, {.tap = "h", .rows = {1, 1}}, {1, 0}, 0.5);
  const Sequence<double, 2> x{{1, 2}, {3, 4}};
  auto y = watch(model, x, probe);
  REQUIRE((y(0, 0) == 1 && y(1, 0) == 3.5 && y(1, 1) == 4));
  probe.remove(one);
  steer(probe, {.tap = "h"}, {1, 0}, 0);
  const Sequence<double, 2> zero{{-0.0, 1}};
  y = watch(model, zero, probe);
  REQUIRE(std::signbit(y(0, 0)));
  probe.clear();
  steer(probe, {.tap = "h"}, {1, 0, 0});
  REQUIRE_THROWS_WITH(watch(model, x, probe),
                      has_part("direction at h: wanted 2 numbers, found 3"));
  probe.clear();
  steer(probe, {.tap = "h"}, {0, 0});
  REQUIRE_THROWS_WITH(watch(model, x, probe), has_part("direction: wanted another than 0"));
}

TEST_CASE("The direction between two means", "[probe][steer]") {
  const Activations a{2, 2, {4, 1, 6, 3}}, b{1, 2, {2, -2}};
  REQUIRE(mean_difference(a, b, false) == Direction{3, 4});
  REQUIRE(mean_difference(a, b)[0] == Approx(0.6));
  REQUIRE(mean_difference(b, b) == Direction{0, 0});
}

TEST_CASE("A controller steers behind its inputs, by what it says of each row", "[probe][steer]") {
  using Model = Sequential<Tap<"a", Bend<2>>, Tap<"b", Bend<2>>, Tap<"c", Bend<2>>>;
  constexpr SteeringConfig c{.d_in = 2, .taps = 2, .d_hidden = 1};
  Steering<c> controller;  // s = relu(u_0), w = 0
  controller.up.weight[0] = 1;
  controller.down.weight[0] = 1;
  const Model model;
  const Sequence<double, 2> x{{0.5, 0}, {-1, 0}};
  for (const Timing timing : {Timing::current_only, Timing::previous_run}) {
    Probe probe;
    REQUIRE(attach(probe, controller, {{.tap = "1.b"}}, {{.tap = "0.a"}, {.tap = "2.c"}}, {0, 1}, 2,
                   timing));
    const auto first = watch(model, x, probe);
    REQUIRE(first(0, 1) == 0.5);  // 2 * 0.5 * sigmoid(0), at c only
    REQUIRE(first(1, 1) == 0);
    const auto second = watch(model, x, probe);
    REQUIRE(second(0, 1) == (timing == Timing::current_only ? 0.5 : 1.0));
    REQUIRE(second(1, 1) == 0);
  }
  Probe probe;
  REQUIRE(message(attach(probe, controller, {{.tap = "1.b"}}, {{.tap = "2.c"}}, {0, 1}, 2)) ==
          "steering: wanted 2 outputs and some inputs, found 1 and 1");
  REQUIRE(message(attach(probe, controller, {{.tap = "1.b"}}, {{.tap = "2.c"}, {.tap = "2.c"}},
                         {0, 0}, 2)) == "direction: wanted another than 0, found 0");
  REQUIRE(attach(probe, controller, {{.tap = "0.a"}, {.tap = "1.b"}},
                 {{.tap = "2.c"}, {.tap = "2.c"}}, {0, 1}, 2));
  REQUIRE_THROWS_WITH(watch(model, x, probe),
                      has_part("inputs of the controller: wanted 2 numbers"));
}

TEST_CASE("The loss of a controller has the slope it says", "[probe][steer]") {
  Random random(5);
  Sequence<double, 3> y(3);
  for (Index i = 0; i < y.size(); ++i) y.data()[i] = random.normal();
  const std::vector<int> harmful{1, 0, 1};
  const auto loss = steering_loss(y, harmful);
  for (Index i = 0; i < y.size(); ++i) {
    auto up = y, down = y;
    up.data()[i] += 1e-6;
    down.data()[i] -= 1e-6;
    const double slope =
        (steering_loss(up, harmful).value - steering_loss(down, harmful).value) / 2e-6;
    REQUIRE(loss.dy.data()[i] == Approx(slope).margin(1e-9));
  }
  REQUIRE(loss.dy(1, 1) == 0);
  const auto sure = steering_loss(Sequence<double, 2>{{0, 0}}, {0});
  REQUIRE(sure.value == Approx(std::log(2.0)));
  REQUIRE_THROWS_WITH(steering_loss(y, {1}), has_part("labels: wanted 3, found 1"));
}
