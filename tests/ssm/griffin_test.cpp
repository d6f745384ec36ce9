#include <limen/ssm/griffin.hpp>

#include <cmath>

#include "../goldens/ssm_griffin.hpp"
#include "../laws.hpp"
#include "streams.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("RgLru keeps the laws of layers", "[ssm][rg_lru][laws]",
                       ((RgLruConfig C), C), (RgLruConfig{.d = 1}),
                       (RgLruConfig{.d = 6, .heads = 3}), (RgLruConfig{.d = 17}),
                       (RgLruConfig{.d = 32, .heads = 2})) {
  laws::hold_in_double_and_float<RgLru<C>>();
}

TEMPLATE_TEST_CASE_SIG("Griffin keeps the laws of layers", "[ssm][griffin][laws]",
                       ((GriffinConfig C), C), (GriffinConfig{.d_model = 1}),
                       (GriffinConfig{.d_model = 3, .d_rnn = 10, .heads = 2, .d_conv = 2}),
                       (GriffinConfig{.d_model = 17})) {
  laws::hold_in_double_and_float<Griffin<C>>();
}

TEST_CASE("The first token of a stream is taken as it is, the second is half remembered",
          "[ssm][rg_lru]") {
  RgLru<RgLruConfig{.d = 1}, double> layer;  // gates of 0: r = i = 1/2
  layer.recurrent_param[0] = std::log(std::expm1(std::log(2.0) / 4));
  const auto s = forward(layer, Sequence<double, 1>{{1}, {1}});
  REQUIRE(s(0, 0) == Approx(0.5));
  REQUIRE(s(1, 0) == Approx(0.6830127).epsilon(1e-7));
}

TEST_CASE("What hardly forgets also hardly writes, to the last digit of float", "[ssm][rg_lru]") {
  for (const double rate : {-2.0, -8.0, -14.0, -20.0, -30.0}) {
    RgLru<RgLruConfig{.d = 1}> layer, gradient;  // gates of 0: r = i = 1/2
    layer.recurrent_param[0] = static_cast<float>(rate);
    decltype(layer)::Cache cache;
    const auto s = forward(layer, Sequence<float, 1>{{0}, {1}}, cache);
    const double v = 4 * std::log1p(std::exp(rate)), m = std::sqrt(-std::expm1(-2 * v));
    INFO("rate " << rate);
    REQUIRE(std::abs(static_cast<double>(s(1, 0)) / (0.5 * m) - 1) < 1e-6);
    // d log a = -a²/2 / max(m, 1/2000),  d rate = -log a' r, rate = 8 softplus(Λ)
    backward(layer, Sequence<float, 1>{{0}, {1}}, cache, gradient);
    const double slope = std::exp(-2 * v) / std::max(m, 1.0 / 2000) * 2 / (1 + std::exp(-rate));
    REQUIRE(std::abs(static_cast<double>(gradient.recurrent_param[0]) / slope - 1) < 1e-5);
  }
}

TEST_CASE("Extreme gates of RgLru leave finite numbers and slopes", "[ssm][rg_lru]") {
  for (const float rate : {-200.0f, -20.0f, 0.0f, 50.0f, 1e4f}) {
    for (const float gate : {-1e4f, -100.0f, 0.0f, 100.0f, 1e4f}) {
      RgLru<RgLruConfig{.d = 1}> layer, gradient;
      layer.recurrent_param[0] = rate;
      layer.recurrent_gate_bias[0] = gate;
      layer.input_gate_bias[0] = -gate;
      decltype(layer)::Cache cache;
      const Sequence<float, 1> x{{1}, {-2}, {3}};
      const auto s = forward(layer, Sequence<float, 1>(x), cache);
      const auto dx = backward(layer, x, cache, gradient);
      INFO("rate " << rate << ", gate " << gate);
      for (Index t = 0; t < 3; ++t) {
        REQUIRE(std::isfinite(s(t, 0)));
        REQUIRE(std::isfinite(dx(t, 0)));
      }
      for_each_tensor([](const auto& g) { REQUIRE(std::isfinite(g[0])); }, gradient);
    }
  }
}

