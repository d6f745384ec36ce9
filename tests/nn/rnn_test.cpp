#include <limen/nn/rnn.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../goldens/nn_min.hpp"
#include "../goldens/recurrent.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

/// With a kink in φ, central differences in float, which must take wide steps, fall over it. What
/// float gradients are worth, the goldens say.
template <RnnConfig C>
void hold(check::Options options) {
  static_assert(check::names_every_member<Rnn<C>>);
  Random random(options.seed);
  laws::hold(Rnn<C, double>::initialized(random), options);
  if (C.activation != Activation::tanh) options.slope = 2;
  laws::hold(Rnn<C>::initialized(random), options);
}

template <Index D>
Sequence<float, D> noise(Index rows, Random& random) {
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

constexpr RnnConfig slow{.d_in = 2,
                         .d_hidden = 17,
                         .leak = Leak::outside,
                         .time_constant = TimeConstant::softplus,
                         .hold = 2,
                         .activation = Activation::tanh};

}  // namespace

TEMPLATE_TEST_CASE_SIG("Rnn keeps the laws of layers", "[nn][rnn][laws]", ((RnnConfig C), C),
                       (RnnConfig{.d_in = 1, .d_hidden = 1}),
                       (RnnConfig{.d_in = 3, .d_hidden = 16}), (slow),
                       (RnnConfig{.d_in = 5,
                                  .d_hidden = 33,
                                  .leak = Leak::none,
                                  .activation = Activation::tanh,
                                  .self_connections = true,
                                  .bias = false})) {
  hold<C>({});
  hold<C>({.rows = 19, .seed = 2});
}

#define RNN_PARAMETERS(c, tau)                                                                  \
  {                                                                                             \
    {c::weight_ih, c::d_weight_ih}, {c::weight_hh, c::d_weight_hh}, {c::bias_ih, c::d_bias_ih}, \
        {c::bias_hh, c::d_bias_hh}, {                                                           \
      c::tau, c::d_##tau                                                                        \
    }                                                                                           \
  }

TEST_CASE("Rnn computes what PyTorch computes", "[nn][rnn][golden]") {
  namespace g = goldens::nn_min;
  using golden::check_recurrent_in_double_and_float;
  check_recurrent_in_double_and_float<Rnn<RnnConfig{.d_in = 1, .d_hidden = 1}>>(
      RECURRENT_RUN(g::rnn_1), RNN_PARAMETERS(g::rnn_1, tau));
  check_recurrent_in_double_and_float<Rnn<RnnConfig{.d_in = 3, .d_hidden = 5}>>(
      RECURRENT_RUN(g::rnn_5), RNN_PARAMETERS(g::rnn_5, tau));
  check_recurrent_in_double_and_float<
      Rnn<RnnConfig{.d_in = 2, .d_hidden = 17, .leak = Leak::outside}>>(
      RECURRENT_RUN(g::rnn_17), RNN_PARAMETERS(g::rnn_17, tau));
  check_recurrent_in_double_and_float<Rnn<RnnConfig{.d_in = 3,
                                                    .d_hidden = 18,
                                                    .leak = Leak::outside,
                                                    .time_constant = TimeConstant::softplus,
                                                    .hold = 2,
                                                    .activation = Activation::tanh}>>(
      RECURRENT_RUN(g::rnn_18), RNN_PARAMETERS(g::rnn_18, rho));
  check_recurrent_in_double_and_float<
      Rnn<RnnConfig{.d_in = 2, .d_hidden = 6, .hold = 3, .activation = Activation::relu}>>(
      RECURRENT_RUN(g::rnn_6), RNN_PARAMETERS(g::rnn_6, tau));
  check_recurrent_in_double_and_float<Rnn<RnnConfig{.d_in = 3,
                                                    .d_hidden = 19,
                                                    .leak = Leak::none,
                                                    .activation = Activation::tanh,
                                                    .self_connections = true}>>(
      RECURRENT_RUN(g::rnn_19), {{g::rnn_19::weight_ih, g::rnn_19::d_weight_ih},
                                 {g::rnn_19::weight_hh, g::rnn_19::d_weight_hh},
                                 {g::rnn_19::bias_ih, g::rnn_19::d_bias_ih},
                                 {g::rnn_19::bias_hh, g::rnn_19::d_bias_hh}});
}

