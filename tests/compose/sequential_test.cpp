#include <limen/compose/sequential.hpp>

#include "../laws.hpp"
#include "layers.hpp"

using namespace limen;
using namespace parts;

TEMPLATE_TEST_CASE("Sequential keeps the laws of layers", "[compose][sequential][laws]",
                   (Sequential<Map<1, 1>>), (Sequential<Map<3, 17>, Bend<17>, Map<17, 2>>),
                   (Sequential<Filter<5>, Norm<5>, Map<5, 4>, Filter<4>>),
                   (Sequential<Sequential<Map<2, 3>, Filter<3>>, Sequential<Bend<3>, Filter<3>>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("A Sequential is one layer after another", "[compose][sequential]") {
  Sequential<Map<1, 2>, Map<2, 1>>::with_scalar<double> model;
  auto& first = get<0>(model.layers);
  auto& second = get<1>(model.layers);
  first.weight[0] = 2;
  first.bias[1] = 5;
  second.weight[0] = 10;
  second.weight[1] = 1;
  const auto y = forward(model, Sequence<double, 1>{{1}, {2}});  // (2 x, 5) -> 20 x + 5
  REQUIRE(y(0, 0) == 25);
  REQUIRE(y(1, 0) == 45);
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Offsets that do not cover the rows are refused where nobody remembers, too",
          "[compose][sequential]") {
  using Model = Sequential<Map<2, 3>, Bend<3>>;
  const Model model;
  const std::vector<Index> short_of{0, 2, 4};
  Model::Cache cache;
  const auto x = Sequence<float, 2>::zeros(5);
  REQUIRE_THROWS_WITH(model.forward(x, from_rest(short_of)),
                      "rows of the batch: wanted 4 as the offsets end, found 5");
  REQUIRE_THROWS_AS(model.forward(Sequence<float, 2>(x), from_rest(short_of), cache), Exception);
}
#endif

TEST_CASE("The layers of a Sequential are named by position", "[compose][sequential]") {
  REQUIRE(names<Sequential<Map<2, 3>, Bend<3>, Sequential<Norm<3>, Filter<3>>>>() ==
          "0.weight 0.bias 2.0.weight 2.1.weight 2.1.bias ");
  using Eleven = Sequential<Bend<1>, Bend<1>, Bend<1>, Bend<1>, Bend<1>, Bend<1>, Bend<1>, Bend<1>,
                            Bend<1>, Bend<1>, Norm<1>>;
  REQUIRE(names<Eleven>() == "10.weight ");
}

TEST_CASE("A Sequential without memory has an empty state", "[compose][sequential]") {
  STATIC_REQUIRE(std::is_empty_v<Sequential<Map<2, 3>, Bend<3>, Sequential<Norm<3>>>::State>);
  // Layers without memory take no room beside one that has.
  using Inner = Sequential<Map<2, 3>, Filter<3>, Bend<3>>;
  STATIC_REQUIRE(sizeof(Inner::State) == sizeof(Filter<3>::State));
  STATIC_REQUIRE(sizeof(Sequential<Bend<2>, Inner, Bend<3>>::State) == sizeof(Filter<3>::State));
}

TEST_CASE("A Sequential streams if all of its layers do", "[compose][sequential]") {
  using Streams = Sequential<Filter<3>, Bend<3>>;
  using Whole = Sequential<Filter<3>, Reverse<3>, Bend<3>>;
  STATIC_REQUIRE(Layer<Streams>);
  STATIC_REQUIRE(Trainable<Whole>);
  STATIC_REQUIRE_FALSE(Streaming<Whole>);
  STATIC_REQUIRE_FALSE(Streaming<Sequential<Whole, Bend<3>>>);
  STATIC_REQUIRE(std::is_same_v<Streams::State, prepared_form<Streams>::State>);
  STATIC_REQUIRE(Streaming<prepared_form<Streams>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Streams>>);
}

TEST_CASE("A Sequential with a layer that has no step runs whole sequences",
          "[compose][sequential]") {
  using Whole = Sequential<Filter<3>, Reverse<3>, Map<3, 2>>;
  Random random(1);
  const auto model = Whole::with_scalar<double>::initialized(random);
  const auto x = noise<double, 3>(4, random);
  const auto y = forward(model, x);
  const auto turned = forward(get<2>(model.layers), forward(get<0>(model.layers), x));
  for (Index t = 0; t < 4; ++t) REQUIRE(y(t, 1) == turned(3 - t, 1));
}

TEST_CASE("A Sequential moves what its layers give into the cache of the next",
          "[compose][sequential]") {
  using Model = Sequential<Map<64, 64>, Map<64, 64>, Map<64, 64>>;
  Random random(3);
  const auto model = Model::initialized(random);
  Model::Cache cache;
  auto x = noise<float, 64>(8, random);
  const float* given = x.data();
  const auto y = forward(model, std::move(x), cache);
  REQUIRE(get<0>(cache).x.data() == given);
  REQUIRE(same_bits(get<1>(cache).x, forward(get<0>(model.layers), get<0>(cache).x)));
}
