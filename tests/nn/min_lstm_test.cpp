#include <limen/nn/min_lstm.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "../goldens/nn_min.hpp"
#include "../goldens/recurrent.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

/// g has a kink at 0: central differences in float, which must take wide steps, fall over it. What
/// float gradients are worth, the goldens say.
template <MinLstmConfig C>
void hold(check::Options options) {
  using L = MinLstm<C, double>;
  static_assert(check::names_every_member<L>);
  Random random(options.seed);
  laws::hold(L::initialized(random), options);
  if (C.candidate == Candidate::positive) options.slope = 2;
  laws::hold(MinLstm<C>::initialized(random), options);
}

template <class Real, Index D>
Sequence<Real, D> noise(Index rows, Random& random) {
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("MinLstm keeps the laws of layers", "[nn][min_lstm][laws]",
                       ((MinLstmConfig C), C), (MinLstmConfig{.d_in = 1, .d_hidden = 1}),
                       (MinLstmConfig{
                           .d_in = 3, .d_hidden = 7, .candidate = Candidate::plain, .bias = true}),
                       (MinLstmConfig{.d_in = 5, .d_hidden = 16, .bias = true}),
                       (MinLstmConfig{.d_in = 2, .d_hidden = 33, .candidate = Candidate::plain})) {
  hold<C>({});
  hold<C>({.rows = 19, .seed = 2});
}

TEST_CASE("MinLstm computes what PyTorch computes", "[nn][min_lstm][golden]") {
  namespace g = goldens::nn_min;
  golden::check_recurrent_in_double_and_float<
      MinLstm<MinLstmConfig{.d_in = 1, .d_hidden = 1, .bias = true}>>(
      RECURRENT_RUN(g::min_lstm_1), {{g::min_lstm_1::weight, g::min_lstm_1::d_weight},
                                     {g::min_lstm_1::bias, g::min_lstm_1::d_bias}});
  golden::check_recurrent_in_double_and_float<
      MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 5, .bias = true}>>(
      RECURRENT_RUN(g::min_lstm_5), {{g::min_lstm_5::weight, g::min_lstm_5::d_weight},
                                     {g::min_lstm_5::bias, g::min_lstm_5::d_bias}});
  golden::check_recurrent_in_double_and_float<MinLstm<MinLstmConfig{
      .d_in = 4, .d_hidden = 17, .candidate = Candidate::plain, .bias = true}>>(
      RECURRENT_RUN(g::min_lstm_17), {{g::min_lstm_17::weight, g::min_lstm_17::d_weight},
                                      {g::min_lstm_17::bias, g::min_lstm_17::d_bias}});
}

TEST_CASE("The gates of a MinLstm share one unit: a case by hand", "[nn][min_lstm]") {
  MinLstm<MinLstmConfig{.d_in = 1, .d_hidden = 1}, double> layer;
  layer.weight(0, 0) = 0.5;  // p_h = 1/2, g = 1; p_f = p_i = 0, f = i = 1/2
  auto y = forward(layer, Sequence<double, 1>{{1}, {1}});
  REQUIRE(std::abs(y(0, 0) - 0.5) < 1e-15);
  REQUIRE(std::abs(y(1, 0) - 0.75) < 1e-15);
  layer.weight(1, 0) = std::log(3.0);  // σ(p_f) = 3/4, σ(p_i) = 1/2: f = 3/5, i = 2/5
  y = forward(layer, Sequence<double, 1>{{1}, {1}});
  REQUIRE(std::abs(y(0, 0) - 0.4) < 1e-15);
  REQUIRE(std::abs(y(1, 0) - 0.64) < 1e-15);
}

TEST_CASE("Two shut gates of a MinLstm still compare", "[nn][min_lstm]") {
  // Far below zero σ(p) is e^p: f = 1 / (1 + e^(p_i - p_f)), where both sigmoids are 0 in float.
  MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 1, .candidate = Candidate::plain}> layer;
  for (Index i = 0; i < 3; ++i) layer.weight(i, i) = 1;
  const auto y = forward(layer, Sequence<float, 3>{{1, -200, -201}});
  REQUIRE(std::abs(y(0, 0) - 1 / (1 + std::exp(1.0f))) < 1e-6f);
}