TEST_CASE("A neuron with time constant 2 goes half the way: a case by hand", "[nn][rnn]") {
  Rnn<RnnConfig{.d_in = 1, .d_hidden = 1}, double> inside;
  inside.weight_ih[0] = 1;
  inside.tau[0] = 2;
  const auto y = forward(inside, Sequence<double, 1>{{1}, {1}, {1}});
  REQUIRE(y(0, 0) == 0.5);
  REQUIRE(y(1, 0) == 0.75);
  REQUIRE(y(2, 0) == 0.875);
  // Below zero the slope of 0.01 comes before the leak or after it.
  REQUIRE(std::abs(forward(inside, Sequence<double, 1>{{-1}})(0, 0) + 0.005) < 1e-17);
  Rnn<RnnConfig{.d_in = 1, .d_hidden = 1, .leak = Leak::outside}, double> outside;
  outside.weight_ih[0] = 1;
  outside.tau[0] = 2;
  const auto z = forward(outside, Sequence<double, 1>{{1}, {-1}});
  REQUIRE(z(0, 0) == 0.5);
  REQUIRE(std::abs(z(1, 0) - 0.245) < 1e-15);
}

TEST_CASE("A time constant below 1 counts as 1 and is not learned", "[nn][rnn]") {
  using L = Rnn<RnnConfig{.d_in = 1, .d_hidden = 2}, double>;
  L layer, gradient;
  layer.weight_ih[0] = layer.weight_ih[1] = 1;
  layer.tau[0] = 0.3;
  layer.tau[1] = 1.5;
  L::Cache cache;
  const auto y = forward(layer, Sequence<double, 1>{{3}}, cache);
  REQUIRE(y(0, 0) == 3);
  REQUIRE(y(0, 1) == 2);
  backward(layer, Sequence<double, 2>{{1, 1}}, cache, gradient);
  REQUIRE(gradient.tau[0] == 0);
  REQUIRE(std::abs(gradient.tau[1] + 3 / 2.25) < 1e-15);
}

TEST_CASE("Neurons of an Rnn do not see themselves, whatever a checkpoint says", "[nn][rnn]") {
  using L = Rnn<RnnConfig{.d_in = 2, .d_hidden = 35}>;
  Random random(3);
  L layer = L::initialized(random), gradient;
  for (Index i = 0; i < L::H; ++i) REQUIRE(layer.weight_hh(i, i) == 0);
  const auto x = noise<2>(9, random);
  const auto clean = forward(layer, x);
  for (Index i = 0; i < L::H; ++i) layer.weight_hh(i, i) = std::numeric_limits<float>::quiet_NaN();
  L::Cache cache;
  const auto y = forward(layer, Sequence<float, 2>(x), cache);
  const auto fast = forward(prepare(layer), x);
  for (Index i = 0; i < L::H; ++i) gradient.weight_hh(i, i) = 7;
  const auto dx = backward(layer, noise<35>(9, random), cache, gradient);
  L::State state{};
  for (Index t = 0; t < 9; ++t) {
    const auto h = layer.step(x.row(t), state);
    for (Index i = 0; i < L::H; ++i) {
      REQUIRE(y(t, i) == clean(t, i));
      REQUIRE(std::abs(fast(t, i) - clean(t, i)) < 1e-5f);
      REQUIRE(std::abs(h[i] - clean(t, i)) < 1e-5f);
    }
  }
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(std::isfinite(dx.data()[i]));
  for (Index i = 0; i < L::H; ++i) {
    for (Index j = 0; j < L::H; ++j) {
      REQUIRE((i == j ? gradient.weight_hh(i, j) == 7 : std::isfinite(gradient.weight_hh(i, j))));
    }
  }
}

TEST_CASE("A first state is drawn only where one is asked for", "[nn][rnn]") {
  Random random(9), again(9);
  const auto rest = Rnn<RnnConfig{.d_in = 1, .d_hidden = 40}>::first_state(random);
  using L = Rnn<RnnConfig{.d_in = 1, .d_hidden = 40, .first = 0.1}>;
  const auto a = L::first_state(random), b = L::first_state(again);
  float sum = 0;
  for (Index i = 0; i < 40; ++i) {
    REQUIRE(rest.h[i] == 0);
    REQUIRE((a.h[i] >= 0 && a.h[i] < 0.1f));
    REQUIRE(a.h[i] == b.h[i]);
    sum += a.h[i];
  }
  REQUIRE((sum > 1 && sum < 3));
}

