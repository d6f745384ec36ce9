#include <limen/moe/lora.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/train/adamw.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/moe_adapters.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

template <Index I, Index O, bool bias = true, class S = float>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O, .bias = bias}, S>;

/// An adapter that has learned something.
template <class L>
L learned(std::uint64_t seed = 1) {
  Random random(seed);
  L layer = L::initialized(random);
  fill_normal(layer.b, 0.7, random);
  return layer;
}

template <class L>
void hold() {
  static_assert(check::names_every_member<L>);
  laws::hold(learned<typename L::template with_scalar<double>>());
  laws::hold(learned<typename L::template with_scalar<float>>());
}

constexpr LoraConfig all_learns{.rank = 3, .alpha = 7, .train_base = true};
constexpr LoraConfig frozen{.rank = 3, .alpha = 7};

template <class Real, Index D>
Sequence<Real, D> noise(Index rows) {
  Random random(3);
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

}  // namespace

TEST_CASE("Lora keeps the laws of layers", "[moe][lora][laws]") {
  hold<Lora<LoraConfig{.rank = 1, .alpha = 2, .train_base = true}, Map<1, 1>>>();
  hold<Lora<all_learns, Map<17, 5>>>();
  hold<Lora<LoraConfig{.rank = 16, .alpha = 8, .train_base = true}, Map<8, 33, false>>>();
}

TEST_CASE("An adapter that has learned nothing changes nothing", "[moe][lora]") {
  Random random(1);
  const auto base = Map<17, 5>::initialized(random);
  const auto layer = Lora<frozen, Map<17, 5>>::around(base, random);
  const auto x = noise<float, 17>(20);
  const auto y = forward(layer, x), expected = forward(base, x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == expected.data()[i]);
}

TEST_CASE("Lora by hand", "[moe][lora]") {
  Lora<LoraConfig{.rank = 1, .alpha = 3}, Map<2, 1, true, double>> layer;
  layer.base.weight[0] = 1;
  layer.base.bias[0] = 10;
  layer.a[0] = 2;  // x A = 2 x_0 + 5 x_1
  layer.a[1] = 5;
  layer.b[0] = -1;  // c = 3
  REQUIRE(forward(layer, Sequence<double, 2>{{4, 1}})(0, 0) == 4 + 10 - 3 * 13);
}

TEST_CASE("A base that does not learn has no gradient, all others are the same", "[moe][lora]") {
  using Whole = Lora<all_learns, Map<6, 5, true, double>>;
  using Part = Lora<frozen, Map<6, 5, true, double>>;
  const auto whole = learned<Whole>();
  const Part part{whole.base, whole.a, whole.b};
  const auto x = noise<double, 6>(7), dx_of = noise<double, 6>(7);
  const auto dy = noise<double, 5>(7);
  Whole::Cache a;
  Part::Cache b;
  Whole da;
  Part db;
  forward(whole, Sequence<double, 6>(x), a);
  forward(part, Sequence<double, 6>(x), b);
  const auto dx = backward(whole, dy, a, da), same = backward(part, dy, b, db);
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(dx.data()[i] == same.data()[i]);
  REQUIRE(da.a == db.a);
  REQUIRE(da.b == db.b);
  REQUIRE(db.base.weight == decltype(db.base.weight)());
  REQUIRE(db.base.bias == decltype(db.base.bias)());
  REQUIRE(!(da.base.weight == decltype(db.base.weight)()));
}

TEST_CASE("An optimizer that freezes base_layer moves A and B only", "[moe][lora][train]") {
  using L = Sequential<Lora<frozen, Map<6, 5>>, Map<5, 2>>;
  Random random(1);
  auto model = L::initialized(random);
  const auto before = get<0>(model.layers);
  L gradient;
  for_each_tensor(
      [](auto& t) {
        for (float& g : t.flat()) g = 1;
      },
      gradient);
  AdamW<L> optimizer({.rules = {.frozen = {"base_layer"}}});
  optimizer.update(model, gradient);
  const auto& after = get<0>(model.layers);
  REQUIRE(after.base.weight == before.base.weight);
  REQUIRE(after.base.bias == before.base.bias);
  REQUIRE(!(after.a == before.a));
  REQUIRE(!(after.b == before.b));
}

TEMPLATE_TEST_CASE("A merged adapter computes the same, and comes out again", "[moe][lora]", float,
                   double) {
  using L = Lora<frozen, Map<17, 33, true, TestType>>;
  const L layer = learned<L>();
  const auto x = noise<TestType, 17>(20);
  constexpr double epsilon = std::numeric_limits<TestType>::epsilon();
  auto plain = layer.merged();
  const auto y = forward(layer, x), merged = forward(plain, x);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(static_cast<double>(merged.data()[i]) ==
            Approx(static_cast<double>(y.data()[i])).epsilon(100 * epsilon).margin(100 * epsilon));
  }
  layer.take_out_of(plain);
  double moved = 0;
  for (Index i = 0; i < plain.weight.size; ++i) {
    const auto w = static_cast<double>(layer.base.weight[i]);
    const auto m = static_cast<double>(layer.merged().weight[i]);
    INFO("element " << i);
    // A rounding of what was stored in between, and one of the result.
    REQUIRE(std::abs(static_cast<double>(plain.weight[i]) - w) <=
            epsilon * (std::abs(m) + std::abs(w)));
    moved = std::max(moved, std::abs(m - w));
  }
  REQUIRE(moved > 0.1);
}

TEST_CASE("Lora is what peft computes", "[moe][lora][golden]") {
  using namespace goldens::adapters::lora;
  using L = Lora<all_learns, Map<6, 5>>;
  golden::check_in_double_and_float<L>({x, y, dy, dx},
                                       {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}});
  const auto layer = golden::layer_of<L::with_scalar<double>>(
      {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}});
  golden::same("merged", layer->merged().weight.flat(), merged, 1e-14);
}

namespace {
using L = Lora<frozen, Map<6, 5>>;
static_assert(Layer<L>);
static_assert(!Trainable<prepared_form<L>>);
static_assert(Streaming<prepared_form<L>>);
static_assert(macs<L>(2) == 2 * (6 * 5 + 3 * (6 + 5)));
}  // namespace
