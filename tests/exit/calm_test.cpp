#include <limen/exit/calm.hpp>

#include <limen/attention/multi_head_attention.hpp>
#include <limen/exit/early_exit.hpp>
#include <limen/exit/risk.hpp>
#include <limen/nn/gru.hpp>

#include "../catch.hpp"
#include "../compose/layers.hpp"

using namespace limen;
using namespace parts;

namespace {

constexpr EarlyExitConfig notes{.skipped = Skipped::note};
constexpr AttentionConfig attention{
    .d_model = 8, .n_heads = 2, .capacity = 32, .rope = {.width = 4}};
using Mixer = Residual<Sequential<Norm<8>, Attention<attention>>>;
using Feed = Residual<Sequential<Norm<8>, Map<8, 16>, Bend<16>, Map<16, 8>>>;
using Head = Exit<Sequential<Norm<8>, Map<8, 5>>>;
using Decoder = EarlyExitWith<notes, Mixer, Feed, Head, Mixer, Feed, Head, Mixer, Feed, Head>;

const auto sometimes = [](auto z, Index k) {
  return std::sin(97 * static_cast<double>(z[0])) > (k == 0 ? 0.3 : 0.0);
};

template <std::size_t I>
auto seen(const Decoder::State& state) {
  return get<1>(get<I>(state)).seen;
}

}  // namespace

TEST_CASE("Whoever left before, later tokens find it in the cache of every layer", "[exit][calm]") {
  Random random(1);
  const auto net = Decoder::initialized(random);
  Decoder::State state{};
  bool early = false, late = false;
  for (Index t = 0; t < 20; ++t) {
    const auto x = noise<float, 8>(1, random);
    const auto left = net.step(x.row(0), state, sometimes);
    early = early || left.exit == 0;
    late = late || left.exit == 2;
    REQUIRE(seen<0>(state) == t + 1);
    REQUIRE(seen<3>(state) == t + 1);
    REQUIRE(seen<6>(state) == t + 1);
  }
  REQUIRE(early);
  REQUIRE(late);
}

TEST_CASE("Skipped layers note the keys and values of the last state there was", "[exit][calm]") {
  Random random(1);
  const auto net = Decoder::initialized(random);
  const auto x = noise<float, 8>(2, random);
  // by hand: token 0 leaves at the first exit, token 1 goes to the end
  Decoder::State by_hand{};
  const auto at = [&]<std::size_t I>(std::integral_constant<std::size_t, I>, const auto& h) {
    return get<I>(net.parts).step(h, get<I>(by_hand));
  };
  constexpr std::integral_constant<std::size_t, 0> p0;
  constexpr std::integral_constant<std::size_t, 1> p1;
  constexpr std::integral_constant<std::size_t, 3> p3;
  constexpr std::integral_constant<std::size_t, 4> p4;
  constexpr std::integral_constant<std::size_t, 6> p6;
  constexpr std::integral_constant<std::size_t, 7> p7;
  const auto h = at(p1, at(p0, x.row(0)));
  for (const bool third : {false, true}) {  // both deeper layers see the same h
    const auto& mixer = third ? get<6>(net.parts) : get<3>(net.parts);
    auto& cache = third ? get<6>(by_hand) : get<3>(by_hand);
    NoState none;
    const auto normed = get<0>(mixer.inner.layers).step(h, none);
    get<1>(mixer.inner.layers).step(normed, get<1>(cache));  // its y is not wanted
  }
  const auto deep = at(p7, at(p6, at(p4, at(p3, at(p1, at(p0, x.row(1)))))));
  Decoder::State state{};
  Index t = 0;
  const auto first_leaves = [&](auto, Index k) { return t == 0 && k == 0; };
  REQUIRE(net.step(x.row(0), state, first_leaves).exit == 0);
  ++t;
  const auto left = net.step(x.row(1), state, first_leaves);
  REQUIRE(left.exit == 2);
  Sequential<Norm<8>, Map<8, 5>>::State no_state{};
  const auto z = get<8>(net.parts).head.step(deep, no_state);
  for (Index c = 0; c < 5; ++c) REQUIRE(left.logits[c] == z[c]);
  // a cache that stood still would have given something else
  using Still = EarlyExit<Mixer, Feed, Head, Mixer, Feed, Head, Mixer, Feed, Head>;
  const Still still{net.parts};
  Still::State other{};
  t = 0;
  still.step(x.row(0), other, first_leaves);
  ++t;
  REQUIRE(still.step(x.row(1), other, first_leaves).logits[0] != z[0]);
}

