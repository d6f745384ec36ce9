#include <limen/exit/channel_gate.hpp>
#include <limen/exit/gated_conv.hpp>

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

/// Σ dy y + what the layer adds of its own, for one draw of its noise.
template <class L, Index D>
double loss_of(const L& layer, const Sequence<double, L::in>& x, const Sequence<double, D>& dy,
               typename L::Cache& cache, std::uint64_t seed) {
  Random random(seed);
  Context context{.random = &random};
  NoState state;
  const auto y = layer.forward(Sequence<double, L::in>(x), Batch<NoState>(state, &context), cache);
  double sum = cache.loss();
  for (Index i = 0; i < y.size(); ++i) sum += dy.data()[i] * y.data()[i];
  return sum;
}

/// Backward of the layer is the slope of that, in every parameter and every input.
template <class L>
void slopes_are_true(std::uint64_t seed, double bias) {
  Random random(seed);
  auto layer = L::initialized(random);
  if constexpr (requires { layer.gate; }) {
    fill_normal(layer.gate.bias, bias, random);
  } else {
    fill_normal(layer.bias, bias, random);
  }
  auto x = noise<double, L::in>(3, seed + 1);
  const auto dy = noise<double, L::out>(3, seed + 2);
  typename L::Cache cache;
  loss_of(layer, x, dy, cache, 5);
  L gradient;
  NoState state;
  Random unused(5);
  Context context{.random = &unused};
  const auto dx = layer.backward(dy, Batch<NoState>(state, &context), cache, gradient);
  constexpr double h = 1e-6;
  typename L::Cache ignored;
  const auto slope = [&](double& at) {
    const double before = at;
    at = before + h;
    const double up = loss_of(layer, x, dy, ignored, 5);
    at = before - h;
    const double down = loss_of(layer, x, dy, ignored, 5);
    at = before;
    return (up - down) / (2 * h);
  };
  for (Index i = 0; i < x.size(); ++i) {
    INFO("x " << i);
    REQUIRE(dx.data()[i] == Approx(slope(x.data()[i])).margin(1e-7).epsilon(1e-6));
  }
  for_each_parameter(
      [&](const std::string& name, auto& value, const auto& d) {
        using T = std::remove_cvref_t<decltype(value)>;
        for (Index i = 0; i < T::size; i += 1 + T::size / 40) {
          INFO(name << ' ' << i);
          REQUIRE(d[i] == Approx(slope(value[i])).margin(1e-7).epsilon(1e-6));
        }
      },
      layer, gradient);
}

constexpr GatedConvConfig filter{
    .conv = {.image = {4, 3}, .d_in = 2, .d_out = 6, .padding = {1, 1}},
    .gate = GateKind::filter,
    .joint = 0.4,
    .target = {.mass = 0.7},
    .norm = false};

}  // namespace

// ── Hard concrete ────────────────────────────────────────────────────────────────────────────────

TEMPLATE_TEST_CASE(
    "Hard-concrete gates keep the laws of layers", "[exit][width][laws]",
    (ChannelGate<ChannelGateConfig{.d_in = 1, .d_out = 1, .kind = GateKind::hard_concrete}>),
    (ChannelGate<ChannelGateConfig{
         .d_in = 5, .d_out = 17, .positions = 3, .kind = GateKind::hard_concrete}>)) {
  check::Options options;
  Random random(options.seed);
  laws::hold(TestType::template with_scalar<double>::initialized(random), options);
  options.slope = 1e3;  // float sees the kinks of |x|
  laws::hold(TestType::template with_scalar<float>::initialized(random), options);
}

TEST_CASE("A hard-concrete gate is shut, half open, open", "[exit][width]") {
  using Gate =
      ChannelGate<ChannelGateConfig{.d_in = 1, .d_out = 3, .kind = GateKind::hard_concrete},
                  double>;
  Gate gate;
  gate.bias[0] = -3;  // 1.2 σ(-3) - 0.1 < 0
  gate.bias[1] = 0;
  gate.bias[2] = 3;
  const double wanted[] = {0, 0.5, 1};
  golden::same("g", forward(gate, Sequence<double, 1>{{7}}), wanted, 1e-15);
}

