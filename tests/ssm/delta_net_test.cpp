#include <limen/ssm/delta_net.hpp>

#include "../goldens/ssm_delta.hpp"
#include "matrix_state.hpp"

using namespace limen;

using Config = DeltaNetConfig;

// A large eps of the norm, so that differences of float outputs mean something.
TEMPLATE_TEST_CASE_SIG(
    "DeltaNet keeps the laws of layers", "[ssm][delta_net][laws]", ((Config C), C),
    (Config{.d_model = 3, .n_heads = 1, .conv_width = 2, .eps = 0.1}),
    (Config{.d_model = 12, .n_heads = 2, .gate = true, .eps = 0.1}),
    (Config{.d_model = 51, .n_heads = 3, .conv_width = 3, .negative = true, .eps = 0.1})) {
  matrix_state::keeps_the_laws<DeltaNet<C>>();
  if constexpr (C.d_model == 12) {
    matrix_state::keeps_the_laws<DeltaNet<C>>({.rows = 35, .seed = 2});
  }
}

namespace {
constexpr Config small{.d_model = 8, .n_heads = 2, .gate = true};
using Small = DeltaNet<small>;
}  // namespace

TEST_CASE("The delta rule overwrites what a key held", "[ssm][delta_net]") {
  // Keys e1, e1: 2 is written whole; then 3 with half strength over 2 leaves 2.5.
  const double key[] = {1, 0, 1, 0}, value[] = {2, 3}, beta[] = {1, 0.5}, one = 1;
  double S[2] = {};
  double y[2];
  for (int t = 0; t < 2; ++t) {
    const MatrixView<const double> k{key + 2 * t, 1, 2, 2};
    const StateInputs<double> x{
        1, 1, 2, 1, k, k, {value + t, 1, 1, 1}, {&one, 1, 1, 0}, {beta + t, 1, 1, 1}};
    delta_rule_step(x, S, y + t);
  }
  REQUIRE(y[0] == 2);
  REQUIRE(y[1] == 2.5);
  REQUIRE(S[0] == 2.5);
  REQUIRE(S[1] == 0);
}

TEST_CASE("A DeltaNet key of zeros writes nothing", "[ssm][delta_net]") {
  double x[3] = {}, y[3], s;
  l2_norm<double>({x, 1, 3, 3}, 3, 1e-6, {y, 1, 3, 3}, &s);
  for (const double v : y) REQUIRE(v == 0);
  l2_norm_backward<double>({x, 1, 3, 3}, {y, 1, 3, 3}, 3, &s, {y, 1, 3, 3});
  for (const double v : y) REQUIRE(v == 0);
}

TEST_CASE("DeltaNet is one sequence however it is cut", "[ssm][delta_net]") {
  matrix_state::is_one_sequence<Small::with_scalar<double>>(300, 1e-9);
  matrix_state::is_one_sequence<DeltaNet<Config{.d_model = 8, .n_heads = 2, .eps = 0.1}>>(300,
                                                                                          1e-3);
  matrix_state::gradients_cross_a_cut<Small::with_scalar<double>>(300, 150, 1e-8);
}

TEST_CASE("DeltaNet has the same bits on any number of threads", "[ssm][delta_net]") {
  matrix_state::has_the_same_bits_on_any_threads<DeltaNet<Config{.d_model = 48, .n_heads = 3}>>(
      200);
}

TEST_CASE("DeltaNet stays finite", "[ssm][delta_net]") { matrix_state::stays_finite<Small>(); }

TEST_CASE("DeltaNet does not drift in a million steps", "[ssm][delta_net][.slow]") {
  streams::do_not_drift<DeltaNet<Config{.d_model = 4, .n_heads = 1, .conv_width = 2, .eps = 0.1}>>(
      matrix_state::parts, 1e-3);
}

TEST_CASE("States of DeltaNet are values", "[ssm][delta_net]") {
  streams::are_values<Small, DeltaNet<Config{.d_model = 8}>>();
  streams::fall_silent<Small>(matrix_state::parts);
}

TEST_CASE("Sequences of DeltaNet do not see each other", "[ssm][delta_net]") {
  streams::long_batches_are_their_sequences<Small>(1e-8);
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("DeltaNet names its parameters as checkpoints do", "[ssm][delta_net]") {
  REQUIRE(matrix_state::names<Small>() ==
          "q_proj.weight k_proj.weight v_proj.weight b_proj.weight q_conv1d.weight "
          "k_conv1d.weight v_conv1d.weight g_proj.weight o_norm.weight o_proj.weight ");
  REQUIRE(matrix_state::names<DeltaNet<Config{.d_model = 8}>>().find("g_proj") ==
          std::string::npos);
}

TEST_CASE("DeltaNet needs its own state and width", "[ssm][delta_net]") {
  STATIC_REQUIRE(Layer<Small>);
  STATIC_REQUIRE(std::is_same_v<Small::State, prepared_form<Small>::State>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Small>>);
  STATIC_REQUIRE(matrix_state::steps_with<Small, 8, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 7, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 8, DeltaNet<Config{.d_model = 8}>::State>);
}

TEST_CASE("DeltaNet computes what PyTorch computes", "[ssm][delta_net][golden]") {
  {
    using namespace goldens::ssm::delta_0;
    using L = DeltaNet<Config{.d_model = 3, .n_heads = 1}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {b_proj_weight, d_b_proj_weight},
                                {q_conv1d_weight, d_q_conv1d_weight},
                                {k_conv1d_weight, d_k_conv1d_weight},
                                {v_conv1d_weight, d_v_conv1d_weight},
                                {o_norm_weight, d_o_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::delta_1;
    using L = DeltaNet<Config{.d_model = 6, .n_heads = 2, .gate = true}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {b_proj_weight, d_b_proj_weight},
                                {q_conv1d_weight, d_q_conv1d_weight},
                                {k_conv1d_weight, d_k_conv1d_weight},
                                {v_conv1d_weight, d_v_conv1d_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {o_norm_weight, d_o_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::delta_2;
    using L = DeltaNet<Config{.d_model = 8, .n_heads = 2, .negative = true}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {b_proj_weight, d_b_proj_weight},
                                {q_conv1d_weight, d_q_conv1d_weight},
                                {k_conv1d_weight, d_k_conv1d_weight},
                                {v_conv1d_weight, d_v_conv1d_weight},
                                {o_norm_weight, d_o_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
}
