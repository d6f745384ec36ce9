#include <limen/compose/gated.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/gated_linear.hpp>

#include "../laws.hpp"
#include "layers.hpp"

using namespace limen;
using namespace parts;

namespace {
template <Index I, Index O>
using Gate = Sequential<Map<I, O>, Bend<O, Activation::sigmoid>>;
}  // namespace

TEMPLATE_TEST_CASE("Gated keeps the laws of layers", "[compose][gated][laws]",
                   (Gated<Map<1, 1>, Gate<1, 1>>), (Gated<Filter<3>, Gate<3, 3>>),
                   (Gated<Sequential<Filter<2>, Map<2, 17>>, Sequential<Filter<2>, Gate<2, 17>>>),
                   (Gated<Gated<Map<3, 2>, Gate<3, 2>>, Gate<3, 2>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("A gate half open lets half of the value through", "[compose][gated]") {
  Gated<Map<1, 1>, Gate<1, 1>>::with_scalar<double> model;
  model.value.weight[0] = 6;
  REQUIRE(forward(model, Sequence<double, 1>{{2}})(0, 0) == Approx(6));  // 12 sigma(0)
  get<0>(model.gate.layers).bias[0] = -50;
  REQUIRE(forward(model, Sequence<double, 1>{{2}})(0, 0) == Approx(0).margin(1e-12));
}

TEST_CASE("Gated of two maps and a map after it is GatedLinear", "[compose][gated]") {
  constexpr LinearConfig in{.d_in = 4, .d_out = 7, .bias = false};
  constexpr LinearConfig out{.d_in = 7, .d_out = 4, .bias = false};
  using Silu = Activate<ActivateConfig{.d = 7, .activation = Activation::silu}, double>;
  using Built = Sequential<Gated<Linear<in, double>, Sequential<Linear<in, double>, Silu>>,
                           Linear<out, double>>;
  using Whole = GatedLinear<GatedLinearConfig{.d_model = 4, .d_hidden = 7}, double>;
  STATIC_REQUIRE(Whole::a == Activation::silu);
  Random random(1);
  const auto whole = Whole::initialized(random);
  Built built;
  get<0>(built.layers).value.weight = whole.up;
  get<0>(get<0>(built.layers).gate.layers).weight = whole.gate;
  get<1>(built.layers).weight = whole.down;

  const auto x = noise<double, 4>(5, random), dy = noise<double, 4>(5, random);
  Built::Cache built_cache;
  Whole::Cache whole_cache;
  Built built_gradient;
  Whole whole_gradient;
  const auto y = forward(built, Sequence<double, 4>(x), built_cache);
  const auto expected = forward(whole, Sequence<double, 4>(x), whole_cache);
  const auto dx = backward(built, dy, built_cache, built_gradient);
  const auto d_expected = backward(whole, dy, whole_cache, whole_gradient);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(y.data()[i] == Approx(expected.data()[i]));
    REQUIRE(dx.data()[i] == Approx(d_expected.data()[i]));
  }
  for (Index i = 0; i < 28; ++i) {
    REQUIRE(get<0>(built_gradient.layers).value.weight[i] == Approx(whole_gradient.up[i]));
  }
}

TEST_CASE("Gated names value and gate", "[compose][gated]") {
  REQUIRE(names<Gated<Map<2, 3>, Gate<2, 3>>>() ==
          "value.weight value.bias gate.0.weight gate.0.bias ");
}

TEST_CASE("Gated streams if both of its layers do", "[compose][gated]") {
  STATIC_REQUIRE(Layer<Gated<Filter<3>, Gate<3, 3>>>);
  STATIC_REQUIRE_FALSE(Streaming<Gated<Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(std::is_empty_v<Gated<Map<2, 3>, Gate<2, 3>>::State>);
}