namespace {

using Small = Griffin<GriffinConfig{.d_model = 4, .heads = 2}>;

/// Also makes it the state of a stream that has begun: one at rest would be overwritten.
constexpr auto parts = [](auto& state, auto f) {
  state.rnn.started[0] = 1;
  f(state.conv.past, state.rnn.s);
};

template <GriffinConfig C>
void is_golden(const golden::Run& run, golden::Parameters parameters, golden::Numbers state) {
  golden::check_in_double_and_float<Griffin<C>>(run, parameters);
  golden::check_last_state<Griffin<C>>(
      run.x, parameters, [](auto& S) { return streams::numbers_of(S, parts); }, state);
}

}  // namespace

// The numbers: tests/goldens/ssm_diagonal.py, griffin(): transformers'
// RecurrentGemmaRecurrentBlock.
TEST_CASE("Griffin computes what transformers does", "[ssm][griffin][golden]"){
#define LIMEN_CASE(k, config)                                                           \
  {                                                                                     \
    namespace g = goldens::ssm::griffin_##k;                                            \
    constexpr GriffinConfig c = config;                                                 \
    is_golden<c>({g::x, g::y, g::dy, g::dx},                                            \
                 {{g::linear_y_weight, g::d_linear_y_weight},                           \
                  {g::linear_y_bias, g::d_linear_y_bias},                               \
                  {g::linear_x_weight, g::d_linear_x_weight},                           \
                  {g::linear_x_bias, g::d_linear_x_bias},                               \
                  {g::linear_out_weight, g::d_linear_out_weight},                       \
                  {g::linear_out_bias, g::d_linear_out_bias},                           \
                  {g::conv_1d_weight, g::d_conv_1d_weight},                             \
                  {g::conv_1d_bias, g::d_conv_1d_bias},                                 \
                  {g::rg_lru_recurrent_param, g::d_rg_lru_recurrent_param},             \
                  {g::rg_lru_input_gate_weight, g::d_rg_lru_input_gate_weight},         \
                  {g::rg_lru_input_gate_bias, g::d_rg_lru_input_gate_bias},             \
                  {g::rg_lru_recurrent_gate_weight, g::d_rg_lru_recurrent_gate_weight}, \
                  {g::rg_lru_recurrent_gate_bias, g::d_rg_lru_recurrent_gate_bias}},    \
                 g::state);                                                             \
  }
    LIMEN_CASE(0, (GriffinConfig{.d_model = 1, .d_conv = 2}))
        LIMEN_CASE(1, (GriffinConfig{.d_model = 3, .d_rnn = 4, .heads = 2}))
            LIMEN_CASE(2, (GriffinConfig{.d_model = 5, .d_rnn = 18, .heads = 3}))
#undef LIMEN_CASE
}

TEST_CASE("States of Griffin are values", "[ssm][griffin]") {
  streams::are_values<Small, Griffin<GriffinConfig{.d_model = 4, .d_rnn = 17}>>();
  streams::are_values<RgLru<RgLruConfig{.d = 6, .heads = 3}>, RgLru<RgLruConfig{.d = 17}>>();
  streams::fall_silent<Small>(parts);
}

TEST_CASE("Sequences of Griffin do not see each other", "[ssm][griffin]") {
  streams::long_batches_are_their_sequences<Small>();
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("Griffin does not drift in a million steps", "[ssm][griffin][.slow]") {
  streams::do_not_drift<Griffin<GriffinConfig{.d_model = 2}>>(parts, 2e-5);
}

TEST_CASE("Griffin names its parameters as RecurrentGemma does", "[ssm][griffin]") {
  const Griffin<GriffinConfig{.d_model = 4, .heads = 2}> layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names ==
          "linear_y.weight linear_y.bias linear_x.weight linear_x.bias linear_out.weight "
          "linear_out.bias conv_1d.weight conv_1d.bias rg_lru.recurrent_param "
          "rg_lru.input_gate_weight rg_lru.input_gate_bias rg_lru.recurrent_gate_weight "
          "rg_lru.recurrent_gate_bias ");
}

TEST_CASE("Griffin steps, trains, and prepares to step", "[ssm][griffin]") {
  using Layer = Griffin<GriffinConfig{.d_model = 4}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(Streaming<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
  STATIC_REQUIRE(std::is_same_v<Layer::State, prepared_form<Layer>::State>);
}
