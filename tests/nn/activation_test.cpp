#include <limen/nn/activation.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Activate keeps the laws of layers", "[nn][activation][laws]",
                       ((ActivateConfig C), C), (ActivateConfig{.d = 1}),
                       (ActivateConfig{.d = 15, .activation = Activation::identity}),
                       (ActivateConfig{.d = 17, .activation = Activation::leaky_relu}),
                       (ActivateConfig{.d = 16, .activation = Activation::sigmoid}),
                       (ActivateConfig{.d = 3, .activation = Activation::tanh}),
                       (ActivateConfig{.d = 33, .activation = Activation::silu}),
                       (ActivateConfig{.d = 7, .activation = Activation::gelu}),
                       (ActivateConfig{.d = 5, .activation = Activation::gelu_tanh}),
                       (ActivateConfig{.d = 9, .activation = Activation::softplus})) {
  if constexpr (C.activation == Activation::relu || C.activation == Activation::leaky_relu) {
    Random random(1);  // over the kink, the wide steps that float needs see no slope
    laws::hold(Activate<C, double>::initialized(random));
    laws::hold(Activate<C, float>::initialized(random), {.slope = 1});
  } else {
    laws::hold_in_double_and_float<Activate<C>>();
  }
}

TEST_CASE("Activate applies its activation to each number", "[nn][activation]") {
  const Activate<ActivateConfig{.d = 3}, double> relu;
  const auto y = forward(relu, Sequence<double, 3>{{-1, 0, 2}});
  REQUIRE(y(0, 0) == 0);
  REQUIRE(y(0, 1) == 0);
  REQUIRE(y(0, 2) == 2);
}