TEST_CASE("MinLstm stays finite where its gates are shut or wide open", "[nn][min_lstm]") {
  MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 1}> layer;  // each pre-activation is an input
  for (Index i = 0; i < 3; ++i) layer.weight(i, i) = 1;
  const std::vector<float> extremes{-1e4f, -100, -1, 0, 1, 100, 1e4f};
  for (const float a : extremes) {
    for (const float b : extremes) {
      for (const float hidden : extremes) {
        typename decltype(layer)::State state{}, d_state{};
        typename decltype(layer)::Cache cache;
        decltype(layer) gradient;
        Sequence<float, 3> x(3);
        for (Index t = 0; t < 3; ++t) {
          x(t, 0) = hidden;
          x(t, 1) = t == 1 ? b : a;
          x(t, 2) = t == 1 ? a : b;
        }
        const auto y = layer.forward(std::move(x), state, cache);
        const Sequence<float, 1> dy{{1}, {1}, {1}};
        const auto dx = layer.backward(dy, d_state, cache, gradient);
        INFO(a << ' ' << b << ' ' << hidden);
        const float bound = hidden > 0 ? hidden + 0.5f : 0.5f;
        for (Index t = 0; t < 3; ++t) {
          REQUIRE((y(t, 0) >= 0 && y(t, 0) <= 1.0001f * bound));
          for (Index i = 0; i < 3; ++i) REQUIRE(std::isfinite(dx(t, i)));
        }
        REQUIRE((d_state.h[0] >= 0 && d_state.h[0] <= 3));
      }
    }
  }
}

TEST_CASE("Float follows double over 4096 rows of MinLstm", "[nn][min_lstm]") {
  using L = MinLstm<MinLstmConfig{.d_in = 4, .d_hidden = 20}>;
  Random random(4), other(4), numbers(5);
  const auto x = noise<double, 4>(4096, numbers);
  Sequence<float, 4> rough(4096);
  for (Index i = 0; i < x.size(); ++i) rough.data()[i] = static_cast<float>(x.data()[i]);
  const auto exact = forward(L::with_scalar<double>::initialized(random), x);
  const auto y = forward(L::initialized(other), rough);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(static_cast<double>(y.data()[i]) - exact.data()[i]) <=
            1e-4 * (1e-2 + std::abs(exact.data()[i])));
  }
}

TEST_CASE("Two threads give the bits of one in MinLstm", "[nn][min_lstm]") {
  using L = MinLstm<MinLstmConfig{.d_in = 24, .d_hidden = 70}>;
  Random random(6);
  const auto layer = L::initialized(random);
  const std::vector<Index> offsets{0, 300, 300, 301, 1000};
  const auto x = noise<float, 24>(1000, random);
  const auto dy = noise<float, 70>(1000, random);
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    typename L::Cache cache;
    L gradient;
    const auto y = layer.forward(Sequence<float, 24>(x), from_rest(offsets), cache);
    const auto dx = layer.backward(dy, from_rest(offsets), cache, gradient);
    std::vector<float> all(y.data(), y.data() + y.size());
    all.insert(all.end(), dx.data(), dx.data() + dx.size());
    all.insert(all.end(), gradient.weight.data(), gradient.weight.data() + L::P * L::I);
    return all;
  };
  REQUIRE(run(1) == run(2));
}

TEST_CASE("Rows that do not fit the batch or the cache are refused by MinLstm", "[nn][min_lstm]") {
  MinLstm<MinLstmConfig{.d_in = 2, .d_hidden = 3}> layer;
  const std::vector<Index> offsets{0, 2};
  REQUIRE_THROWS_AS(layer.forward(Sequence<float, 2>::zeros(3), from_rest(offsets)), Exception);

  using L = decltype(layer);
  L gradient;
  L::Cache cache;
  std::vector<L::State> two(2), three(3);
  const std::vector<Index> cut{0, 1, 4}, cut_again{0, 1, 2, 4};
  layer.forward(Sequence<float, 2>::zeros(4), Batch<L::State>(two, cut), cache);
  const auto dy = Sequence<float, 3>::zeros(4);
  REQUIRE_THROWS_AS(layer.backward(middle_rows(dy, 0, 3), {}, cache, gradient), Exception);
  REQUIRE_THROWS_AS(layer.backward(dy, Batch<L::State>(three, cut_again), cache, gradient),
                    Exception);
  REQUIRE(layer.backward(dy, Batch<L::State>(two, cut), cache, gradient).rows() == 4);
}

namespace {
template <class L, Index width, class State>
concept steps_with =
    requires(const L layer, Vector<float, width> x, State state) { layer.step(x, state); };
}  // namespace

TEST_CASE("MinLstm names its parameters and needs its own state and width", "[nn][min_lstm]") {
  using L = MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 4, .bias = true}>;
  using Wider = MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 5}>;
  const L layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "weight bias ");
  STATIC_REQUIRE(decltype(L::weight)::shape == std::array<Index, 2>{3 * 4, 3});
  STATIC_REQUIRE(L::macs(10) == 360);
  STATIC_REQUIRE(Layer<L>);
  STATIC_REQUIRE(Streaming<prepared_form<L>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<L>>);
  STATIC_REQUIRE(std::is_same_v<L::State, prepared_form<L>::State>);
  STATIC_REQUIRE(steps_with<L, 3, L::State>);
  STATIC_REQUIRE_FALSE(steps_with<L, 4, L::State>);
  STATIC_REQUIRE_FALSE(steps_with<L, 3, Wider::State>);
}
