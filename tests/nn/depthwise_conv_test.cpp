#include <limen/nn/depthwise_conv.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("DepthwiseConv keeps the laws of layers", "[nn][depthwise_conv][laws]",
                       ((DepthwiseConvConfig C), C), (DepthwiseConvConfig{.d = 1}),
                       (DepthwiseConvConfig{.d = 3, .width = 2, .activation = Activation::silu}),
                       (DepthwiseConvConfig{.d = 17, .width = 3, .bias = false}),
                       (DepthwiseConvConfig{.d = 15, .activation = Activation::silu}),
                       (DepthwiseConvConfig{.d = 33, .width = 4, .activation = Activation::silu}),
                       (DepthwiseConvConfig{.d = 5, .width = 7, .activation = Activation::silu}),
                       (DepthwiseConvConfig{.d = 18, .width = 10})) {
  laws::hold_in_double_and_float<DepthwiseConv<C>>();
  laws::hold_in_double_and_float<DepthwiseConv<C>>({.rows = 19, .seed = 2});
}

TEST_CASE("The last tap of a DepthwiseConv meets the current row", "[nn][depthwise_conv]") {
  DepthwiseConv<DepthwiseConvConfig{.d = 1, .width = 3}, double> layer;
  layer.weight[0] = 1;
  layer.weight[1] = 10;
  layer.weight[2] = 100;
  layer.bias[0] = 0.5;
  const auto y = forward(layer, Sequence<double, 1>{{1}, {2}, {3}, {4}});
  REQUIRE(y(0, 0) == 100.5);
  REQUIRE(y(1, 0) == 210.5);
  REQUIRE(y(2, 0) == 321.5);
  REQUIRE(y(3, 0) == 432.5);
}

TEST_CASE("A chunk shorter than the filter moves the past of a DepthwiseConv on",
          "[nn][depthwise_conv]") {
  DepthwiseConv<DepthwiseConvConfig{.d = 2}, double> layer;
  decltype(layer)::State state{};
  layer.forward(Sequence<double, 2>{{1, -1}, {2, -2}, {3, -3}}, state);
  layer.forward(Sequence<double, 2>{{4, -4}}, state);
  for (Index i = 0; i < 3; ++i) {
    REQUIRE(state.past[2 * i] == static_cast<double>(i + 2));
    REQUIRE(state.past[2 * i + 1] == -static_cast<double>(i + 2));
  }
}

TEST_CASE("DepthwiseConv names its parameters as PyTorch does", "[nn][depthwise_conv]") {
  using Layer = DepthwiseConv<DepthwiseConvConfig{.d = 3, .width = 4}>;
  const Layer layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "weight bias ");
  STATIC_REQUIRE(decltype(Layer::weight)::shape == std::array<Index, 3>{3, 1, 4});
}

namespace {
template <class L, Index width, class State>
concept steps_with =
    requires(const L layer, Vector<float, width> x, State state) { layer.step(x, state); };
}  // namespace

TEST_CASE("DepthwiseConv needs its own state and width", "[nn][depthwise_conv]") {
  using Layer = DepthwiseConv<DepthwiseConvConfig{.d = 3}>;
  using Wider = DepthwiseConv<DepthwiseConvConfig{.d = 3, .width = 5}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(std::is_same_v<Layer::State, prepared_form<Layer>::State>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
  STATIC_REQUIRE(steps_with<Layer, 3, Layer::State>);
  STATIC_REQUIRE_FALSE(steps_with<Layer, 3, Wider::State>);
  STATIC_REQUIRE_FALSE(steps_with<Layer, 4, Layer::State>);
}