TEST_CASE("With notes a run is its steps, sequence by sequence", "[exit][calm]") {
  Random random(1);
  const auto net = prepare(Decoder::initialized(random));
  using State = Decoder::State;
  const Index offsets[] = {0, 4, 4, 5, 16};
  const auto x = noise<float, 8>(16, random);
  std::vector<State> states(4), stepped(4);
  const auto left = net.run(x, {std::span<State>(states), offsets}, sometimes);
  for (std::size_t b = 0; b < 4; ++b) {
    for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
      const auto one = net.step(x.row(t), stepped[b], sometimes);
      REQUIRE(one.exit == left.exit[t]);
      for (Index c = 0; c < 5; ++c) REQUIRE(one.logits[c] == left.logits(t, c));
    }
    REQUIRE(seen<6>(states[b]) == offsets[b + 1] - offsets[b]);
  }
}

TEST_CASE("A recurrent layer that was skipped takes the step all the same", "[exit][calm]") {
  using Unit = Gru<GruConfig{.d_in = 6, .d_hidden = 6}>;
  using Net = EarlyExitWith<notes, Map<6, 6>, Exit<Map<6, 2>>, Unit, Exit<Map<6, 2>>>;
  Random random(5);
  const auto net = Net::initialized(random);
  const auto x = noise<float, 6>(1, random);
  Net::State left{};
  net.step(x.row(0), left, AlwaysLeave{});
  Unit::State stepped{};
  NoState none;
  get<2>(net.parts).step(get<0>(net.parts).step(x.row(0), none), stepped);
  REQUIRE(std::memcmp(&get<2>(left), &stepped, sizeof(stepped)) == 0);
}

TEST_CASE("The threshold for later tokens decays from 0.8 to 0.72", "[exit][calm]") {
  const DecayingThreshold threshold{.least = 0.8, .tau = 4, .most = 10};
  REQUIRE(threshold.check());
  REQUIRE(threshold.at(0) == Approx(.8));
  REQUIRE(threshold.at(5) == Approx(.730827).epsilon(1e-6));
  REQUIRE(threshold.at(10) == Approx(.721465).epsilon(1e-6));
  REQUIRE_FALSE(DecayingThreshold{.least = 1.2}.check());
  REQUIRE_FALSE(DecayingThreshold{.most = 0}.check());
}

TEST_CASE("A state that stands still is saturated, the first has nothing to compare with",
          "[exit][calm]") {
  using Net = EarlyExit<Map<2, 2>, Exit<Map<2, 2>>, Map<2, 2>, Exit<Map<2, 2>>, Map<2, 2>,
                        Exit<Map<2, 2>>, Map<2, 2>, Exit<Map<2, 2>>>;
  Net net;
  for_each_parameter(
      [](const std::string& name, auto& w) {
        if (name.ends_with("weight")) w[0] = w[3] = 1;
      },
      net);
  get<2>(net.parts).bias[1] = 1;  // the second layer turns, the third does not
  const SaturationAtLeast<2> policy{0.999};
  const Sequence<float, 2> x{{1, 0}, {0, 1}, {std::numeric_limits<float>::quiet_NaN(), 0}};
  const auto left = net.run(x, {}, policy);
  REQUIRE(left.exit[0] == 2);
  REQUIRE(left.exit[1] == 1);  // (0, 1) to (0, 2): as it pointed before
  REQUIRE(left.exit[2] == 3);
  REQUIRE_FALSE(policy.check(2, 2));
  REQUIRE_FALSE(SaturationAtLeast<2>{1.5}.check(4, 2));
  // together with another one, each remembers for itself
  REQUIRE(net.run(x, {}, any_of(Patience{3}, policy)).exit[0] == 2);
}

