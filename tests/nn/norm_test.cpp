#include <limen/nn/batch_norm.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/rms_norm.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("RmsNorm keeps the laws of layers", "[nn][rms_norm][laws]",
                       ((RmsNormConfig C), C), (RmsNormConfig{.d = 1}), (RmsNormConfig{.d = 3}),
                       (RmsNormConfig{.d = 17, .eps = 1e-3, .offset = true}),
                       (RmsNormConfig{.d = 31}), (RmsNormConfig{.d = 130})) {
  laws::hold_in_double_and_float<RmsNorm<C>>();
}

TEMPLATE_TEST_CASE_SIG("LayerNorm and GroupNorm keep the laws of layers", "[nn][group_norm][laws]",
                       ((GroupNormConfig C), C), (LayerNormConfig{.d = 5}),
                       (LayerNormConfig{.d = 15, .bias = false}),
                       (LayerNormConfig{.d = 17, .weight = false, .bias = false}),
                       (LayerNormConfig{.d = 65, .eps = 1e-3}),
                       (GroupNormConfig{.d = 6, .groups = 2}),
                       (GroupNormConfig{.d = 51, .groups = 3}),
                       (GroupNormConfig{.d = 64, .groups = 4, .weight = false})) {
  laws::hold_in_double_and_float<GroupNorm<C>>();
}

TEMPLATE_TEST_CASE_SIG("BatchNorm keeps the laws of layers that look at the batch",
                       "[nn][batch_norm][laws]", ((BatchNormConfig C), C),
                       (BatchNormConfig{.d = 1}), (BatchNormConfig{.d = 3, .bias = false}),
                       (BatchNormConfig{.d = 17, .weight = false}),
                       (BatchNormConfig{.d = 5, .positions = 4})) {
  laws::hold_in_double_and_float<BatchNorm<C>>(
      {.training_is_inference = false, .rows_are_independent = false});
}

TEST_CASE("RmsNorm divides by the root mean square", "[nn][rms_norm]") {
  // gate then norm, and norm then gate: y = (1, 2), z = (0, 1), w = 1
  Random random(1);
  const auto norm = RmsNorm<RmsNormConfig{.d = 2}, double>::initialized(random);
  const double silu = 1 / (1 + std::exp(-1.0));
  const auto a = forward(norm, Sequence<double, 2>{{0, 2 * silu}});
  REQUIRE(a(0, 0) == 0);
  REQUIRE(a(0, 1) == Approx(1.41421).epsilon(1e-5));
  const auto b = forward(norm, Sequence<double, 2>{{1, 2}});
  REQUIRE(b(0, 1) * silu == Approx(0.924722).epsilon(1e-6));
}

TEST_CASE("An RmsNorm with offset stores the distance of its weight from 1", "[nn][rms_norm]") {
  Random random(2);
  auto plain = RmsNorm<RmsNormConfig{.d = 5}, double>::initialized(random);
  auto offset = RmsNorm<RmsNormConfig{.d = 5, .offset = true}, double>::initialized(random);
  for (Index i = 0; i < 5; ++i) {
    REQUIRE(offset.weight[i] == 0);
    offset.weight[i] = random.normal();
    plain.weight[i] = 1 + offset.weight[i];
  }
  const Sequence<double, 5> x{{1, 2, -3, 4, 0}};
  const auto a = forward(plain, x), b = forward(offset, x);
  for (Index i = 0; i < 5; ++i) REQUIRE(a(0, i) == Approx(b(0, i)));
}

TEST_CASE("LayerNorm gives each row mean 0 and variance 1", "[nn][layer_norm]") {
  Random random(3);
  const auto norm = LayerNorm<LayerNormConfig{.d = 4}>::initialized(random);
  const auto y = forward(norm, Sequence<float, 4>{{1000, 1001, 1002, 1003}});
  // var = 1.25, so (x - m) s = ∓1.5 / 1.118 and ∓0.5 / 1.118
  REQUIRE(y(0, 0) == Approx(-1.3416355));
  REQUIRE(y(0, 1) == Approx(-0.4472118));
  REQUIRE(y(0, 3) == Approx(1.3416355));
}

TEST_CASE("A group is normalised by itself", "[nn][group_norm]") {
  Random random(3);
  const auto norm =
      GroupNorm<GroupNormConfig{.d = 4, .groups = 2, .eps = 1e-12}, double>::initialized(random);
  const auto y = forward(norm, Sequence<double, 4>{{1, 3, 10, 30}});
  for (Index i = 0; i < 4; ++i) REQUIRE(y(0, i) == Approx(i % 2 == 0 ? -1 : 1));
}

