#include <limen/exit/channel_gate.hpp>
#include <limen/exit/filter_selection.hpp>
#include <limen/exit/gated_conv.hpp>
#include <limen/kernel/open_channels.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/width.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

template <class Real, Index D>
Sequence<Real, D> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

constexpr GatedConvConfig plain(GateKind kind, bool soft = false) {
  return {.conv = {.image = {4, 3}, .d_in = 5, .d_out = 19, .padding = {1, 1}},
          .gate = kind,
          .soft = soft,
          .norm = false};
}

/// Slopes are measured in double: a step that float can see crosses a kink, or a channel's closing.
template <class L>
void hold_with_kinks(check::Options options = {}) {
  Random random(options.seed);
  laws::hold(L::template with_scalar<double>::initialized(random), options);
  options.slope = 1e3;
  laws::hold(L::template with_scalar<float>::initialized(random), options);
}

}  // namespace

// ── Gates ────────────────────────────────────────────────────────────────────────────────────────

TEMPLATE_TEST_CASE(
    "Gates keep the laws of layers", "[exit][width][laws]",
    (ChannelGate<ChannelGateConfig{.d_in = 1, .d_out = 1, .kind = GateKind::top}>),
    (ChannelGate<ChannelGateConfig{.d_in = 5, .d_out = 17, .positions = 3, .kind = GateKind::top}>),
    (ChannelGate<ChannelGateConfig{.d_in = 3, .d_out = 4, .positions = 2}>),
    (ChannelGate<ChannelGateConfig{
         .d_in = 17, .d_out = 5, .kind = GateKind::straight_through, .soft = true}>),
    (ChannelGate<ChannelGateConfig{.d_in = 4,
                                   .d_out = 3,
                                   .positions = 2,
                                   .kind = GateKind::gumbel,
                                   .tau = 0.5,
                                   .soft = true}>)) {
  hold_with_kinks<TestType>();
}

TEST_CASE("A gate of the largest keeps as many as it says, the lower of equals", "[exit][width]") {
  using Gate = ChannelGate<ChannelGateConfig{.d_in = 1, .d_out = 5, .kind = GateKind::top}, double>;
  STATIC_REQUIRE(Gate::kept == 3);
  Gate gate;
  const double b[] = {1, 4, 2, 2, -1};
  for (Index o = 0; o < 5; ++o) gate.bias[o] = b[o];
  const auto g = forward(gate, Sequence<double, 1>{{0}});
  const double wanted[] = {0, 4, 2, 2, 0};
  golden::same("g", g, wanted, 0);
  gate.bias[2] = 1;  // equal to channel 0, which is lower
  const double lower[] = {1, 4, 0, 2, 0};
  golden::same("g", forward(gate, Sequence<double, 1>{{0}}), lower, 0);
}

TEST_CASE("A hard gate goes back like its soft twin", "[exit][width]") {
  constexpr ChannelGateConfig hard{
      .d_in = 3, .d_out = 4, .positions = 2, .kind = GateKind::straight_through};
  constexpr ChannelGateConfig soft = [](ChannelGateConfig c) {
    c.soft = true;
    return c;
  }(hard);
  Random random(3);
  const auto a = ChannelGate<hard, double>::initialized(random);
  ChannelGate<soft, double> b;
  b.weight = a.weight;
  b.bias = a.bias;
  ChannelGate<hard, double> da;
  ChannelGate<soft, double> db;
  ChannelGate<hard, double>::Cache ca;
  ChannelGate<soft, double>::Cache cb;
  const auto g = forward(a, noise<double, 6>(5, 1), ca);
  for (Index i = 0; i < g.size(); ++i) REQUIRE((g.data()[i] == 0 || g.data()[i] == 1));
  forward(b, noise<double, 6>(5, 1), cb);
  const auto dg = noise<double, 4>(5, 2);
  const auto x = backward(a, dg, ca, da), y = backward(b, dg, cb, db);
  for (Index i = 0; i < x.size(); ++i) REQUIRE(x.data()[i] == y.data()[i]);
  REQUIRE(da.weight == db.weight);
  REQUIRE(da.bias == db.bias);
}

