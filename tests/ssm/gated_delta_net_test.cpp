#include <limen/ssm/gated_delta_net.hpp>

#include "../goldens/ssm_delta.hpp"
#include "matrix_state.hpp"

using namespace limen;

using Config = GatedDeltaNetConfig;

// A large eps of the norm, so that differences of float outputs mean something.
TEMPLATE_TEST_CASE_SIG("GatedDeltaNet keeps the laws of layers", "[ssm][gated_delta_net][laws]",
                       ((Config C), C),
                       (Config{.d_model = 1,
                               .n_key_heads = 1,
                               .n_value_heads = 1,
                               .key_dim = 3,
                               .value_dim = 1,
                               .conv_width = 2,
                               .eps = 0.1}),
                       (Config{.d_model = 5,
                               .n_key_heads = 2,
                               .n_value_heads = 4,
                               .key_dim = 6,
                               .value_dim = 3,
                               .eps = 0.1}),
                       (Config{.d_model = 7,
                               .n_key_heads = 1,
                               .n_value_heads = 3,
                               .key_dim = 17,
                               .value_dim = 18,
                               .conv_width = 3,
                               .eps = 0.1})) {
  matrix_state::keeps_the_laws<GatedDeltaNet<C>>();
  if constexpr (C.d_model == 5) {
    matrix_state::keeps_the_laws<GatedDeltaNet<C>>({.rows = 35, .seed = 2});
  }
}

namespace {
constexpr Config small{
    .d_model = 8, .n_key_heads = 2, .n_value_heads = 4, .key_dim = 6, .value_dim = 5};
using Small = GatedDeltaNet<small>;
constexpr Config smooth{
    .d_model = 8, .n_key_heads = 2, .n_value_heads = 4, .key_dim = 6, .value_dim = 5, .eps = 0.1};
}  // namespace

TEST_CASE("The gated delta rule forgets and overwrites", "[ssm][gated_delta_net]") {
  // e1 holds 2; half of it is forgotten, then half of the way from 1 to 3 is gone; e2 gets 7.
  const double key[] = {1, 0, 1, 0, 0, 1}, value[] = {2, 3, 7}, beta[] = {1, 0.5, 1};
  const double alpha[] = {1, 0.5, 1}, expected[][2] = {{2, 0}, {2, 0}, {2, 7}};
  double S[2] = {};
  for (int t = 0; t < 3; ++t) {
    double y;
    const MatrixView<const double> k{key + 2 * t, 1, 2, 2};
    const StateInputs<double> x{
        1, 1, 2, 1, k, k, {value + t, 1, 1, 1}, {alpha + t, 1, 1, 1}, {beta + t, 1, 1, 1}};
    delta_rule_step(x, S, &y);
    REQUIRE(S[0] == expected[t][0]);
    REQUIRE(S[1] == expected[t][1]);
  }
}

TEST_CASE("GatedDeltaNet is one sequence however it is cut", "[ssm][gated_delta_net]") {
  matrix_state::is_one_sequence<Small::with_scalar<double>>(300, 1e-9);
  matrix_state::is_one_sequence<GatedDeltaNet<smooth>>(300, 1e-3);
  matrix_state::gradients_cross_a_cut<Small::with_scalar<double>>(300, 150, 1e-8);
}

TEST_CASE("GatedDeltaNet has the same bits on any number of threads", "[ssm][gated_delta_net]") {
  matrix_state::has_the_same_bits_on_any_threads<GatedDeltaNet<Config{
      .d_model = 32, .n_key_heads = 1, .n_value_heads = 6, .key_dim = 16, .value_dim = 16}>>(200);
}

TEST_CASE("GatedDeltaNet stays finite", "[ssm][gated_delta_net]") {
  matrix_state::stays_finite<Small>();
}

TEST_CASE("GatedDeltaNet does not drift in a million steps", "[ssm][gated_delta_net][.slow]") {
  streams::do_not_drift<GatedDeltaNet<Config{.d_model = 4,
                                             .n_key_heads = 1,
                                             .n_value_heads = 1,
                                             .key_dim = 4,
                                             .value_dim = 4,
                                             .conv_width = 2,
                                             .eps = 0.1}>>(matrix_state::parts, 1e-3);
}

