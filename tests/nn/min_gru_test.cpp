#include <limen/nn/min_gru.hpp>

#include <cmath>

#include "../goldens/nn_min.hpp"
#include "../goldens/recurrent.hpp"
#include "min_recurrent.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("MinGru keeps the laws of layers", "[nn][min_gru][laws]",
                       ((MinGruConfig C), C), (MinGruConfig{.d_in = 1, .d_hidden = 1}),
                       (MinGruConfig{
                           .d_in = 3, .d_hidden = 7, .candidate = Candidate::plain, .bias = true}),
                       (MinGruConfig{.d_in = 5, .d_hidden = 16, .bias = true}),
                       (MinGruConfig{.d_in = 2, .d_hidden = 33, .candidate = Candidate::plain})) {
  min_recurrent::keeps_the_laws<MinGru<C>>({});
  min_recurrent::keeps_the_laws<MinGru<C>>({.rows = 19, .seed = 2});
}

TEST_CASE("MinGru computes what PyTorch computes", "[nn][min_gru][golden]") {
  namespace g = goldens::nn_min;
  golden::check_recurrent_in_double_and_float<
      MinGru<MinGruConfig{.d_in = 1, .d_hidden = 1, .bias = true}>>(
      RECURRENT_RUN(g::min_gru_1),
      {{g::min_gru_1::weight, g::min_gru_1::d_weight}, {g::min_gru_1::bias, g::min_gru_1::d_bias}});
  golden::check_recurrent_in_double_and_float<
      MinGru<MinGruConfig{.d_in = 3, .d_hidden = 5, .bias = true}>>(
      RECURRENT_RUN(g::min_gru_5),
      {{g::min_gru_5::weight, g::min_gru_5::d_weight}, {g::min_gru_5::bias, g::min_gru_5::d_bias}});
  golden::check_recurrent_in_double_and_float<
      MinGru<MinGruConfig{.d_in = 4, .d_hidden = 17, .candidate = Candidate::plain, .bias = true}>>(
      RECURRENT_RUN(g::min_gru_17), {{g::min_gru_17::weight, g::min_gru_17::d_weight},
                                     {g::min_gru_17::bias, g::min_gru_17::d_bias}});
}

TEST_CASE("Half of a MinGru is rewritten at each step: a case by hand", "[nn][min_gru]") {
  MinGru<MinGruConfig{.d_in = 1, .d_hidden = 1}, double> layer;
  layer.weight(0, 0) = 0.5;  // p_h = 1/2, g = 1; p_z = 0, z = 1/2
  const auto y = forward(layer, Sequence<double, 1>{{1}, {1}});
  REQUIRE(std::abs(y(0, 0) - 0.5) < 1e-15);
  REQUIRE(std::abs(y(1, 0) - 0.75) < 1e-15);
  // Below zero g is a sigmoid; plain candidates have any sign.
  const auto low = forward(layer, Sequence<double, 1>{{-4}});
  REQUIRE(std::abs(low(0, 0) - 0.5 / (1 + std::exp(2.0))) < 1e-15);
  MinGru<MinGruConfig{.d_in = 1, .d_hidden = 1, .candidate = Candidate::plain}, double> plain;
  plain.weight(0, 0) = 0.5;
  REQUIRE(std::abs(forward(plain, Sequence<double, 1>{{-4}})(0, 0) + 1) < 1e-15);
}

TEST_CASE("MinGru stays finite where its gates are shut or wide open", "[nn][min_gru]") {
  min_recurrent::stays_finite<MinGru<MinGruConfig{.d_in = 2, .d_hidden = 1}>>();
}

TEST_CASE("Float follows double over 4096 rows of MinGru", "[nn][min_gru]") {
  min_recurrent::float_follows_double<MinGru<MinGruConfig{.d_in = 4, .d_hidden = 20}>>();
}

TEST_CASE("Two threads give the bits of one in MinGru", "[nn][min_gru]") {
  min_recurrent::two_threads_give_the_bits_of_one<
      MinGru<MinGruConfig{.d_in = 24, .d_hidden = 70}>>();
}

TEST_CASE("Sequences that do not fit the cache are refused by MinGru", "[nn][min_gru]") {
  min_recurrent::refuses_another_batch<MinGru<MinGruConfig{.d_in = 2, .d_hidden = 3}>>();
}

TEST_CASE("MinGru names its parameters and needs its own state and width", "[nn][min_gru]") {
  min_recurrent::names_and_widths<MinGru<MinGruConfig{.d_in = 3, .d_hidden = 4, .bias = true}>,
                                  MinGru<MinGruConfig{.d_in = 3, .d_hidden = 5}>, 2>();
}
