#include <limen/nn/pooling.hpp>

#include <limits>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG(
    "Pools keep the laws of layers", "[nn][pooling][laws]", ((PoolConfig C), C),
    (PoolConfig{.image = {2, 2}, .d = 1}), (PoolConfig{.image = {5, 4}, .d = 3}),
    (PoolConfig{.image = {4, 5}, .d = 17, .kernel = {3, 2}, .stride = {1, 2}}),
    (PoolConfig{.image = {5, 5}, .d = 2, .kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}}),
    (PoolConfig{.image = {4, 4},
                .d = 3,
                .kernel = {3, 3},
                .stride = {2, 2},
                .padding = {1, 1},
                .count_padding = false}),
    (GlobalPoolConfig{.image = {3, 2}, .d = 5})) {
  // float: a largest one that is about to change has no slope
  laws::hold_in_double_and_float<AveragePool<C>>({.rows = 3});
  Random random(1);
  laws::hold(MaxPool<C, double>::initialized(random), {.rows = 3, .most_slopes = 100});
  laws::hold(MaxPool<C, float>::initialized(random), {.rows = 3, .slope = 10});
}

TEST_CASE("The gradient of a maximum flows to the first that has it", "[nn][pooling]") {
  using Pool = MaxPool<PoolConfig{.image = {2, 2}, .d = 1}, double>;
  Pool pool, gradient;
  Pool::Cache cache;
  const auto y = forward(pool, Sequence<double, 4>{{-3, -1, -1, -2}}, cache);
  REQUIRE(y(0, 0) == -1);
  const auto dx = backward(pool, Sequence<double, 1>{{7}}, cache, gradient);
  REQUIRE(dx(0, 1) == 7);
  REQUIRE(dx(0, 0) + dx(0, 2) + dx(0, 3) == 0);
}

TEST_CASE("NaN is the largest of all", "[nn][pooling]") {
  const MaxPool<PoolConfig{.image = {2, 2}, .d = 2}> pool;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto y = forward(pool, Sequence<float, 8>{{1, 2, nan, 3, 4, 1, 5, 0}});
  REQUIRE(std::isnan(y(0, 0)));
  REQUIRE(y(0, 1) == 3);
}

TEST_CASE("GlobalAveragePool is the mean over all pixels", "[nn][pooling]") {
  const GlobalAveragePool<GlobalPoolConfig{.image = {2, 2}, .d = 2}, double> pool;
  const auto y = forward(pool, Sequence<double, 8>{{1, 10, 2, 20, 3, 30, 6, 60}});
  REQUIRE(y(0, 0) == 3);
  REQUIRE(y(0, 1) == 30);
}

namespace {
/// Forward over three rows, backward over four and over two.
template <class L>
void refuses_other_rows() {
  Random random(1);
  const L layer = L::initialized(random);
  L gradient;
  typename L::Cache cache;
  forward(layer, Sequence<float, L::in>::zeros(3), cache);
  REQUIRE_THROWS_AS(backward(layer, Sequence<float, L::out>::zeros(4), cache, gradient), Exception);
  REQUIRE_THROWS_AS(backward(layer, Sequence<float, L::out>::zeros(2), cache, gradient), Exception);
  REQUIRE(backward(layer, Sequence<float, L::out>::zeros(3), cache, gradient).rows() == 3);
}
}  // namespace

TEST_CASE("The way back through a MaxPool has the rows of the way there", "[nn][pooling]") {
  refuses_other_rows<MaxPool<PoolConfig{.image = {4, 4}, .d = 3}>>();
}
