#include <limen/exit/block_drop.hpp>
#include <limen/exit/skip_gate.hpp>

#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>

#include <vector>

#include "../compose/layers.hpp"
#include "../laws.hpp"

using namespace limen;
using namespace parts;

namespace {

constexpr SkipGateConfig soft{.estimator = GateEstimator::soft};
template <Index D>
using Block = Residual<Sequential<Map<D, D>, Bend<D>>>;

/// F(x) = x + 10, gate a = x.
template <SkipGateConfig C>
SkipGate<C, Map<1, 1>, Map<1, 1>> plus_ten() {
  SkipGate<C, Map<1, 1>, Map<1, 1>> layer;
  layer.gate.weight[0] = layer.block.weight[0] = 1;
  layer.block.bias[0] = 10;
  return layer;
}

/// Gradients of plus_ten in double at x, dy = 1 each: of the gate's bias.
template <SkipGateConfig C>
double gate_slope(const Sequence<double, 1>& x, Random* random = nullptr) {
  using Layer = SkipGate<C, Map<1, 1>, Map<1, 1>>::template with_scalar<double>;
  Layer layer, gradient;
  layer.gate.weight[0] = layer.block.weight[0] = 1;
  layer.block.bias[0] = 10;
  typename Layer::Cache cache;
  Context context{random, nullptr};
  Batch<NoState> batch;
  batch.context = &context;
  layer.forward(Sequence<double, 1>(x), batch, cache);
  Sequence<double, 1> dy(x.rows());
  for (Index t = 0; t < x.rows(); ++t) dy(t, 0) = 1;
  layer.backward(dy, batch, cache, gradient);
  return gradient.gate.bias[0];
}

double sigmoid(double a) { return 1 / (1 + std::exp(-a)); }

}  // namespace

