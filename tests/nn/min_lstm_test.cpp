#include <limen/nn/min_lstm.hpp>

#include <cmath>

#include "../goldens/nn_min.hpp"
#include "../goldens/recurrent.hpp"
#include "min_recurrent.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("MinLstm keeps the laws of layers", "[nn][min_lstm][laws]",
                       ((MinLstmConfig C), C), (MinLstmConfig{.d_in = 1, .d_hidden = 1}),
                       (MinLstmConfig{
                           .d_in = 3, .d_hidden = 7, .candidate = Candidate::plain, .bias = true}),
                       (MinLstmConfig{.d_in = 5, .d_hidden = 16, .bias = true}),
                       (MinLstmConfig{.d_in = 2, .d_hidden = 33, .candidate = Candidate::plain})) {
  min_recurrent::keeps_the_laws<MinLstm<C>>({});
  min_recurrent::keeps_the_laws<MinLstm<C>>({.rows = 19, .seed = 2});
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
  min_recurrent::stays_finite<MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 1}>>();
}

TEST_CASE("Float follows double over 4096 rows of MinLstm", "[nn][min_lstm]") {
  min_recurrent::float_follows_double<MinLstm<MinLstmConfig{.d_in = 4, .d_hidden = 20}>>();
}

TEST_CASE("Two threads give the bits of one in MinLstm", "[nn][min_lstm]") {
  min_recurrent::two_threads_give_the_bits_of_one<
      MinLstm<MinLstmConfig{.d_in = 24, .d_hidden = 70}>>();
}

TEST_CASE("Sequences that do not fit the cache are refused by MinLstm", "[nn][min_lstm]") {
  min_recurrent::refuses_another_batch<MinLstm<MinLstmConfig{.d_in = 2, .d_hidden = 3}>>();
}

TEST_CASE("MinLstm names its parameters and needs its own state and width", "[nn][min_lstm]") {
  min_recurrent::names_and_widths<MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 4, .bias = true}>,
                                  MinLstm<MinLstmConfig{.d_in = 3, .d_hidden = 5}>, 3>();
}