TEST_CASE("BatchNorm measures in training and settles towards what it measured",
          "[nn][batch_norm]") {
  using Norm = BatchNorm<BatchNormConfig{.d = 1, .eps = 1e-12}, double>;
  Random random(1);
  auto norm = Norm::initialized(random);
  Norm gradient;
  Norm::Cache cache;
  const auto y = forward(norm, Sequence<double, 1>{{1}, {3}}, cache);  // m = 2, var = 1
  REQUIRE(y(0, 0) == Approx(-1));
  REQUIRE(y(1, 0) == Approx(1));
  backward(norm, Sequence<double, 1>{{0}, {0}}, cache, gradient);
  forward(norm, Sequence<double, 1>{{5}, {7}, {9}, {11}}, cache);  // m = 8, var = 5
  backward(norm, Sequence<double, 1>{{0}, {0}, {0}, {0}}, cache, gradient);
  REQUIRE(gradient.running_mean.weight == 6);
  settle(norm, gradient, 0.5);
  REQUIRE(norm.running_mean[0] == Approx(0.5 * (2 * 2 + 4 * 8) / 6));
  REQUIRE(norm.running_var[0] == Approx(0.5 + 0.5 * (2 * 2 + 4 * 20.0 / 3) / 6));  // unbiased
  REQUIRE(gradient.running_mean.weight == 0);
  REQUIRE(gradient.running_mean[0] == 0);
  settle(norm, gradient, 0.5);  // nothing gathered: nothing moves
  REQUIRE(norm.running_mean[0] == Approx(3));
  const auto inferred = forward(norm, Sequence<double, 1>{{3}});
  REQUIRE(inferred(0, 0) == 0);
}

TEST_CASE("A folded BatchNorm changes nothing", "[nn][batch_norm]") {
  Random random(5);
  constexpr LinearConfig map{.d_in = 7, .d_out = 5, .bias = false};
  const auto linear = Linear<map, double>::initialized(random);
  auto norm = BatchNorm<BatchNormConfig{.d = 5}, double>::initialized(random);
  for (Index i = 0; i < 5; ++i) {
    norm.weight[i] = random.normal();
    norm.bias[i] = random.normal();
    norm.running_mean[i] = random.normal();
    norm.running_var[i] = random.uniform() + 0.1;
  }
  Sequence<double, 7> x(6);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto expected = forward(norm, forward(linear, x));
  const auto y = forward(fold(linear, norm), x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == Approx(expected.data()[i]));
}

TEST_CASE("Norms name their parameters", "[nn][rms_norm][group_norm][batch_norm]") {
  const auto names = [](const auto& layer) {
    std::string all;
    for_each_parameter([&](const std::string& name, auto&) { all += name + ' '; }, layer);
    return all;
  };
  REQUIRE(names(RmsNorm<RmsNormConfig{.d = 2}>{}) == "weight ");
  REQUIRE(names(LayerNorm<LayerNormConfig{.d = 2}>{}) == "weight bias ");
  REQUIRE(names(LayerNorm<LayerNormConfig{.d = 2, .bias = false}>{}) == "weight ");
  REQUIRE(names(BatchNorm<BatchNormConfig{.d = 2}>{}) == "weight bias running_mean running_var ");
  REQUIRE(parameter_count(BatchNorm<BatchNormConfig{.d = 2}>{}) == 4);
}

namespace {
template <class L, Index width>
concept runs_over_rows_of =
    requires(const L layer, Sequence<float, width> x) { layer.forward(x, Batch<NoState>()); };
}  // namespace

TEST_CASE("Norms are layers, and their prepared forms only run", "[nn][rms_norm][batch_norm]") {
  using Norm = RmsNorm<RmsNormConfig{.d = 3}>;
  STATIC_REQUIRE(Layer<Norm>);
  STATIC_REQUIRE(Streaming<prepared_form<Norm>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Norm>>);
  STATIC_REQUIRE(Layer<BatchNorm<BatchNormConfig{.d = 3, .positions = 2}>>);
  STATIC_REQUIRE(std::is_same_v<LayerNorm<LayerNormConfig{.d = 6}>,
                                GroupNorm<GroupNormConfig{.d = 6, .groups = 1}>>);
  STATIC_REQUIRE(runs_over_rows_of<Norm, 3>);
  STATIC_REQUIRE_FALSE(runs_over_rows_of<Norm, 4>);
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

TEST_CASE("The way back through a norm has the rows of the way there",
          "[nn][group_norm][batch_norm]") {
  refuses_other_rows<GroupNorm<GroupNormConfig{.d = 6, .groups = 2}>>();
  refuses_other_rows<BatchNorm<BatchNormConfig{.d = 5, .positions = 2}>>();
}
