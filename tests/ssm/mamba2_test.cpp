#include <limen/ssm/mamba2.hpp>

#include "../goldens/ssm_mamba2.hpp"
#include "matrix_state.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Mamba2 keeps the laws of layers", "[ssm][mamba2][laws]",
                       ((Mamba2Config C), C),
                       (Mamba2Config{.d_model = 1, .d_state = 1, .head_dim = 1}),
                       (Mamba2Config{
                           .d_model = 6, .d_state = 5, .head_dim = 3, .n_groups = 2, .bias = true}),
                       (Mamba2Config{.d_model = 9,
                                     .d_state = 17,
                                     .head_dim = 6,
                                     .conv_width = 2,
                                     .conv_bias = false,
                                     .norm_groups = 1,
                                     .step_low = 0.01,
                                     .step_high = 0.5})) {
  matrix_state::keeps_the_laws<Mamba2<C>>();
  if constexpr (C.d_model == 6) matrix_state::keeps_the_laws<Mamba2<C>>({.rows = 35, .seed = 2});
}

namespace {

constexpr Mamba2Config small{.d_model = 8, .d_state = 16, .head_dim = 4, .n_groups = 2};
using Small = Mamba2<small>;

/// The block around its recurrence taken away: one channel, projections that only pass on, a step
/// of softplus(0) = log 2, a decay of 1/2.
constexpr Mamba2Config unit{
    .d_model = 1, .d_state = 1, .expand = 1, .head_dim = 1, .conv_width = 2, .eps = 1e-300};

}  // namespace

TEST_CASE("The state of Mamba2 halves with a step of log 2 and A = -1", "[ssm][mamba2]") {
  using L = Mamba2<unit, double>;
  L layer;
  layer.in_proj.weight[1] = 1;        // x = h; z, B, C, dt are 0
  layer.conv1d.weight(0, 1) = 1;      // the current row
  layer.conv1d.bias[1] = 1.27846454;  // B = silu(1.278..) = 1
  layer.conv1d.bias[2] = 1.27846454;  // C = 1
  auto state = L::State{};
  const double x = 1.27846454276107379;  // silu(x) = 1
  layer.forward(Sequence<double, 1>{{x}}, state);
  REQUIRE(std::abs(state.ssm[0] - 0.6931471806) < 1e-8);
  layer.forward(Sequence<double, 1>{{x}}, state);
  REQUIRE(std::abs(state.ssm[0] - 1.0397207708) < 1e-8);
}

TEST_CASE("Mamba2 is one sequence however it is cut", "[ssm][mamba2]") {
  matrix_state::is_one_sequence<Small::with_scalar<double>>(300, 1e-10);
  matrix_state::is_one_sequence<Small>(300, 2e-4);
  matrix_state::gradients_cross_a_cut<Small::with_scalar<double>>(300, 150, 1e-9);
}

TEST_CASE("Mamba2 has the same bits on any number of threads", "[ssm][mamba2]") {
  matrix_state::has_the_same_bits_on_any_threads<
      Mamba2<Mamba2Config{.d_model = 64, .d_state = 32, .head_dim = 16}>>(200);
}

TEST_CASE("Mamba2 stays finite", "[ssm][mamba2]") { matrix_state::stays_finite<Small>(); }

TEST_CASE("Mamba2 does not drift in a million steps", "[ssm][mamba2][.slow]") {
  streams::do_not_drift<
      Mamba2<Mamba2Config{.d_model = 4, .d_state = 8, .head_dim = 4, .conv_width = 2}>>(
      matrix_state::parts, 2e-4);
}

TEST_CASE("States of Mamba2 are values", "[ssm][mamba2]") {
  streams::are_values<Small, Mamba2<unit>>();
  streams::fall_silent<Small>(matrix_state::parts);
}