TEST_CASE("A judge looks at the row, not at the logits", "[exit][calm]") {
  using Net = EarlyExit<Map<2, 2>, Exit<Map<2, 2>>, Map<2, 2>, Exit<Map<2, 2>>>;
  Net net;
  get<0>(net.parts).weight[0] = get<2>(net.parts).weight[0] = 1;
  Map<2, 2> judge;
  judge.weight(1, 0) = 1;  // σ(h_0)
  const auto left = net.run(Sequence<float, 2>{{3, 0}, {-1, 0}}, {}, JudgeAtLeast{&judge, 0.9});
  REQUIRE(left.exit[0] == 0);
  REQUIRE(left.exit[1] == 1);
  const Sequence<float, 6> y{{1, 0, 0, 1, 2, 1}, {0, 1, 0, 2, 0, 1}};
  const auto labels = consistency_labels<3>(SequenceView<float, 6>(y));
  REQUIRE(labels[0] == std::vector<int>{1, 1});
  REQUIRE(labels[1] == std::vector<int>{0, 1});
}

TEST_CASE("500 rows cannot tell a loss of 0.05 from none, a mean of 0.01 is p = 0.2",
          "[exit][risk]") {
  REQUIRE(risk_p_value(.01, 500, .05) == Approx(.2019).epsilon(1e-3));
  const std::vector<double> thresholds{1, 0.5};
  const auto zero = [](double) { return 0.0; };
  REQUIRE_THAT(threshold_for_risk(thresholds, 500, zero, {.most = .05}).error().message(),
               has_part("600 or more"));
  REQUIRE(*threshold_for_risk(thresholds, 600, zero, {.most = .05}) == 0.5);
  REQUIRE_FALSE(threshold_for_risk(thresholds, 600, zero, {.most = 0}));
}

TEST_CASE("The walk to a threshold ends at the first that fails", "[exit][risk]") {
  const std::vector<double> thresholds{0.9, 0.6, 0.3};
  const auto risk = [](double t) { return t == 0.6 ? 0.5 : 0.0; };
  REQUIRE(*threshold_for_risk(thresholds, 1000, risk, {.most = .05}) == 0.9);
}

TEST_CASE("Only rows that the last head had right can be lost, a row at the threshold too",
          "[exit][risk]") {
  const auto record_with = [](double confidence, char early, char last) {
    ExitRecord record;
    record.confidence = {std::vector<double>(1000, confidence), std::vector<double>(1000, 1)};
    record.correct = {std::vector<char>(1000, early), std::vector<char>(1000, last)};
    return record;
  };
  const RiskOptions how{.most = .05};
  REQUIRE(*threshold_for_accuracy_drop(record_with(0.5, 0, 0), how, {0.9, 0.5}) == 0.5);
  REQUIRE(*threshold_for_accuracy_drop(record_with(0.5, 0, 1), how, {0.9, 0.5}) == 0.9);
}

TEST_CASE("A threshold with a guarantee fails no more often than it says", "[exit][risk]") {
  // wrong early with probability 1 - c; the last head is always right
  const auto record_of = [](std::size_t rows, Random& random) {
    ExitRecord record{{{}, {}}, {{}, {}}};
    for (std::size_t t = 0; t < rows; ++t) {
      const double c = random.uniform();
      record.confidence[0].push_back(c);
      record.correct[0].push_back(random.uniform() < c);
      record.confidence[1].push_back(1);
      record.correct[1].push_back(1);
    }
    return record;
  };
  Random random(2);
  int failed = 0, used = 0;
  for (int n = 0; n < 200; ++n) {
    const auto record = record_of(1500, random);
    const double t = *threshold_for_accuracy_drop(record, {.most = .06, .chance = .1});
    const double risk = t > 1 ? 0 : (1 - t) * (1 - t) / 2;  // ∫_t^1 (1 - c) dc
    failed += risk > .06;
    used += t < .95;
  }
  REQUIRE(used == 200);
  REQUIRE(failed <= 20);
}