TEST_CASE("Gumbel noise is drawn from the run's generator, and opens as often as it should",
          "[exit][width]") {
  using Gate =
      ChannelGate<ChannelGateConfig{.d_in = 1, .d_out = 2, .kind = GateKind::gumbel}, double>;
  Gate gate;
  gate.bias[0] = 1;
  gate.bias[1] = -0.5;
  const auto run = [&](std::uint64_t seed) {
    Random random(seed);
    Context context{.random = &random};
    NoState state;
    Gate::Cache cache;
    return gate.forward(Sequence<double, 1>::zeros(4000), Batch<NoState>(state, &context), cache);
  };
  const auto g = run(7), same = run(7), other = run(8);
  REQUIRE(std::memcmp(g.data(), same.data(), sizeof(double) * 8000) == 0);
  REQUIRE(std::memcmp(g.data(), other.data(), sizeof(double) * 8000) != 0);
  double open[2] = {0, 0};
  for (Index t = 0; t < 4000; ++t) {
    for (Index o = 0; o < 2; ++o) open[o] += g(t, o) / 4000;
  }
  REQUIRE(open[0] == Approx(1 / (1 + std::exp(-1.0))).margin(0.03));
  REQUIRE(open[1] == Approx(1 / (1 + std::exp(0.5))).margin(0.03));
}

// ── Self-supervised targets ──────────────────────────────────────────────────────────────────────

TEST_CASE("Targets of the card's four channels", "[exit][width][filter]") {
  const double a[] = {4, 1, 3, 2};
  double mask[4];
  const auto target = [&](double r, bool one = true) {
    filter_target(a, 4, {.mass = r, .at_least_one = one}, mask);
    return std::vector<double>(mask, mask + 4);
  };
  REQUIRE(target(0.8) == std::vector<double>{1, 0, 1, 0});
  REQUIRE(target(0.7) == std::vector<double>{1, 0, 1, 0});
  REQUIRE(target(0.4) == std::vector<double>{1, 0, 0, 0});
  REQUIRE(target(0.3) == std::vector<double>{1, 0, 0, 0});
  REQUIRE(target(0.3, false) == std::vector<double>(4, 0));
  REQUIRE(target(1) == std::vector<double>(4, 1));
  REQUIRE(target(-1) == std::vector<double>(4, 1));
  const double zeros[] = {0, 0, 0, 0}, some[] = {0, 2, 0, 2};
  filter_target(zeros, 4, {}, mask);
  REQUIRE(mask[3] == 1);
  filter_target(some, 4, {.mass = 1}, mask);
  REQUIRE((mask[0] == 0 && mask[1] == 1 && mask[3] == 1));
  filter_target(some, 4, {.mass = 0.5}, mask);
  REQUIRE((mask[1] == 1 && mask[3] == 0));  // of equals the lower
  uniform_filter_target(a, 4, 0.5, mask);
  REQUIRE((mask[0] == 1 && mask[1] == 0 && mask[2] == 1 && mask[3] == 0));
  REQUIRE_THROWS_WITH(fits_mass(0), has_part("wanted at most 1, and not 0"));
  REQUIRE_THROWS(fits_mass(1.5));
  const auto t =
      filter_targets<2>(SequenceView<double, 4>(Sequence<double, 4>{{1, 0, -3, 1}}), {.mass = 0.8});
  REQUIRE((t(0, 0) == 1 && t(0, 1) == 0));  // largest |y| over positions: 3 and 1
}

TEST_CASE("The predictor's loss and slope of the card", "[exit][width][filter]") {
  const Sequence<double, 3> e{{0, 2, -1}}, target{{1, 0, 0}};
  const auto loss = filter_loss(SequenceView<double, 3>(e), SequenceView<double, 3>(target));
  REQUIRE(loss.value == Approx(3.133337).epsilon(1e-6));
  REQUIRE(loss.de(0, 0) == Approx(-0.5));
  REQUIRE(loss.de(0, 1) == Approx(0.880797).epsilon(1e-6));
  REQUIRE(loss.de(0, 2) == Approx(0.268941).epsilon(1e-5));
}

TEST_CASE("A gate learns from its own layer, and the task does not touch it",
          "[exit][width][filter]") {
  using L = GatedConv<plain(GateKind::filter), double>;
  Random random(1);
  auto layer = L::initialized(random);
  L gradient;
  L::Cache cache;
  const auto x = noise<double, L::in>(6, 4);
  backward(layer, forward(layer, Sequence<double, L::in>(x), cache), cache, gradient);
  for (const double v : gradient.gate.weight.flat()) REQUIRE(v == 0);
  set_zero(gradient);
  double before = 0, after = 0;
  for (int step = 0; step < 300; ++step) {
    set_zero(gradient);
    forward(layer, Sequence<double, L::in>(x), cache);
    after = layer.predictor_step(cache, gradient, {.mass = 0.6});
    if (step == 0) before = after;
    for (const double v : gradient.conv.weight.flat()) REQUIRE(v == 0);
    for_each_tensor(
        [](auto& w, const auto& d) {
          for (Index i = 0; i < w.size; ++i) w[i] -= 0.5 * d[i];
        },
        layer.gate, gradient.gate);
  }
  REQUIRE(after < 0.8 * before);
}

// ── Gated convolutions ───────────────────────────────────────────────────────────────────────────

