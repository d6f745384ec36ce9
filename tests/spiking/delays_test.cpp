#include <limen/spiking/delay_lines.hpp>

#include <memory>
#include <string>
#include <vector>

#include "laws.hpp"

using namespace limen;

namespace {

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Exception& e) {
    return e.what();
  }
  return "";
}

template <Index D>
Sequence<double, D> spikes(Index rows, double rate, std::uint64_t seed = 5) {
  Random random(seed);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.uniform() < rate ? 1 : 0;
  return x;
}

constexpr DelayConfig config{.d_in = 6, .d_out = 4, .longest = 5, .bias = true};
using Delayed = DelayedLinear<config, double>;
using Lines = DelayLines<config, double>;

}  // namespace

static_assert(Layer<Delayed>);
static_assert(Streaming<Lines> && !Trainable<Lines>);
static_assert(std::is_trivially_copyable_v<Delayed::State>);

TEMPLATE_TEST_CASE_SIG("DelayedLinear keeps the laws of layers", "[spiking][delays][laws]",
                       ((DelayConfig C), C), (DelayConfig{.d_in = 1, .d_out = 1, .longest = 0}),
                       (DelayConfig{.d_in = 3, .d_out = 5, .longest = 4, .bias = true}),
                       (DelayConfig{.d_in = 9, .d_out = 2, .longest = 15})) {
  laws::hold_in_double_and_float<DelayedLinear<C>>({.state_has_slope = false});
}

TEST_CASE("A spike arrives when its delay is over, and spikes that arrive together add up",
          "[spiking][delays]") {
  constexpr DelayConfig c{.d_in = 2, .d_out = 1, .longest = 2};
  DelayedLinear<c, double> layer;
  layer.weight[0] = layer.weight[1] = 0.5;
  layer.delay[0] = 2;
  const Sequence<double, 2> x{{0, 0}, {1, 0}, {0, 0}, {0, 1}, {0, 0}};
  const auto y = forward(layer, x);
  const double expected[] = {0, 0, 0, 1, 0};
  for (Index t = 0; t < 5; ++t) REQUIRE(y(t, 0) == expected[t]);
}

TEST_CASE("A ring is the convolution that it stands for, bit for bit where sums agree",
          "[spiking][delays]") {
  Random random(2);
  const auto layer = Delayed::initialized(random);
  CausalConv1d<CausalConv1dConfig{.d_in = 6, .d_out = 4, .width = 6}, double> conv;
  conv.bias = layer.bias;
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < 4; ++j) {
      const auto d = static_cast<Index>(layer.delay(i, j));
      conv.weight[(j * 6 + i) * 6 + 5 - d] = layer.weight(i, j);
    }
  }
  const auto x = spikes<6>(50, 0.3);
  const auto y = forward(layer, x), by_conv = forward(conv, x);
  auto lines = Lines::from(synapses_of(layer), layer.bias.flat());
  REQUIRE(lines);
  auto dense = Lines::from(synapses_of(conv), conv.bias.flat());
  REQUIRE(dense);
  REQUIRE(dense->synapses() == 6 * 4 * 6);
  const auto by_list = forward(*lines, x), by_dense = forward(*dense, x);
  Lines::State state{};
  for (Index t = 0; t < 50; ++t) {
    const auto stepped = lines->step(x.row(t), state);
    for (Index j = 0; j < 4; ++j) {
      REQUIRE(std::abs(y(t, j) - by_conv(t, j)) < 1e-14);
      REQUIRE(std::abs(by_list(t, j) - y(t, j)) < 1e-14);
      REQUIRE(std::abs(by_dense(t, j) - y(t, j)) < 1e-14);
      REQUIRE(stepped[j] == by_list(t, j));
    }
  }
}

TEST_CASE("Several synapses of a pair, each with a delay of its own", "[spiking][delays]") {
  constexpr DelayConfig c{.d_in = 1, .d_out = 2, .longest = 3};
  const std::vector<DelayedSynapse> synapses{{0, 1, 3, 0.25}, {0, 1, 0, 1}, {0, 1, 3, 0.5}};
  auto lines = DelayLines<c, double>::from(synapses);
  REQUIRE(lines);
  const auto y = forward(*lines, Sequence<double, 1>{{1}, {0}, {0}, {2}, {0}});
  const double expected[] = {1, 0, 0, 2.75, 0};
  for (Index t = 0; t < 5; ++t) {
    REQUIRE(y(t, 1) == expected[t]);
    REQUIRE(y(t, 0) == 0);
  }
}

