#include <limen/spiking/dynamic_confidence.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>
#include <limen/spiking/encode.hpp>
#include <limen/spiking/leaky_integrator.hpp>
#include <limen/spiking/lif.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Exception& e) {
    return e.what();
  }
  return "";
}

using Net = Sequential<Linear<LinearConfig{.d_in = 6, .d_out = 20}>,
                       Lif<LifConfig{.d_model = 20, .threshold = 0.5}>,
                       Linear<LinearConfig{.d_in = 20, .d_out = 4}>>;

const Sequence<double, 3> example{{6, 2, 1}, {9, 1, 1}, {9, 3, 0}, {12, 0, 0}, {15, 0, 3}};

}  // namespace

TEST_CASE("Confidence grows as in the example, and stops at the fifth step",
          "[spiking][dynamic_confidence]") {
  const double expected[] = {0.3674, 0.4313, 0.4928, 0.5918, 0.6950};
  Evidence<double, 3> evidence;
  for (Index t = 0; t < 5; ++t) {
    const auto d = decide(example.row(t), {.threshold = 0.6, .steps = 100}, evidence);
    REQUIRE(d.has_value() == (t == 4));
    Evidence<double, 3> again;
    for (Index s = 0; s <= t; ++s) {
      const auto sure = decide(example.row(s), {.threshold = 0, .steps = 100}, again);
      if (s == t) REQUIRE(std::abs(sure->confidence - expected[t]) < 5e-5);
    }
    if (d) {
      REQUIRE(d->label == 0);
      REQUIRE(d->steps == 5);
    }
  }
  Evidence<double, 3> late;
  REQUIRE_FALSE(decide(example.row(0), {.threshold = 0.6, .steps = 2}, late));
  const auto last = decide(example.row(1), {.threshold = 0.6, .steps = 2}, late);
  REQUIRE(last);
  REQUIRE(last->steps == 2);
}

TEST_CASE("A threshold is strict", "[spiking][dynamic_confidence]") {
  Evidence<double, 2> a, b;
  const Vector<double, 2> o{1, 1};  // a confidence of exactly one half
  REQUIRE_FALSE(decide(VectorView<double, 2>(o), {.threshold = 0.5, .steps = 9}, a));
  REQUIRE(decide(VectorView<double, 2>(o), {.threshold = 0.499, .steps = 9}, b));
}

TEST_CASE("Each sample stops where it would alone, and the others close up",
          "[spiking][dynamic_confidence]") {
  constexpr Index steps = 12, B = 40;
  Random random(3);
  const auto net = Net::initialized(random);
  Sequence<float, 6> x(B * steps);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(2 * random.normal());
  std::vector<double> half_way;  // a threshold that some reach, and some do not
  for (Index b = 0; b < B; ++b) {
    Net::State state{};
    Evidence<float, 4> evidence;
    std::optional<Decision> d;
    for (Index t = 0; t < steps / 2; ++t) {
      const auto o = net.step(x.row(b * steps + t), state);
      d = decide(VectorView<float, 4>(o), {.threshold = 1, .smoothing = 6, .steps = steps / 2},
                 evidence);
    }
    half_way.push_back(d->confidence);
  }
  std::sort(half_way.begin(), half_way.end());
  const ConfidenceOptions options{
      .threshold = (half_way[29] + half_way[30]) / 2, .smoothing = 6, .steps = steps};
  const auto run = run_until_sure(net, SequenceView<float, 6>(x), options);
  REQUIRE(run.decisions.size() == B);
  Index ran = 0, early = 0;
  for (Index b = 0; b < B; ++b) {
    Net::State state{};
    Evidence<float, 4> evidence;
    std::optional<Decision> d;
    for (Index t = 0; t < steps && !d; ++t) {
      const auto o = net.step(x.row(b * steps + t), state);
      d = decide(VectorView<float, 4>(o), options, evidence);
    }
    REQUIRE(d);
    const Decision& got = run.decisions[static_cast<std::size_t>(b)];
    REQUIRE(got.label == d->label);
    REQUIRE(got.steps == d->steps);
    REQUIRE(std::abs(got.confidence - d->confidence) < 1e-5);
    ran += d->steps;
    early += d->steps < steps;
  }
  REQUIRE(run.steps == ran);
  REQUIRE(early > 5);
  REQUIRE(early < B);
}

