#include <limen/moe/mixture_of_depths.hpp>

#include <limen/nn/linear.hpp>
#include <limen/nn/min_gru.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

template <Index D>
using Map = Linear<LinearConfig{.d_in = D, .d_out = D}>;

template <class L>
void hold(check::Options options = {}) {
  const auto with = [&](auto layer) {
    Random random(4);
    layer = decltype(layer)::initialized(random);
    fill_normal(layer.router, 1.5, random);
    laws::hold(layer, options);
    options.slope = 1e3;  // the steps of float, which is next, are wide enough to change a choice
  };
  with(typename L::template with_scalar<double>());
  with(typename L::template with_scalar<float>());
}

constexpr MixtureOfDepthsConfig half{.capacity = 0.5};
constexpr MixtureOfDepthsConfig causal{.threshold = true};

}  // namespace

TEST_CASE("A mixture of depths keeps the laws, but for cutting", "[moe][depths][laws]") {
  using Memory = MinGru<MinGruConfig{.d_in = 3, .d_hidden = 3}>;
  hold<MixtureOfDepths<half, Map<5>>>({.causal = false});
  hold<MixtureOfDepths<half, Memory>>({.causal = false});
  hold<MixtureOfDepths<half, Map<1>>>({.causal = false});
}

TEST_CASE("Chosen by threshold it keeps all laws", "[moe][depths][laws]") {
  using Memory = MinGru<MinGruConfig{.d_in = 3, .d_hidden = 3}>;
  hold<MixtureOfDepths<causal, Map<17>>>();
  hold<MixtureOfDepths<causal, Memory>>();
}

TEST_CASE("The best rows pass, the others stay what they are", "[moe][depths]") {
  MixtureOfDepths<half, Linear<LinearConfig{.d_in = 1, .d_out = 1}, double>> layer;
  layer.router[0] = 1;
  layer.block.bias[0] = 10;
  const auto y = forward(layer, Sequence<double, 1>{{0.2}, {-1}, {0.5}, {0.1}});
  REQUIRE(y(0, 0) == Approx(0.2 + 0.2 * 10));
  REQUIRE(y(1, 0) == -1);
  REQUIRE(y(2, 0) == Approx(0.5 + 0.5 * 10));
  REQUIRE(y(3, 0) == 0.1);
  const auto one = forward(layer, Sequence<double, 1>{{-2}});  // one passes at least
  REQUIRE(one(0, 0) == Approx(-2 - 2 * 10));
  const auto equal = forward(layer, Sequence<double, 1>{{1}, {1}});  // the earlier
  REQUIRE(equal(0, 0) == 11);
  REQUIRE(equal(1, 0) == 1);
}

TEST_CASE("The prediction of the choice has the slope it says", "[moe][depths]") {
  constexpr MixtureOfDepthsConfig c{.capacity = 0.5, .predict = 0.5};
  using L = MixtureOfDepths<c, Linear<LinearConfig{.d_in = 3, .d_out = 3}, double>>;
  Random random(3);
  L layer = L::initialized(random), gradient;
  fill_normal(layer.router, 1, random);
  Sequence<double, 3> x(6);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto loss = [&] {
    L::Cache cache;
    forward(layer, Sequence<double, 3>(x), cache);
    return cache.loss();
  };
  L::Cache cache;
  forward(layer, Sequence<double, 3>(x), cache);
  REQUIRE(cache.load() == 3);
  const auto dx = backward(layer, Sequence<double, 3>::zeros(6), cache, gradient);
  const auto check = [&](double& value, double got) {
    const double before = value, h = 1e-6;
    value = before + h;
    const double above = loss();
    value = before - h;
    const double below = loss();
    value = before;
    REQUIRE(got == Approx((above - below) / (2 * h)).margin(1e-8));
  };
  for (Index i = 0; i < x.size(); ++i) check(x.data()[i], dx.data()[i]);
  for (Index i = 0; i < 3; ++i) check(layer.router[i], gradient.router[i]);
}

namespace {
static_assert(Streaming<MixtureOfDepths<causal, Map<2>>>);
static_assert(!Streaming<MixtureOfDepths<half, Map<2>>>);
static_assert(Trainable<MixtureOfDepths<half, Map<2>>>);
static_assert(check::names_every_member<MixtureOfDepths<half, Map<2>>>);
}  // namespace