TEST_CASE("What is on its way is carried over a cut, and so is its gradient", "[spiking][delays]") {
  Random random(2);
  const auto layer = Delayed::initialized(random);
  const auto x = spikes<6>(17, 0.4);
  Sequence<double, 4> dy(17);
  for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = random.normal();
  Delayed::Cache whole;
  Delayed gradient;
  const auto y = forward(layer, Sequence<double, 6>(x), whole);
  const auto dx = backward(layer, dy, whole, gradient);
  for (const Index cut : {2, 7, 16}) {  // shorter and longer than the ring
    Delayed::Cache head, tail;
    Delayed summed;
    Delayed::State state{}, d_state{};
    layer.forward(middle_rows(x, 0, cut).copy(), state, head);
    const auto y_tail = layer.forward(middle_rows(x, cut, 17 - cut).copy(), state, tail);
    const auto dx_tail = layer.backward(middle_rows(dy, cut, 17 - cut), d_state, tail, summed);
    const auto dx_head = layer.backward(middle_rows(dy, 0, cut), d_state, head, summed);
    for (Index t = 0; t < 17; ++t) {
      for (Index j = 0; t >= cut && j < 4; ++j) REQUIRE(y_tail(t - cut, j) == y(t, j));
      for (Index i = 0; i < 6; ++i) {
        const double got = t < cut ? dx_head(t, i) : dx_tail(t - cut, i);
        REQUIRE(std::abs(got - dx(t, i)) < 1e-13);
      }
    }
    for (Index k = 0; k < layer.weight.size; ++k) {
      REQUIRE(std::abs(summed.weight[k] - gradient.weight[k]) < 1e-13);
    }
  }
}

TEST_CASE("A state is a value: a fork goes its own way", "[spiking][delays]") {
  Random random(2);
  const auto layer = Delayed::initialized(random);
  const auto x = spikes<6>(20, 0.4);
  Delayed::State state{};
  layer.forward(middle_rows(x, 0, 9), state);
  Delayed::State fork = state;
  const auto a = layer.forward(middle_rows(x, 9, 5), state);
  layer.forward(middle_rows(x, 14, 5), fork);
  const auto b = forward(layer, middle_rows(x, 0, 14));
  for (Index t = 0; t < 5; ++t) REQUIRE(a(t, 0) == b(9 + t, 0));
}

TEST_CASE("Pruning keeps the strongest, in order", "[spiking][delays]") {
  const std::vector<DelayedSynapse> all{{0, 0, 1, 0.1}, {0, 1, 2, -3}, {1, 0, 0, 2}, {1, 1, 0, -2}};
  const auto kept = strongest(all, 2);
  REQUIRE(kept.size() == 2);
  REQUIRE(kept[0].weight == -3);
  REQUIRE(kept[1].weight == 2);  // of two equals, the first
  REQUIRE(strongest(all, 9).size() == 4);
  REQUIRE(strongest(all, 0).empty());
}

TEST_CASE("Delays that the ring does not hold are refused", "[spiking][delays]") {
  Random random(2);
  auto layer = Delayed::initialized(random);
  const auto x = spikes<6>(4, 0.5);
  Delayed::State state{};
  for (const double wrong : {6.0, -1.0, 1.5, std::nan("")}) {
    layer.delay(2, 3) = wrong;
    REQUIRE(error_of([&] { forward(layer, x); }).find("delay from 2 to 3") != std::string::npos);
    REQUIRE_FALSE(layer.check());
    layer.step(x.row(0), state);  // cannot say no, and stays within its ring
  }
  const auto refused = [](DelayedSynapse s) {
    const std::vector<DelayedSynapse> one{s};
    auto lines = Lines::from(one);
    return lines ? std::string() : lines.error().message();
  };
  REQUIRE(refused({0, 0, 6, 1}) == "synapse 0: delay: wanted 0 to 5, found 6");
  REQUIRE_FALSE(refused({0, 0, -1, 1}).empty());
  REQUIRE_FALSE(refused({6, 0, 0, 1}).empty());
  REQUIRE_FALSE(refused({0, 4, 0, 1}).empty());
  REQUIRE_FALSE(refused({-1, 0, 0, 1}).empty());
  REQUIRE_FALSE(refused({0, 0, 0, std::nan("")}).empty());
  const std::vector<double> short_bias{1, 2};
  REQUIRE_FALSE(Lines::from({}, short_bias));
}
