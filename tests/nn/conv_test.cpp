#include <limen/nn/conv.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG(
    "Conv2d keeps the laws of layers", "[nn][conv][laws]", ((Conv2dConfig C), C),
    (Conv2dConfig{.image = {1, 1}, .d_in = 1, .d_out = 1, .kernel = {1, 1}}),
    (Conv2dConfig{.image = {4, 3}, .d_in = 2, .d_out = 3}),
    (Conv2dConfig{.image = {3, 4}, .d_in = 5, .d_out = 17, .kernel = {1, 1}}),
    (Conv2dConfig{.image = {5, 4},
                  .d_in = 3,
                  .d_out = 2,
                  .kernel = {2, 3},
                  .stride = {2, 1},
                  .padding = {1, 2},
                  .bias = false}),
    (Conv2dConfig{.image = {6, 6}, .d_in = 1, .d_out = 4, .stride = {2, 2}, .padding = {1, 1}}),
    (Conv2dConfig{.image = {5, 5}, .d_in = 2, .d_out = 2, .kernel = {2, 2}, .dilation = {2, 3}}),
    (Conv1dConfig{.length = 9, .d_in = 3, .d_out = 4, .stride = 2, .padding = 1}),
    (Conv1dConfig{.length = 40, .d_in = 2, .d_out = 1, .kernel = 5, .dilation = 2})) {
  laws::hold_in_double_and_float<Conv2d<C>>({.rows = 3, .most_slopes = 60});
}

TEST_CASE("A Conv2d larger than one block of windows is the same in steps", "[nn][conv]") {
  Random random(1);
  using Layer = Conv2d<Conv2dConfig{.image = {31, 23}, .d_in = 17, .d_out = 9, .padding = {1, 1}}>;
  const auto layer = std::make_unique<Layer>(Layer::initialized(random));
  Sequence<float, Layer::in> x(2);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const auto y = forward(*layer, x);
  const auto state = std::make_unique<Layer::State>();
  for (Index t = 0; t < 2; ++t) {
    const auto one = std::make_unique<Vector<float, Layer::out>>(layer->step(x.row(t), *state));
    for (Index i = 0; i < Layer::out; ++i) {
      REQUIRE((*one)[i] == Approx(y(t, i)).margin(1e-4));
    }
  }
}

TEST_CASE("Conv2d slides a window over the image", "[nn][conv]") {
  Conv2d<Conv2dConfig{.image = {2, 3}, .d_in = 1, .d_out = 1, .kernel = {2, 2}}, double> layer;
  for (Index i = 0; i < 4; ++i) layer.weight[i] = std::pow(10, i);
  layer.bias[0] = 0.5;
  const auto y = forward(layer, Sequence<double, 6>{{1, 2, 3, 4, 5, 6}});
  REQUIRE(y(0, 0) == 1 + 20 + 400 + 5000 + 0.5);
  REQUIRE(y(0, 1) == 2 + 30 + 500 + 6000 + 0.5);
}

TEST_CASE("The weights of Conv1d and Conv2d have the shapes of PyTorch", "[nn][conv]") {
  using Plane = Conv2d<Conv2dConfig{.image = {8, 8}, .d_in = 3, .d_out = 5, .kernel = {3, 2}}>;
  using Line = Conv1d<Conv1dConfig{.length = 8, .d_in = 3, .d_out = 5, .kernel = 2}>;
  STATIC_REQUIRE(decltype(Plane::weight)::shape == std::array<Index, 4>{5, 3, 3, 2});
  STATIC_REQUIRE(decltype(Line::weight)::shape == std::array<Index, 3>{5, 3, 2});
  STATIC_REQUIRE(Line::out == 7 * 5);
  STATIC_REQUIRE(Plane::out_image.height == 6);
  STATIC_REQUIRE(Plane::out_image.width == 7);
}

TEST_CASE("A BatchNorm folds into the Conv2d before it", "[nn][conv][batch_norm]") {
  Random random(5);
  constexpr Conv2dConfig c{.image = {4, 4}, .d_in = 2, .d_out = 3, .padding = {1, 1}};
  const auto conv = Conv2d<c, double>::initialized(random);
  auto norm = BatchNorm<BatchNormConfig{.d = 3, .positions = 16}, double>::initialized(random);
  for (Index i = 0; i < 3; ++i) {
    norm.weight[i] = random.normal();
    norm.bias[i] = random.normal();
    norm.running_mean[i] = random.normal();
    norm.running_var[i] = random.uniform() + 0.1;
  }
  Sequence<double, 32> x(3);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto expected = forward(norm, forward(conv, x));
  const auto y = forward(fold(conv, norm), x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == Approx(expected.data()[i]));
}

TEST_CASE("A Conv2d gives the same bits on two threads", "[nn][conv]") {
  Random random(6);
  using Layer = Conv2d<Conv2dConfig{.image = {9, 11}, .d_in = 8, .d_out = 24, .padding = {1, 1}}>;
  const auto layer = Layer::initialized(random);
  Sequence<float, Layer::in> x(20);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const auto one = forward(layer, x);
  const Threads allowed(2);
  const auto two = forward(layer, x);
  bool same = true;
  for (Index i = 0; i < one.size(); ++i) same = same && one.data()[i] == two.data()[i];
  REQUIRE(same);
}

TEST_CASE("What the prepared form of a Conv2d cannot do", "[nn][conv]") {
  using Layer = Conv2d<Conv2dConfig{.image = {4, 4}, .d_in = 2, .d_out = 2}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(Streaming<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
}