TEST_CASE("A hard-concrete gate is open as often as its price says", "[exit][width]") {
  using Gate =
      ChannelGate<ChannelGateConfig{
                      .d_in = 1, .d_out = 2, .kind = GateKind::hard_concrete, .price = 0.5},
                  double>;
  Gate gate;
  gate.bias[0] = 0;
  gate.bias[1] = -1.5;
  Random random(3);
  Context context{.random = &random};
  NoState state;
  Gate::Cache cache;
  const auto g =
      gate.forward(Sequence<double, 1>::zeros(4000), Batch<NoState>(state, &context), cache);
  double open = 0;
  for (Index i = 0; i < g.size(); ++i) open += g.data()[i] > 0 ? 1.0 / 4000 : 0;
  const double shift = 2.0 / 3 * std::log(0.1 / 1.1);
  const double chance = 1 / (1 + std::exp(shift)) + 1 / (1 + std::exp(shift + 1.5));
  REQUIRE(chance == Approx(0.8318 + 0.5246).epsilon(1e-3));
  REQUIRE(cache.cost == Approx(chance).epsilon(1e-12));
  REQUIRE(cache.loss() == Approx(chance / 2).epsilon(1e-12));
  REQUIRE(open == Approx(chance).margin(0.03));
}

TEST_CASE("Hard-concrete gates and their price are PyTorch's", "[exit][width][golden]") {
  namespace g = goldens::width::hard;
  using Gate =
      ChannelGate<ChannelGateConfig{
                      .d_in = 3, .d_out = 4, .kind = GateKind::hard_concrete, .price = 0.3},
                  double>;
  golden::check<Gate>({g::x, g::y, g::dy, g::dx},
                      {{g::weight, g::d_weight}, {g::gate_bias, g::d_gate_bias}}, 1e-10);
  const auto gate = golden::layer_of<Gate>({{g::weight, {}}, {g::gate_bias, {}}});
  Gate::Cache cache;
  forward(*gate, golden::rows_of<double, 3>(g::x), cache);
  REQUIRE(cache.cost == Approx(g::cost[0]).epsilon(1e-10));
}

// ── What open channels cost ──────────────────────────────────────────────────────────────────────

TEST_CASE("The price of open channels goes back into gates and inputs", "[exit][width]") {
  constexpr ChannelGateConfig c{.d_in = 3, .d_out = 5, .positions = 2, .price = 0.7};
  constexpr auto kind = [](ChannelGateConfig a, GateKind k, bool soft = false) {
    a.kind = k;
    a.soft = soft;
    return a;
  };
  slopes_are_true<ChannelGate<kind(c, GateKind::top), double>>(1, 1);
  slopes_are_true<ChannelGate<kind(c, GateKind::straight_through, true), double>>(2, 1);
  slopes_are_true<ChannelGate<kind(c, GateKind::gumbel, true), double>>(3, 1);
  slopes_are_true<ChannelGate<kind(c, GateKind::hard_concrete), double>>(4, 2);
}

TEST_CASE("Of the boosting gate all that is above 0 is paid for, kept or not", "[exit][width]") {
  using Gate =
      ChannelGate<ChannelGateConfig{
                      .d_in = 1, .d_out = 4, .kind = GateKind::top, .density = 0.25, .price = 2},
                  double>;
  Gate gate, gradient;
  const double b[] = {3, 1, -1, 2};
  for (Index o = 0; o < 4; ++o) gate.bias[o] = b[o];
  Gate::Cache cache;
  const auto g = forward(gate, Sequence<double, 1>::zeros(2), cache);
  REQUIRE((g(0, 0) == 3 && g(0, 1) == 0 && g(0, 3) == 0));
  REQUIRE(cache.cost == Approx(6));
  backward(gate, Sequence<double, 4>::zeros(2), cache, gradient);
  const double wanted[] = {2, 2, 0, 2};
  for (Index o = 0; o < 4; ++o) REQUIRE(gradient.bias[o] == Approx(wanted[o]));
}