TEST_CASE("A curve says what thresholds do, and the oracle what none can beat",
          "[spiking][dynamic_confidence]") {
  // Two samples: the first is right from its second step, the second at its first step only.
  const Sequence<double, 2> o{{0, 3}, {9, 0}, {9, 0}, {0, 6}, {9, 0}, {9, 0}};
  const std::vector<int> labels{0, 1};
  const double taus[] = {0.6, 0.96, 0.995};
  const auto curve = confidence_curve(o, labels, 3, taus, 3.0);
  // conf of the first: .73 (1), .88 (0), .993 (0); of the second: .88 (1), .73 (0), .982 (0)
  REQUIRE(curve[0].mean_steps == 1);
  REQUIRE(curve[0].accuracy == 0.5);
  REQUIRE(curve[1].mean_steps == 3);
  REQUIRE(curve[1].accuracy == 0.5);
  REQUIRE(curve[2].mean_steps == 3);
  const auto oracle = oracle_curve(o, labels, 3, 3.0);
  REQUIRE(oracle[0].accuracy == 0.5);
  REQUIRE(oracle[0].mean_steps == 1);
  REQUIRE(oracle[1].accuracy == 1);
  REQUIRE(oracle[1].mean_steps == 1.5);
  REQUIRE(oracle[2].accuracy == 1);
  for (const auto& p : curve) REQUIRE(oracle.back().accuracy >= p.accuracy);
}

TEST_CASE("A front keeps what nothing beats, and a choice is the earliest that is good enough",
          "[spiking][dynamic_confidence]") {
  const std::vector<ConfidencePoint> points{
      {0.9, 8, 0.95}, {0.5, 2, 0.8}, {0.6, 3, 0.78}, {0.7, 4, 0.94}, {0.8, 6, 0.94}};
  const auto front = pareto_front(points);
  REQUIRE(front.size() == 3);
  REQUIRE(front[0].threshold == 0.5);
  REQUIRE(front[1].threshold == 0.7);
  REQUIRE(front[2].threshold == 0.9);
  REQUIRE(choose_threshold(points)->threshold == 0.9);
  REQUIRE(choose_threshold(points, 0.02)->threshold == 0.7);
  REQUIRE(choose_threshold(points, 0.5)->threshold == 0.5);
  REQUIRE_FALSE(choose_threshold({}));
}

TEST_CASE("Thresholds that stop at once or never, and empty runs, are refused",
          "[spiking][dynamic_confidence]") {
  Random random(3);
  const auto net = Net::initialized(random);
  const auto x = Sequence<float, 6>::zeros(8);
  const auto tried = [&](ConfidenceOptions o) {
    return error_of([&] { run_until_sure(net, SequenceView<float, 6>(x), o); });
  };
  REQUIRE(tried({.threshold = 0.25, .steps = 4}).find("0.25") != std::string::npos);
  REQUIRE_FALSE(tried({.threshold = 1, .steps = 4}).empty());
  REQUIRE_FALSE(tried({.threshold = 0.6, .smoothing = 0, .steps = 4}).empty());
  REQUIRE_FALSE(tried({.threshold = 0.6, .steps = 0}).empty());
  REQUIRE_FALSE(tried({.threshold = 0.6, .steps = 3}).empty());
  REQUIRE(tried({.threshold = 0.6, .steps = 4}).empty());
  const double taus[] = {0.3};
  const std::vector<int> labels{0};
  REQUIRE_FALSE(error_of([&] { confidence_curve(example, labels, 5, taus); }).empty());
  REQUIRE_FALSE(error_of([&] { oracle_curve(example, labels, 4); }).empty());
}