TEST_CASE("Time constants of an Rnn start between 1 and 2", "[nn][rnn]") {
  Random random(5);
  const auto clamped = Rnn<RnnConfig{.d_in = 1, .d_hidden = 50}>::initialized(random);
  const auto soft = Rnn<RnnConfig{
      .d_in = 1, .d_hidden = 50, .time_constant = TimeConstant::softplus}>::initialized(random);
  double low = 2, high = 1;
  for (Index i = 0; i < 50; ++i) {
    REQUIRE((clamped.tau[i] > 1 && clamped.tau[i] < 2));
    const double tau = 1 + std::log1p(std::exp(static_cast<double>(soft.rho[i])));
    REQUIRE((tau > 1 && tau < 2));
    low = std::min(low, tau);
    high = std::max(high, tau);
  }
  REQUIRE((low < 1.2 && high > 1.8));
}

TEST_CASE("Two threads give the bits of one in Rnn", "[nn][rnn]") {
  using L = Rnn<RnnConfig{.d_in = 8, .d_hidden = 70}>;
  Random random(6);
  const auto layer = L::initialized(random);
  const std::vector<Index> offsets{0, 60, 60, 61, 130, 180, 200};
  const auto x = noise<8>(200, random);
  const auto dy = noise<70>(200, random);
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    L::Cache cache;
    L gradient;
    const auto y = layer.forward(Sequence<float, 8>(x), from_rest(offsets), cache);
    const auto dx = layer.backward(dy, from_rest(offsets), cache, gradient);
    std::vector<float> all(y.data(), y.data() + y.size());
    all.insert(all.end(), dx.data(), dx.data() + dx.size());
    for_each_tensor([&](auto& t) { all.insert(all.end(), t.data(), t.data() + t.size); }, gradient);
    return all;
  };
  REQUIRE(run(1) == run(2));
}

TEST_CASE("Rows that do not fit the batch or the cache are refused by Rnn", "[nn][rnn]") {
  Rnn<RnnConfig{.d_in = 2, .d_hidden = 3}> layer;
  const std::vector<Index> offsets{0, 2};
  REQUIRE_THROWS_AS(layer.forward(Sequence<float, 2>::zeros(3), from_rest(offsets)), Exception);
  decltype(layer) gradient;
  decltype(layer)::Cache cache;
  forward(layer, Sequence<float, 2>::zeros(2), cache);
  REQUIRE_THROWS_AS(backward(layer, Sequence<float, 3>::zeros(3), cache, gradient), Exception);
}

namespace {
template <class L, Index width, class State>
concept steps_with =
    requires(const L layer, Vector<float, width> x, State state) { layer.step(x, state); };

template <class L>
std::string names() {
  const L layer;
  std::string all;
  for_each_parameter([&](const std::string& name, auto&) { all += name + ' '; }, layer);
  return all;
}
}  // namespace

TEST_CASE("Rnn names its parameters as PyTorch does and needs its own state and width",
          "[nn][rnn]") {
  using L = Rnn<RnnConfig{.d_in = 3, .d_hidden = 4}>;
  using Wider = Rnn<RnnConfig{.d_in = 3, .d_hidden = 5}>;
  REQUIRE(names<L>() == "weight_ih weight_hh bias_ih bias_hh tau ");
  REQUIRE(names<Rnn<slow>>() == "weight_ih weight_hh bias_ih bias_hh rho ");
  REQUIRE(names<Rnn<RnnConfig{.d_in = 1, .d_hidden = 1, .leak = Leak::none, .bias = false}>>() ==
          "weight_ih weight_hh ");
  STATIC_REQUIRE(L::macs(10) == 280);
  STATIC_REQUIRE(Layer<L>);
  STATIC_REQUIRE(Streaming<prepared_form<L>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<L>>);
  STATIC_REQUIRE(steps_with<L, 3, L::State>);
  STATIC_REQUIRE_FALSE(steps_with<L, 4, L::State>);
  STATIC_REQUIRE_FALSE(steps_with<L, 3, Wider::State>);
}