TEST_CASE("States of GatedDeltaNet are values", "[ssm][gated_delta_net]") {
  streams::are_values<Small, GatedDeltaNet<Config{.d_model = 8}>>();
  streams::fall_silent<Small>(matrix_state::parts);
}

TEST_CASE("Sequences of GatedDeltaNet do not see each other", "[ssm][gated_delta_net]") {
  streams::long_batches_are_their_sequences<Small>(1e-8);
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("GatedDeltaNet takes steps from tiny to huge", "[ssm][gated_delta_net]") {
  const auto bias = [](Small& layer, float value) { fill(layer.dt_bias, value); };
  const auto rate = [](Small& layer, float value) { fill(layer.A_log, value); };
  streams::stays_finite_for_any_step<Small>(bias, {-1e4, -90, -20, 0, 20, 90, 1e4});
  streams::stays_finite_for_any_step<Small>(rate, {-90, -20, 0, 20, 80});
}

TEST_CASE("GatedDeltaNet names its parameters as checkpoints do", "[ssm][gated_delta_net]") {
  REQUIRE(matrix_state::names<Small>() ==
          "in_proj_qkvz.weight in_proj_ba.weight conv1d.weight dt_bias A_log norm.weight "
          "out_proj.weight ");
  // A layer of Qwen3-Next-80B-A3B.
  using Published = GatedDeltaNet<Config{.d_model = 2048}>;
  STATIC_REQUIRE(decltype(Published::in_proj_qkvz)::shape == std::array<Index, 2>{12288, 2048});
  STATIC_REQUIRE(decltype(Published::Conv::weight)::shape == std::array<Index, 3>{8192, 1, 4});
}

TEST_CASE("GatedDeltaNet needs its own state and width", "[ssm][gated_delta_net]") {
  STATIC_REQUIRE(Layer<Small>);
  STATIC_REQUIRE(std::is_same_v<Small::State, prepared_form<Small>::State>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Small>>);
  STATIC_REQUIRE(matrix_state::steps_with<Small, 8, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 7, Small::State>);
  STATIC_REQUIRE_FALSE(
      matrix_state::steps_with<Small, 8, GatedDeltaNet<Config{.d_model = 8}>::State>);
}

TEST_CASE("GatedDeltaNet computes what transformers computes", "[ssm][gated_delta_net][golden]") {
  {
    using namespace goldens::ssm::gated_delta_0;
    using L = GatedDeltaNet<Config{
        .d_model = 3, .n_key_heads = 1, .n_value_heads = 1, .key_dim = 2, .value_dim = 3}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{in_proj_qkvz_weight, d_in_proj_qkvz_weight},
                                {in_proj_ba_weight, d_in_proj_ba_weight},
                                {conv1d_weight, d_conv1d_weight},
                                {dt_bias, d_dt_bias},
                                {A_log, d_A_log},
                                {norm_weight, d_norm_weight},
                                {out_proj_weight, d_out_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::gated_delta_1;
    using L = GatedDeltaNet<Config{
        .d_model = 4, .n_key_heads = 2, .n_value_heads = 4, .key_dim = 3, .value_dim = 2}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{in_proj_qkvz_weight, d_in_proj_qkvz_weight},
                                {in_proj_ba_weight, d_in_proj_ba_weight},
                                {conv1d_weight, d_conv1d_weight},
                                {dt_bias, d_dt_bias},
                                {A_log, d_A_log},
                                {norm_weight, d_norm_weight},
                                {out_proj_weight, d_out_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::gated_delta_2;
    using L = GatedDeltaNet<Config{
        .d_model = 4, .n_key_heads = 1, .n_value_heads = 2, .key_dim = 8, .value_dim = 4}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{in_proj_qkvz_weight, d_in_proj_qkvz_weight},
                                {in_proj_ba_weight, d_in_proj_ba_weight},
                                {conv1d_weight, d_conv1d_weight},
                                {dt_bias, d_dt_bias},
                                {A_log, d_A_log},
                                {norm_weight, d_norm_weight},
                                {out_proj_weight, d_out_proj_weight}},
                               state);
  }
}
