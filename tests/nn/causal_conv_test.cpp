#include <limen/nn/causal_conv.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("CausalConv1d keeps the laws of layers", "[nn][causal_conv][laws]",
                       ((CausalConv1dConfig C), C), (CausalConv1dConfig{.d_in = 1, .d_out = 1}),
                       (CausalConv1dConfig{.d_in = 3, .d_out = 2, .width = 3}),
                       (CausalConv1dConfig{.d_in = 2, .d_out = 17, .dilation = 2, .bias = false}),
                       (CausalConv1dConfig{.d_in = 17, .d_out = 3, .width = 3, .dilation = 4}),
                       (CausalConv1dConfig{.d_in = 1, .d_out = 1, .width = 16})) {
  laws::hold_in_double_and_float<CausalConv1d<C>>();
  laws::hold_in_double_and_float<CausalConv1d<C>>({.rows = 21, .seed = 3});
}

TEST_CASE("A dilated CausalConv1d looks back in strides", "[nn][causal_conv]") {
  CausalConv1d<CausalConv1dConfig{.d_in = 1, .d_out = 1, .dilation = 2}, double> layer;
  layer.weight[0] = 1;
  layer.weight[1] = 10;
  layer.bias[0] = 0.5;
  const auto y = forward(layer, Sequence<double, 1>{{1}, {2}, {3}, {4}});
  REQUIRE(y(0, 0) == 10.5);
  REQUIRE(y(1, 0) == 20.5);
  REQUIRE(y(2, 0) == 31.5);
  REQUIRE(y(3, 0) == 42.5);
}

TEST_CASE("Steps and chunks of a CausalConv1d may follow each other in any order",
          "[nn][causal_conv]") {
  Random random(4);
  using Layer =
      CausalConv1d<CausalConv1dConfig{.d_in = 2, .d_out = 3, .width = 3, .dilation = 2}, double>;
  const auto layer = Layer::initialized(random);
  const auto fast = prepare(layer);
  Sequence<double, 2> x(40);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto whole = forward(layer, x);
  Layer::State state{};
  Index t = 0;
  for (int round = 0; t < 40; ++round) {
    const Index chunk = std::min<Index>(40 - t, round % 4);
    const auto some = layer.forward(middle_rows(x, t, chunk), state);
    for (Index i = 0; i < some.size(); ++i) {
      REQUIRE(some.data()[i] == Approx(whole.data()[t * 3 + i]).margin(1e-12));
    }
    t += chunk;
    for (int s = 0; s < 3 && t < 40; ++s, ++t) {
      const auto y = s == 1 ? fast.step(x.row(t), state) : layer.step(x.row(t), state);
      for (Index i = 0; i < 3; ++i) REQUIRE(y[i] == Approx(whole(t, i)).margin(1e-12));
    }
  }
}
