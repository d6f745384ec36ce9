#include <limen/compose/parallel.hpp>
#include <limen/compose/sequential.hpp>

#include "../laws.hpp"
#include "layers.hpp"

using namespace limen;
using namespace parts;

TEMPLATE_TEST_CASE(
    "Parallel keeps the laws of layers", "[compose][parallel][laws]",
    (Parallel<Join::sum, Map<3, 2>>), (Parallel<Join::sum, Map<3, 17>, Map<3, 17>>),
    (Parallel<Join::product, Map<2, 3>, Sequential<Filter<2>, Map<2, 3>>, Map<2, 3>>),
    (Parallel<Join::concat, Map<3, 1>, Filter<3>, Sequential<Norm<3>, Map<3, 16>>>)) {
  laws::hold_for_composed<TestType>();
}

namespace {
template <Join how>
auto two_maps() {
  typename Parallel<how, Map<1, 1>, Map<1, 1>>::template with_scalar<double> model;
  get<0>(model.layers).weight[0] = 2;
  get<1>(model.layers).weight[0] = 10;
  get<1>(model.layers).bias[0] = 1;
  return model;
}
}  // namespace

TEST_CASE("Parallel joins what its layers give", "[compose][parallel]") {
  const Sequence<double, 1> x{{3}};  // 6 and 31
  REQUIRE(forward(two_maps<Join::sum>(), x)(0, 0) == 37);
  REQUIRE(forward(two_maps<Join::product>(), x)(0, 0) == 186);
  const auto both = forward(two_maps<Join::concat>(), x);
  REQUIRE(both(0, 0) == 6);
  REQUIRE(both(0, 1) == 31);
}

TEST_CASE("The gradient of a product knows zeros", "[compose][parallel]") {
  const auto model = two_maps<Join::product>();  // 2 x (10 x + 1), at 0: slope 2
  decltype(two_maps<Join::product>())::Cache cache;
  auto gradient = decltype(two_maps<Join::product>()){};
  forward(model, Sequence<double, 1>{{0}}, cache);
  const auto dx = backward(model, Sequence<double, 1>{{1}}, cache, gradient);
  REQUIRE(dx(0, 0) == 2);
}

TEST_CASE("Parallel gives its last layer the x it owns", "[compose][parallel]") {
  using Model = Parallel<Join::sum, Map<64, 2>, Map<64, 2>>;
  Random random(1);
  const auto model = Model::initialized(random);
  Model::Cache cache;
  auto x = noise<float, 64>(3, random);
  const float* given = x.data();
  forward(model, std::move(x), cache);
  REQUIRE(get<1>(cache.parts).x.data() == given);
}

TEST_CASE("The layers of Parallel are named by position", "[compose][parallel]") {
  REQUIRE(names<Parallel<Join::sum, Map<2, 2>, Filter<2>>>() == "0.weight 0.bias 1.weight 1.bias ");
}

TEST_CASE("Parallel streams if all of its layers do", "[compose][parallel]") {
  STATIC_REQUIRE(Layer<Parallel<Join::concat, Filter<3>, Map<3, 2>>>);
  STATIC_REQUIRE_FALSE(Streaming<Parallel<Join::sum, Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(Trainable<Parallel<Join::sum, Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(Parallel<Join::concat, Filter<3>, Map<3, 2>>::out == 5);
}
