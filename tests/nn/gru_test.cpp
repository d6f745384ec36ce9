#include <limen/nn/gru.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Gru keeps the laws of layers", "[nn][gru][laws]", ((GruConfig C), C),
                       (GruConfig{.d_in = 1, .d_hidden = 1}),
                       (GruConfig{.d_in = 2, .d_hidden = 3, .bias = false}),
                       (GruConfig{.d_in = 3, .d_hidden = 17}),
                       (GruConfig{.d_in = 5, .d_hidden = 32}),
                       (GruConfig{.d_in = 2, .d_hidden = 70})) {
  laws::hold_in_double_and_float<Gru<C>>({.most_slopes = 60});
}

TEST_CASE("The program of the README runs", "[nn][gru]") {
  constexpr GruConfig memory{.d_in = 8, .d_hidden = 32};
  constexpr LinearConfig head{.d_in = 32, .d_out = 10};
  using Model = Sequential<Gru<memory>, Linear<head>>;
  Random random(1);
  const auto learning = Model::initialized(random);
  const auto model = prepare(learning);
  Model::State state{}, same{};
  const Vector<float, 8> x{1, 0, 1};
  const auto y = model.step(x, state), expected = learning.step(x, same);
  for (Index i = 0; i < 10; ++i) REQUIRE(std::abs(y[i] - expected[i]) < 1e-6f);
  REQUIRE(y[0] != 0);
}
