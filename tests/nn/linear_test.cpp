#include <limen/nn/linear.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Linear keeps the laws of layers", "[nn][linear][laws]",
                       ((LinearConfig C), C), (LinearConfig{.d_in = 1, .d_out = 1}),
                       (LinearConfig{.d_in = 3, .d_out = 5}),
                       (LinearConfig{.d_in = 20, .d_out = 17, .bias = false}),
                       (LinearConfig{.d_in = 33, .d_out = 65})) {
  laws::hold_in_double_and_float<Linear<C>>();
}

TEST_CASE("Linear computes W x + b", "[nn][linear]") {
  Linear<LinearConfig{.d_in = 2, .d_out = 2}, double> layer;
  layer.weight(0, 0) = 1;
  layer.weight(0, 1) = 2;
  layer.weight(1, 0) = 3;
  layer.weight(1, 1) = 4;
  layer.bias[0] = 10;
  const auto y = forward(layer, Sequence<double, 2>{{1, 1}, {2, 0}});
  REQUIRE(y(0, 0) == 13);
  REQUIRE(y(0, 1) == 7);
  REQUIRE(y(1, 0) == 12);
  REQUIRE(y(1, 1) == 6);
}

TEST_CASE("Linear names its parameters", "[nn][linear]") {
  Linear<LinearConfig{.d_in = 3, .d_out = 5}> layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "weight bias ");
  REQUIRE(parameter_count(layer) == 20);
  REQUIRE(parameter_count(Linear<LinearConfig{.d_in = 3, .d_out = 5, .bias = false}>{}) == 15);
}
