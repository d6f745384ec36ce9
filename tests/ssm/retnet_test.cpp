#include <limen/ssm/retnet.hpp>

#include "../goldens/ssm_linear_attention.hpp"
#include "matrix_state.hpp"

using namespace limen;

using Config = RetNetConfig;

// The state counts rows, and that number has no slope: gradients of S are checked by a cut below.
TEMPLATE_TEST_CASE_SIG(
    "RetNet keeps the laws of layers", "[ssm][retnet][laws]", ((Config C), C),
    (Config{.d_model = 2, .n_heads = 1, .eps = 0.1}),
    (Config{.d_model = 12, .n_heads = 2, .value_dim = 6, .eps = 0.1}),
    (Config{.d_model = 5, .n_heads = 3, .key_dim = 54, .value_dim = 9, .eps = 0.1})) {
  matrix_state::keeps_the_laws<RetNet<C>>({.state_has_slope = false});
  if constexpr (C.d_model == 12) {
    matrix_state::keeps_the_laws<RetNet<C>>({.rows = 35, .seed = 2, .state_has_slope = false});
  }
}

namespace {
constexpr Config small{.d_model = 8, .n_heads = 2};
using Small = RetNet<small>;
}  // namespace

TEST_CASE("The first head of RetNet forgets one part in 32 with each row", "[ssm][retnet]") {
  REQUIRE(Small::gamma[0] == 0.96875f);
  REQUIRE(Small::gamma[1] == 0.984375f);
  // Keys and queries of 1, values of 1: what is read is 1, 1 + γ, 1 + γ + γ², before the norm.
  const double ones[] = {1, 1, 1}, gamma = RetNet<small, double>::gamma[0];
  double S = 0;
  const StateInputs<double> x{
      1, 1, 1, 1, {ones, 1, 1, 1}, {ones, 1, 1, 1}, {ones, 1, 1, 1}, {&gamma, 1, 1, 0}};
  for (const double expected : {1.0, 1.96875, 2.9072265625}) {
    double y = 0;
    ssd_step(x, &S, &y);
    REQUIRE(y == expected);
  }
}

TEST_CASE("Turned queries and keys meet at the distance of their positions", "[ssm][retnet]") {
  // cos(p) for the first pair of a head, cos(p / 100) for the second: base 10^4, width 4.
  for (const std::int64_t first : {0, 1, 1000, 1'000'000}) {
    double x[4 * 4] = {1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0};
    rotate_halves<double>({x, 4, 4, 4}, 4, first, 1e4);
    for (int t = 0; t < 4; ++t) {
      const double p = static_cast<double>(first + t);
      REQUIRE(std::abs(x[4 * t] - std::cos(p)) < 1e-13);
      REQUIRE(std::abs(x[4 * t + 1] - std::cos(p / 100)) < 1e-10);
      REQUIRE(std::abs(x[4 * t + 2] - std::sin(p)) < 1e-13);
      REQUIRE(std::abs(x[4 * t + 3] - std::sin(p / 100)) < 1e-10);
    }
    rotate_halves<double>({x, 4, 4, 4}, 4, first, 1e4, -1);
    for (int i = 0; i < 16; ++i) REQUIRE(std::abs(x[i] - (i % 4 < 2 ? 1 : 0)) < 1e-13);
  }
}

TEST_CASE("RetNet is retention: every pair of rows, weighted by their distance", "[ssm][retnet]") {
  using L = RetNet<small, double>;
  Random random(1);
  const auto layer = L::initialized(random);
  const auto x = matrix_state::noise<L>(75, 2);
  L::Cache cache;
  forward(layer, x, cache);
  for (Index t = 0; t < 75; ++t) {
    for (Index i = 0; i < L::H * L::V; ++i) {
      const Index h = i / L::V;
      double sum = 0;
      for (Index s = 0; s <= t; ++s) {
        double score = 0;
        for (Index k = 0; k < L::K; ++k) {
          score += cache.q(t, h * L::K + k) * cache.k(s, h * L::K + k);
        }
        sum += std::pow(L::gamma[static_cast<std::size_t>(h)], static_cast<double>(t - s)) * score *
               cache.v(s, i) / std::sqrt(double(L::K));
      }
      REQUIRE(std::abs(sum - cache.o(t, i)) < 1e-11);
    }
  }
}

TEST_CASE("RetNet is one sequence however it is cut", "[ssm][retnet]") {
  matrix_state::is_one_sequence<Small::with_scalar<double>>(300, 1e-9);
  matrix_state::is_one_sequence<RetNet<Config{.d_model = 8, .n_heads = 2, .eps = 0.1}>>(300, 1e-3);
  matrix_state::gradients_cross_a_cut<Small::with_scalar<double>>(300, 150, 1e-8);
}

TEST_CASE("RetNet has the same bits on any number of threads", "[ssm][retnet]") {
  matrix_state::has_the_same_bits_on_any_threads<RetNet<Config{.d_model = 48, .n_heads = 3}>>(200);
}

TEST_CASE("RetNet stays finite", "[ssm][retnet]") { matrix_state::stays_finite<Small>(); }

TEST_CASE("RetNet does not drift in a million steps", "[ssm][retnet][.slow]") {
  streams::do_not_drift<RetNet<Config{.d_model = 4, .n_heads = 1, .eps = 0.1}>>(matrix_state::parts,
                                                                                1e-3);
}

TEST_CASE("States of RetNet are values", "[ssm][retnet]") {
  streams::are_values<Small, RetNet<Config{.d_model = 8, .n_heads = 4}>>();
  streams::fall_silent<Small>(matrix_state::parts);
}

TEST_CASE("Sequences of RetNet do not see each other", "[ssm][retnet]") {
  streams::long_batches_are_their_sequences<Small>(1e-9);
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("RetNet names its parameters as checkpoints do", "[ssm][retnet]") {
  REQUIRE(matrix_state::names<Small>() ==
          "q_proj.weight k_proj.weight v_proj.weight g_proj.weight g_norm_swish_gate.weight "
          "o_proj.weight ");
}

TEST_CASE("RetNet needs its own state and width", "[ssm][retnet]") {
  STATIC_REQUIRE(Layer<Small>);
  STATIC_REQUIRE(std::is_same_v<Small::State, prepared_form<Small>::State>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Small>>);
  STATIC_REQUIRE(matrix_state::steps_with<Small, 8, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 7, Small::State>);
  STATIC_REQUIRE_FALSE(
      matrix_state::steps_with<Small, 8, RetNet<Config{.d_model = 8, .n_heads = 4}>::State>);
}

TEST_CASE("RetNet computes what PyTorch computes", "[ssm][retnet][golden]") {
  {
    using namespace goldens::ssm::retnet_0;
    using L = RetNet<Config{.d_model = 4, .n_heads = 1, .key_dim = 4, .value_dim = 3}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {norm_weight, d_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::retnet_1;
    using L = RetNet<Config{.d_model = 4, .n_heads = 2, .key_dim = 8, .value_dim = 6}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {norm_weight, d_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
  {
    using namespace goldens::ssm::retnet_2;
    using L = RetNet<Config{.d_model = 3, .n_heads = 3, .key_dim = 6, .value_dim = 9}>;
    matrix_state::is_golden<L>({x, y, dy, dx},
                               {{q_proj_weight, d_q_proj_weight},
                                {k_proj_weight, d_k_proj_weight},
                                {v_proj_weight, d_v_proj_weight},
                                {g_proj_weight, d_g_proj_weight},
                                {norm_weight, d_norm_weight},
                                {o_proj_weight, d_o_proj_weight}},
                               state);
  }
}