TEST_CASE("A price closes channels that the task does not need", "[exit][width]") {
  using L = GatedConv<GatedConvConfig{.conv = {.image = {4, 3}, .d_in = 2, .d_out = 8},
                                      .gate = GateKind::hard_concrete,
                                      .price = 0.02,
                                      .norm = false},
                      double>;
  Random random(1);
  auto layer = L::initialized(random);
  const auto x = noise<double, L::in>(16, 2);
  const auto target = [&] {  // channels 0 and 1 only
    auto y = forward(layer.conv, x);
    activate(Activation::relu, y.data(), y.data(), y.size());
    for (Index i = 0; i < y.size(); ++i) y.data()[i] *= i % 8 < 2 ? 1 : 0;
    return y;
  }();
  for (int step = 0; step < 600; ++step) {
    L::Cache cache;
    L gradient;
    Context context{.random = &random};
    NoState state;
    const Batch<NoState> batch(state, &context);
    auto dy = layer.forward(Sequence<double, L::in>(x), batch, cache);
    for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = (dy.data()[i] - target.data()[i]) / 16;
    layer.backward(dy, batch, cache, gradient);
    for_each_tensor(
        [](auto& w, const auto& d) {
          for (Index i = 0; i < w.size; ++i) w[i] -= 0.3 * d[i];
        },
        layer.gate, gradient.gate);
  }
  const auto g = layer.gate.forward(SequenceView<double, L::in>(x), {});
  double wanted = 0, others = 0;
  for (Index t = 0; t < 16; ++t) {
    for (Index o = 0; o < 8; ++o) (o < 2 ? wanted : others) += g(t, o) > 0 ? 1 : 0;
  }
  REQUIRE(wanted == 32);
  REQUIRE(others < 0.1 * 96);
}

TEST_CASE("The inference form scales by a gate that is neither 0 nor 1", "[exit][width]") {
  using L = GatedConv<GatedConvConfig{
      .conv = {.image = {4, 3}, .d_in = 5, .d_out = 19, .padding = {1, 1}},
      .gate = GateKind::hard_concrete}>;
  Random random(4);
  auto layer = L::initialized(random);
  fill_normal(layer.gate.bias, 2, random);
  const auto x = noise<float, L::in>(6, 2);
  const auto fast = prepare(layer);
  const auto y = forward(layer, x), z = forward(fast, x);
  Index closed = 0;
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(z.data()[i] == Approx(y.data()[i]).margin(1e-5));
    closed += z.data()[i] == 0 ? 1 : 0;
  }
  REQUIRE(closed > 0);
}

// ── Filters that learn jointly ───────────────────────────────────────────────────────────────────

TEST_CASE("Jointly, the filter's lesson moves the layers below", "[exit][width][filter]") {
  slopes_are_true<GatedConv<filter, double>>(6, 0.5);
}

TEST_CASE("Joint filters are PyTorch's", "[exit][width][filter][golden]") {
  namespace g = goldens::width::joint;
  using L = GatedConv<filter, double>;
  golden::check<L>({g::x, g::y, g::dy, g::dx},
                   {{g::weight, g::d_weight},
                    {g::conv_bias, g::d_conv_bias},
                    {g::gate_weight, g::d_gate_weight},
                    {g::gate_bias, g::d_gate_bias}},
                   1e-10);
  const auto layer = golden::layer_of<L>(
      {{g::weight, {}}, {g::conv_bias, {}}, {g::gate_weight, {}}, {g::gate_bias, {}}});
  L::Cache cache;
  forward(*layer, golden::rows_of<double, L::in>(g::x), cache);
  REQUIRE(cache.own.value == Approx(g::own[0]).epsilon(1e-10));
  REQUIRE(cache.loss() == Approx(0.4 * g::own[0]).epsilon(1e-10));
}

TEST_CASE("Decoupled, the lesson of a filter leaves its input alone", "[exit][width][filter]") {
  constexpr GatedConvConfig apart = [](GatedConvConfig c) {
    c.joint = 0;
    return c;
  }(filter);
  Random a(1), b(1);
  const auto joint = GatedConv<filter, double>::initialized(a);
  const auto alone = GatedConv<apart, double>::initialized(b);
  const auto x = noise<double, 24>(3, 2);
  const auto dy = noise<double, 72>(3, 3);
  GatedConv<filter, double>::Cache ca;
  GatedConv<apart, double>::Cache cb;
  GatedConv<filter, double> da;
  GatedConv<apart, double> db;
  forward(joint, Sequence<double, 24>(x), ca);
  forward(alone, Sequence<double, 24>(x), cb);
  const auto dxa = backward(joint, dy, ca, da), dxb = backward(alone, dy, cb, db);
  double moved = 0;
  for (Index i = 0; i < dxa.size(); ++i) moved += std::abs(dxa.data()[i] - dxb.data()[i]);
  REQUIRE(moved > 1e-4);
  REQUIRE(da.conv.weight == db.conv.weight);
  REQUIRE(cb.loss() == 0);
  alone.predictor_step(cb, db, {.mass = 0.7}, 0.4);  // then the gates have learned the same
  for (Index i = 0; i < da.gate.weight.size; ++i) {
    REQUIRE(db.gate.weight[i] == Approx(da.gate.weight[i]).epsilon(1e-12));
  }
}
