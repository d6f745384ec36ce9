#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/gru.hpp>

#include "../laws.hpp"
#include "layers.hpp"

using namespace limen;
using namespace parts;

TEMPLATE_TEST_CASE("Repeat keeps the laws of layers", "[compose][repeat][laws]",
                   (Repeat<1, Map<3, 3>>), (Repeat<3, Sequential<Map<17, 17>, Bend<17>>>),
                   (Repeat<2, Residual<Sequential<Norm<5>, Filter<5>>>>),
                   (Repeat<2, Repeat<2, Filter<3>>>),
                   (Repeat<2, Residual<Gru<GruConfig{.d_in = 3, .d_hidden = 3}>>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("Repeat gives each layer parameters and a state of its own", "[compose][repeat]") {
  Repeat<3, Map<1, 1>>::with_scalar<double> model;
  for (std::size_t i = 0; i < 3; ++i) {
    model.layers[i].weight[0] = 10;
    model.layers[i].bias[0] = static_cast<double>(i + 1);
  }
  REQUIRE(forward(model, Sequence<double, 1>{{5}})(0, 0) == 5123);
  STATIC_REQUIRE(sizeof(Repeat<4, Filter<3>>::State) == 4 * sizeof(Filter<3>::State));
  STATIC_REQUIRE(std::is_empty_v<Repeat<4, Map<3, 3>>::State>);

  Random random(1);
  const auto drawn = decltype(model)::initialized(random);
  REQUIRE(drawn.layers[0].weight[0] != drawn.layers[1].weight[0]);
}

TEST_CASE("Repeat is Sequential of the same layers, to the bit", "[compose][repeat]") {
  using Block = Residual<Sequential<Map<4, 4>, Filter<4>>>;
  Random random(1), again(1);
  const auto loop = Repeat<3, Block>::initialized(random);
  const auto row = Sequential<Block, Block, Block>::initialized(again);
  const auto x = noise<float, 4>(9, random), dy = noise<float, 4>(9, random);
  REQUIRE(same_bits(forward(loop, x), forward(row, x)));
  Repeat<3, Block>::Cache loop_cache;
  Sequential<Block, Block, Block>::Cache row_cache;
  Repeat<3, Block> loop_gradient;
  Sequential<Block, Block, Block> row_gradient;
  forward(loop, Sequence<float, 4>(x), loop_cache);
  forward(row, Sequence<float, 4>(x), row_cache);
  REQUIRE(same_bits(backward(loop, dy, loop_cache, loop_gradient),
                    backward(row, dy, row_cache, row_gradient)));
  std::string of_loop, of_row;
  for_each_parameter(
      [&](const std::string& name, auto& d) { of_loop += name + std::to_string(d[0]); },
      loop_gradient);
  for_each_parameter(
      [&](const std::string& name, auto& d) { of_row += name + std::to_string(d[0]); },
      row_gradient);
  REQUIRE(of_loop == of_row);
}

TEST_CASE("Repeat names its layers by position", "[compose][repeat]") {
  REQUIRE(names<Repeat<2, Sequential<Norm<3>, Filter<3>>>>() ==
          "0.0.weight 0.1.weight 0.1.bias 1.0.weight 1.1.weight 1.1.bias ");
}

TEST_CASE("A Repeat streams if its layer does", "[compose][repeat]") {
  STATIC_REQUIRE(Layer<Repeat<2, Filter<3>>>);
  STATIC_REQUIRE_FALSE(Streaming<Repeat<2, Reverse<3>>>);
  STATIC_REQUIRE(Trainable<Repeat<2, Reverse<3>>>);
}
