#include <limen/ssm/gated_linear_attention.hpp>

#include "../goldens/ssm_linear_attention.hpp"
#include "matrix_state.hpp"

using namespace limen;

using Config = GatedLinearAttentionConfig;

TEMPLATE_TEST_CASE_SIG("GatedLinearAttention keeps the laws of layers",
                       "[ssm][gated_linear_attention][laws]", ((Config C), C),
                       (Config{.d_model = 2, .n_heads = 1, .gate_rank = 1}),
                       (Config{.d_model = 12, .n_heads = 2, .gate_rank = 3}),
                       (Config{.d_model = 5,
                               .n_heads = 3,
                               .key_dim = 51,
                               .value_dim = 9,
                               .gate_rank = 2,
                               .gate_divisor = 1})) {
  matrix_state::keeps_the_laws<GatedLinearAttention<C>>();
  if constexpr (C.d_model == 12) {
    matrix_state::keeps_the_laws<GatedLinearAttention<C>>({.rows = 35, .seed = 2});
  }
}

namespace {
constexpr Config small{.d_model = 8, .n_heads = 2, .gate_rank = 3};
using Small = GatedLinearAttention<small>;
}  // namespace

TEST_CASE("A key of GatedLinearAttention forgets half of its value",
          "[ssm][gated_linear_attention]") {
  const double one = 1, half = 0.5;
  double S = 0;
  const MatrixView<const double> ones{&one, 1, 1, 1};
  const StateInputs<double> x{1, 1, 1, 1, ones, ones, ones, {&half, 1, 1, 1}};
  for (const double expected : {1.0, 1.5, 1.75}) {
    double y = 0;
    keyed_ssd_step(x, &S, &y);
    REQUIRE(y == expected);
    REQUIRE(S == expected);
  }
}

TEST_CASE("Keys of GatedLinearAttention that forget all at once remember only the last row",
          "[ssm][gated_linear_attention]") {
  // The decay is 0 where the gate is far below 0: no quotient of decays exists, none is needed.
  constexpr Index T = 40, K = 5, V = 3;
  Random random(1);
  double q[T * K], v[T * V], a[T * K] = {}, y[T * V];
  for (double& value : q) value = random.normal();
  for (double& value : v) value = random.normal();
  const StateInputs<double> x{1, 1, K, V, {q, T, K, K}, {q, T, K, K}, {v, T, V, V}, {a, T, K, K}};
  keyed_ssd(x, Batch<Fixed<double, K * V>>(), MatrixView<double>{y, T, V, V});
  for (Index t = 0; t < T; ++t) {
    double square = 0;
    for (Index k = 0; k < K; ++k) square += q[t * K + k] * q[t * K + k];
    for (Index i = 0; i < V; ++i) REQUIRE(std::abs(y[t * V + i] - square * v[t * V + i]) < 1e-12);
  }
}

TEST_CASE("GatedLinearAttention is one sequence however it is cut",
          "[ssm][gated_linear_attention]") {
  matrix_state::is_one_sequence<Small::with_scalar<double>>(300, 1e-9);
  matrix_state::is_one_sequence<
      GatedLinearAttention<Config{.d_model = 8, .n_heads = 2, .gate_rank = 3, .eps = 0.1}>>(300,
                                                                                            1e-3);
  matrix_state::gradients_cross_a_cut<Small::with_scalar<double>>(300, 150, 1e-8);
}

TEST_CASE("GatedLinearAttention has the same bits on any number of threads",
          "[ssm][gated_linear_attention]") {
  matrix_state::has_the_same_bits_on_any_threads<
      GatedLinearAttention<Config{.d_model = 48, .n_heads = 3}>>(200);
}

TEST_CASE("GatedLinearAttention stays finite", "[ssm][gated_linear_attention]") {
  matrix_state::stays_finite<Small>();
}

TEST_CASE("GatedLinearAttention does not drift in a million steps",
          "[ssm][gated_linear_attention][.slow]") {
  streams::do_not_drift<
      GatedLinearAttention<Config{.d_model = 4, .n_heads = 1, .gate_rank = 2, .eps = 0.1}>>(
      matrix_state::parts, 1e-3);
}

TEST_CASE("States of GatedLinearAttention are values", "[ssm][gated_linear_attention]") {
  streams::are_values<Small, GatedLinearAttention<Config{.d_model = 8}>>();
  streams::fall_silent<Small>(matrix_state::parts);
}

TEST_CASE("Sequences of GatedLinearAttention do not see each other",
          "[ssm][gated_linear_attention]") {
  streams::long_batches_are_their_sequences<Small>(1e-9);
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("GatedLinearAttention names its parameters as checkpoints do",
          "[ssm][gated_linear_attention]") {
  REQUIRE(matrix_state::names<Small>() ==
          "q_proj.weight k_proj.weight v_proj.weight g_proj.weight gk_proj.0.weight "
          "gk_proj.1.weight gk_proj.1.bias g_norm_swish_gate.weight o_proj.weight ");
}

TEST_CASE("GatedLinearAttention needs its own state and width", "[ssm][gated_linear_attention]") {
  STATIC_REQUIRE(Layer<Small>);
  STATIC_REQUIRE(std::is_same_v<Small::State, prepared_form<Small>::State>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Small>>);
  STATIC_REQUIRE(matrix_state::steps_with<Small, 8, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 7, Small::State>);
  STATIC_REQUIRE_FALSE(
      matrix_state::steps_with<Small, 8, GatedLinearAttention<Config{.d_model = 8}>::State>);
}

TEST_CASE("GatedLinearAttention computes what PyTorch computes",
          "[ssm][gated_linear_attention][golden]") {
  {
    using namespace goldens::ssm::gla_0;
    using L = GatedLinearAttention<Config{
        .d_model = 2, .n_heads = 1, .key_dim = 2, .value_dim = 3, .gate_rank = 1}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {gk_0_weight, d_gk_0_weight},
                                {gk_1_weight, d_gk_1_weight},
                                {gk_1_bias, d_gk_1_bias},
                                {norm_weight, d_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::gla_1;
    using L = GatedLinearAttention<Config{
        .d_model = 4, .n_heads = 2, .key_dim = 6, .value_dim = 4, .gate_rank = 2}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {gk_0_weight, d_gk_0_weight},
                                {gk_1_weight, d_gk_1_weight},
                                {gk_1_bias, d_gk_1_bias},
                                {norm_weight, d_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::gla_2;
    using L = GatedLinearAttention<Config{
        .d_model = 3, .n_heads = 3, .key_dim = 6, .value_dim = 9, .gate_rank = 2}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {gk_0_weight, d_gk_0_weight},
                                {gk_1_weight, d_gk_1_weight},
                                {gk_1_bias, d_gk_1_bias},
                                {norm_weight, d_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
}