TEMPLATE_TEST_CASE(
    "Gated convolutions keep the laws of layers", "[exit][width][laws]",
    (GatedConv<plain(GateKind::top)>), (GatedConv<plain(GateKind::filter)>),
    (GatedConv<plain(GateKind::straight_through, true)>),
    (GatedConv<GatedConvConfig{.conv = {.image = {1, 1}, .d_in = 7, .d_out = 33, .kernel = {1, 1}},
                               .gate = GateKind::top,
                               .norm = false}>)) {
  hold_with_kinks<TestType>({.rows = 3, .most_slopes = 60});
}

TEST_CASE("A gated convolution with a norm keeps the laws of layers that measure the batch",
          "[exit][width][laws]") {
  using L = GatedConv<GatedConvConfig{.conv = {.image = {3, 3}, .d_in = 3, .d_out = 8},
                                      .gate = GateKind::top}>;
  hold_with_kinks<L>({.rows = 4,
                      .training_is_inference = false,
                      .rows_are_independent = false,
                      .most_slopes = 60});
}

TEST_CASE("What is skipped is what would have been 0", "[exit][width]") {
  constexpr GatedConvConfig c{.conv = {.image = {6, 5}, .d_in = 37, .d_out = 45, .padding = {1, 1}},
                              .gate = GateKind::straight_through};
  using L = GatedConv<c, float>;
  Random random(2);
  auto layer = L::initialized(random);
  fill_normal(layer.gate.bias, 1, random);
  fill_normal(layer.norm.running_mean, 0.3, random);
  const auto fast = prepare(layer);
  auto x = noise<float, L::in>(5, 3);
  for (Index t = 0; t < x.rows(); ++t) {  // another share of the inputs is closed in each image
    for (Index n = 0; n < L::in; ++n) {
      if ((n % 37) % (t + 1) != 0) x(t, n) = 0;
    }
  }
  const auto y = forward(layer, x), z = forward(fast, x);
  Index closed = 0;
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(z.data()[i] == Approx(y.data()[i]).margin(2e-5));
    closed += z.data()[i] == 0 ? 1 : 0;
  }
  REQUIRE(closed > y.size() / 4);
  const Threads two(2);
  const auto w = forward(fast, x);
  REQUIRE(std::memcmp(w.data(), z.data(), static_cast<std::size_t>(z.size()) * sizeof(float)) == 0);
}

TEST_CASE("Open rows and columns are packed as they lie", "[exit][width][kernel]") {
  for (const Index O : {1, 5, 33, 64}) {
    for (const Index I : {1, 7, 16, 35}) {
      const Index taps = 3, K = taps * I;
      std::vector<float> w(static_cast<std::size_t>(O * K));
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i + 1);
      std::vector<Index> outs, ins;
      for (Index o = 0; o < O; o += 1 + o % 3) outs.push_back(o);
      for (Index i = 0; i < I; i += 1 + i % 2) ins.push_back(i);
      const OpenChannels a{outs.data(), static_cast<Index>(outs.size())},
          b{ins.data(), static_cast<Index>(ins.size())};
      Buffer<float> to(open_panels_size<float>(a.count, taps, b.count));
      const auto panels = pack_open<float>(w.data(), K, taps, I, a, b, to.data());
      REQUIRE(panels.rows == a.count);
      REQUIRE(panels.cols == taps * b.count);
      constexpr Index width = panel_width<float>;
      for (Index n = 0; n < (a.count + width - 1) / width * width; ++n) {
        for (Index k = 0; k < panels.cols; ++k) {
          const float got = to[n / width * width * panels.cols + k * width + n % width];
          const float wanted =
              n < a.count
                  ? w[static_cast<std::size_t>(a.at[n] * K + k / b.count * I + b.at[k % b.count])]
                  : 0;
          REQUIRE(got == wanted);
        }
      }
    }
  }
}

TEST_CASE("Gated convolutions and targets are PyTorch's", "[exit][width][golden]") {
  namespace g = goldens::width;
  golden::check<
      GatedConv<GatedConvConfig{.conv = {.image = {4, 3}, .d_in = 2, .d_out = 6, .padding = {1, 1}},
                                .gate = GateKind::top},
                double>>({g::top::x, g::top::y, g::top::dy, g::top::dx},
                         {{g::top::weight, g::top::d_weight},
                          {g::top::conv_bias, g::top::d_conv_bias},
                          {g::top::shift, g::top::d_shift},
                          {g::top::gate_weight, g::top::d_gate_weight},
                          {g::top::gate_bias, g::top::d_gate_bias}},
                         1e-9);
  Sequence<double, 6> a(4);
  for (Index i = 0; i < 24; ++i) a.data()[i] = g::mask::a[i];
  golden::same("targets", filter_targets<6>(SequenceView<double, 6>(a), {.mass = 0.7}),
               g::mask::targets, 0);
}