TEST_CASE("Sequences of Mamba2 do not see each other", "[ssm][mamba2]") {
  streams::long_batches_are_their_sequences<Small>();
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("Mamba2 takes steps from tiny to huge", "[ssm][mamba2]") {
  const auto bias = [](Small& layer, float value) { fill(layer.dt_bias, value); };
  const auto rate = [](Small& layer, float value) { fill(layer.A_log, value); };
  streams::stays_finite_for_any_step<Small>(bias, {-1e4, -90, -20, 0, 20, 90, 1e4});
  streams::stays_finite_for_any_step<Small>(rate, {-90, -20, 0, 20, 80});
}

TEST_CASE("Mamba2 names its parameters as checkpoints do", "[ssm][mamba2]") {
  REQUIRE(matrix_state::names<Small>() ==
          "in_proj.weight conv1d.weight conv1d.bias dt_bias A_log D norm.weight out_proj.weight ");
  // The mixer of mamba2-130m: 24 heads of 64 channels, 128 numbers of state for each.
  using Published = Mamba2<Mamba2Config{.d_model = 768}>;
  STATIC_REQUIRE(decltype(Published::InProj::weight)::shape == std::array<Index, 2>{3352, 768});
  STATIC_REQUIRE(decltype(Published::Conv::weight)::shape == std::array<Index, 3>{1792, 1, 4});
  STATIC_REQUIRE(sizeof(Published::State) == sizeof(float) * (24 * 64 * 128 + 3 * 1792));
}

TEST_CASE("Mamba2 needs its own state and width", "[ssm][mamba2]") {
  STATIC_REQUIRE(Layer<Small>);
  STATIC_REQUIRE(std::is_same_v<Small::State, prepared_form<Small>::State>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Small>>);
  STATIC_REQUIRE(matrix_state::steps_with<Small, 8, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 7, Small::State>);
  STATIC_REQUIRE_FALSE(matrix_state::steps_with<Small, 8, Mamba2<unit>::State>);
}

TEST_CASE("Mamba2 computes what transformers computes", "[ssm][mamba2][golden]") {
  {
    using namespace goldens::ssm::mamba2_0;
    using L = Mamba2<Mamba2Config{.d_model = 4, .d_state = 3, .head_dim = 2}>;
    const std::initializer_list<golden::Parameter> parameters = {
        {in_proj_weight, d_in_proj_weight},
        {conv1d_weight, d_conv1d_weight},
        {conv1d_bias, d_conv1d_bias},
        {dt_bias, d_dt_bias},
        {A_log, d_A_log},
        {D, d_D},
        {norm_weight, d_norm_weight},
        {out_proj_weight, d_out_proj_weight}};
    matrix_state::is_golden<L>({x, y, dy, dx}, parameters, state);
  }
  {
    using namespace goldens::ssm::mamba2_1;
    using L = Mamba2<Mamba2Config{.d_model = 6,
                                  .d_state = 5,
                                  .head_dim = 3,
                                  .n_groups = 2,
                                  .bias = true,
                                  .step_low = 0.25,
                                  .step_high = 1.5}>;
    const std::initializer_list<golden::Parameter> parameters = {
        {in_proj_weight, d_in_proj_weight},
        {in_proj_bias, d_in_proj_bias},
        {conv1d_weight, d_conv1d_weight},
        {conv1d_bias, d_conv1d_bias},
        {dt_bias, d_dt_bias},
        {A_log, d_A_log},
        {D, d_D},
        {norm_weight, d_norm_weight},
        {out_proj_weight, d_out_proj_weight},
        {out_proj_bias, d_out_proj_bias}};
    matrix_state::is_golden<L>({x, y, dy, dx}, parameters, state);
  }
  {
    using namespace goldens::ssm::mamba2_2;
    using L = Mamba2<Mamba2Config{.d_model = 4, .d_state = 16, .head_dim = 8}>;
    const std::initializer_list<golden::Parameter> parameters = {
        {in_proj_weight, d_in_proj_weight},
        {conv1d_weight, d_conv1d_weight},
        {conv1d_bias, d_conv1d_bias},
        {dt_bias, d_dt_bias},
        {A_log, d_A_log},
        {D, d_D},
        {norm_weight, d_norm_weight},
        {out_proj_weight, d_out_proj_weight}};
    matrix_state::is_golden<L>({x, y, dy, dx}, parameters, state);
  }
}