TEMPLATE_TEST_CASE("SkipGate keeps the laws of layers", "[exit][skip_gate][laws]",
                   (SkipGate<soft, Map<1, 1>>), (SkipGate<soft, Block<17>>),
                   (SkipGate<soft, Map<5, 5>, Sequential<Map<5, 3>, Bend<3>, Map<3, 1>>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("Rows whose gate is closed pass by, and are not computed", "[exit][skip_gate]") {
  const auto layer = plus_ten<SkipGateConfig{}>();
  const auto y = forward(layer, Sequence<float, 1>{{1}, {-2}, {3}, {0}});
  const float known[] = {11, -2, 13, 0};
  for (Index t = 0; t < 4; ++t) REQUIRE(y(t, 0) == known[t]);
}

TEST_CASE("A gated block gives each row what it gets alone, to the bit, and in training",
          "[exit][skip_gate]") {
  Random random(3);
  using Layer = SkipGate<SkipGateConfig{}, Block<20>>;
  auto learned = Layer::initialized(random);
  REQUIRE(learned.gate.bias[0] == 2.5F);
  learned.gate.bias[0] = 0;
  const auto layer = prepare(learned);
  const auto x = noise<float, 20>(41, random);
  const auto y = forward(layer, x);
  Index open = 0;
  for (Index t = 0; t < 41; ++t) {
    NoState none;
    const auto alone = layer.step(x.row(t), none);
    const bool same = std::memcmp(alone.data(), x.row(t).data(), sizeof(float) * 20) == 0;
    open += !same;
    const auto one = forward(layer, middle_rows(x, t, 1));
    REQUIRE(std::memcmp(one.data(), y.row(t).data(), sizeof(float) * 20) == 0);
    for (Index d = 0; d < 20; ++d) REQUIRE(alone[d] == Approx(y(t, d)).margin(1e-6));
  }
  REQUIRE(open > 5);
  REQUIRE(open < 36);
  Layer::Cache cache;
  const auto trained = forward(learned, Sequence<float, 20>(x), cache);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(trained.data()[i] == Approx(y.data()[i]).margin(1e-5));
  }
  REQUIRE(cache.open == Approx(static_cast<double>(open) / 41));
}

TEST_CASE("Each estimator lends the step its slope", "[exit][skip_gate]") {
  const Sequence<double, 1> x{{0.3}, {-0.7}, {2}};
  const double worth = 10;  // F(x) - x
  const double a[] = {0.3, -0.7, 2};
  double logistic = 0, tempered = 0;
  for (const double v : a) logistic += sigmoid(v) * (1 - sigmoid(v));
  for (const double v : a) tempered += sigmoid(2 * v) * (1 - sigmoid(2 * v)) / 0.5;
  REQUIRE(gate_slope<SkipGateConfig{}>(x) == Approx(worth * logistic));
  REQUIRE(gate_slope<SkipGateConfig{.estimator = GateEstimator::identity}>(x) == Approx(worth * 3));
  REQUIRE(gate_slope<SkipGateConfig{.estimator = GateEstimator::clipped}>(x) == Approx(worth * 2));
  constexpr SkipGateConfig gumbel{.estimator = GateEstimator::gumbel, .tau = 0.5};
  REQUIRE(gate_slope<gumbel>(x) == Approx(worth * tempered));  // nobody draws
  Random random(4), same(4);
  double drawn = 0;
  for (const double v : a) {
    const double u = std::fma(same.uniform(), 1 - 0x1p-53, 0x1p-54);
    const double s = sigmoid((v + std::log(u / (1 - u))) / 0.5);
    drawn += s * (1 - s) / 0.5;
  }
  REQUIRE(gate_slope<gumbel>(x, &random) == Approx(worth * drawn));
}

TEST_CASE("Gumbel gates at 0.3 and -0.7 with u of 0.6 and 0.2 are 0.804 and 0.015",
          "[exit][skip_gate]") {
  const double a[] = {0.3, -0.7}, u[] = {0.6, 0.2}, known[] = {.803913, .015178};
  for (int i = 0; i < 2; ++i) {
    REQUIRE(sigmoid((a[i] + std::log(u[i] / (1 - u[i]))) / 0.5) == Approx(known[i]).epsilon(1e-4));
  }
}

TEST_CASE("Drawn gates open as often as they are likely to", "[exit][skip_gate]") {
  using Layer = SkipGate<SkipGateConfig{.estimator = GateEstimator::gumbel}, Map<1, 1>, Map<1, 1>>;
  auto layer = plus_ten<SkipGateConfig{.estimator = GateEstimator::gumbel}>();
  Random random(6);
  Context context{&random, nullptr};
  Batch<NoState> batch;
  batch.context = &context;
  Sequence<float, 1> x(20000);
  for (Index t = 0; t < x.rows(); ++t) x(t, 0) = 0.5F;
  Layer::Cache cache;
  layer.forward(std::move(x), batch, cache);
  REQUIRE(cache.open == Approx(sigmoid(0.5)).margin(0.01));
}

TEST_CASE("The price of an open gate has a slope", "[exit][skip_gate]") {
  using Layer = SkipGate<SkipGateConfig{.estimator = GateEstimator::soft, .price = 0.3},
                         Map<3, 3>>::with_scalar<double>;
  Random random(3);
  auto layer = Layer::initialized(random);
  const auto x = noise<double, 3>(9, random);
  Layer::Cache cache;
  Layer gradient;
  forward(layer, Sequence<double, 3>(x), cache);
  backward(layer, Sequence<double, 3>::zeros(9), cache, gradient);
  const auto price = [&] {
    Layer::Cache c;
    forward(layer, Sequence<double, 3>(x), c);
    return c.loss();
  };
  for (Index i = 0; i < 3; ++i) {
    double& w = layer.gate.weight[i];
    const double before = w, h = 1e-6;
    w = before + h;
    const double above = price();
    w = before - h;
    const double below = price();
    w = before;
    REQUIRE(gradient.gate.weight[i] == Approx((above - below) / (2 * h)).margin(1e-9));
  }
}

TEST_CASE("Half of the blocks, and right: a reward of three quarters", "[exit][block_drop]") {
  REQUIRE(block_drop_reward(3, 6, true, 5) == 0.75);
  REQUIRE(block_drop_reward(3, 6, false, 5) == -5);
  REQUIRE(block_drop_reward(0, 6, true, 5) == 1);
}

TEST_CASE("The loss of a policy that drops blocks has its slope, and draws keep their law",
          "[exit][block_drop]") {
  Random random(8);
  auto a = noise<double, 4>(5, random);
  const BlockDropOptions options{.alpha = 0.8, .curiosity = 0.1};
  const auto u = block_drop_sample(SequenceView<double, 4>(a), random, options);
  const std::vector<double> advantage{0.5, -2, 0, 1, 0.3};
  const auto value = [&] {
    return block_drop_loss(SequenceView<double, 4>(a), SequenceView<double, 4>(u), advantage,
                           options)
        .value;
  };
  const auto loss =
      block_drop_loss(SequenceView<double, 4>(a), SequenceView<double, 4>(u), advantage, options);
  for (Index i = 0; i < a.size(); ++i) {
    const double before = a.data()[i], h = 1e-6;
    a.data()[i] = before + h;
    const double above = value();
    a.data()[i] = before - h;
    const double below = value();
    a.data()[i] = before;
    REQUIRE(loss.dy.data()[i] == Approx((above - below) / (2 * h)).margin(1e-8));
  }
  const auto sure = Sequence<double, 1>{{50}};
  double ran = 0;
  for (int i = 0; i < 10000; ++i) {
    ran += block_drop_sample(SequenceView<double, 1>(sure), random, options)(0, 0) / 10000;
  }
  REQUIRE(ran == Approx(0.8).margin(0.02));  // α, however sure
}

#if LIMEN_EXCEPTIONS
TEST_CASE("A policy that may not be as sure as it is, is an error", "[exit][block_drop]") {
  const Sequence<double, 2> a(1);
  const SequenceView<double, 2> v(a);
  const std::vector<double> one{1};
  REQUIRE_THROWS_WITH(block_drop_loss(v, v, one, {.alpha = 0.5}), has_part(".alpha"));
  REQUIRE_THROWS_WITH(block_drop_loss(v, v, std::vector<double>{}), has_part("1 each"));
}
#endif
