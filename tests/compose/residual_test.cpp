#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>

#include "../laws.hpp"
#include "layers.hpp"

using namespace limen;
using namespace parts;

TEMPLATE_TEST_CASE("Residual keeps the laws of layers", "[compose][residual][laws]",
                   (Residual<Map<1, 1>>), (Residual<Sequential<Norm<17>, Filter<17>>>),
                   (Sequential<Residual<Map<3, 3>>, Norm<3>>),
                   (Residual<Residual<Sequential<Map<5, 2>, Filter<2>, Map<2, 5>>>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("A Residual adds what its layer takes to what it gives", "[compose][residual]") {
  Residual<Map<2, 2>>::with_scalar<double> layer;
  layer.inner.bias[0] = 10;
  layer.inner.weight[3] = 1;
  const auto y = forward(layer, Sequence<double, 2>{{1, 2}, {3, 4}});
  REQUIRE(y(0, 0) == 11);
  REQUIRE(y(0, 1) == 4);
  REQUIRE(y(1, 0) == 13);
  REQUIRE(y(1, 1) == 8);
}

TEST_CASE("A Residual takes rows that lie apart", "[compose][residual]") {
  Random random(1);
  const auto layer = Residual<Filter<3>>::with_scalar<double>::initialized(random);
  const auto wide = noise<double, 5>(4, random);
  const SequenceView<double, 3> x(wide.data() + 1, 4, 5);
  REQUIRE(same_bits(forward(layer, x), forward(layer, x.copy())));
  // and gradients that do
  Residual<Filter<3>>::with_scalar<double> a, b;
  decltype(a)::Cache cache;
  forward(layer, x.copy(), cache);
  REQUIRE(same_bits(backward(layer, x, cache, a), backward(layer, x.copy(), cache, b)));
}

TEST_CASE("A Residual names its layer", "[compose][residual]") {
  REQUIRE(names<Residual<Sequential<Norm<3>, Map<3, 3>>>>() ==
          "inner.0.weight inner.1.weight inner.1.bias ");
}

TEST_CASE("A Residual streams if its layer does", "[compose][residual]") {
  STATIC_REQUIRE(Layer<Residual<Filter<3>>>);
  STATIC_REQUIRE_FALSE(Streaming<Residual<Reverse<3>>>);
  STATIC_REQUIRE(Trainable<Residual<Reverse<3>>>);
  STATIC_REQUIRE(std::is_empty_v<Residual<Map<3, 3>>::State>);
}
