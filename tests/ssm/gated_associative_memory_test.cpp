#include <limen/ssm/gated_associative_memory.hpp>

#include "../goldens/ssm_gam.hpp"
#include "../laws.hpp"
#include "streams.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("GatedAssociativeMemory keeps the laws of layers", "[ssm][gam][laws]",
                       ((GatedAssociativeMemoryConfig C), C),
                       (GatedAssociativeMemoryConfig{.d_model = 1, .slots = 1}),
                       (GatedAssociativeMemoryConfig{.d_model = 3, .slots = 5, .d_conv = 2}),
                       (GatedAssociativeMemoryConfig{.d_model = 17, .slots = 18})) {
  laws::hold_in_double_and_float<GatedAssociativeMemory<C>>();
}

TEST_CASE("A bank of one memory gives half of it to every token", "[ssm][gam]") {
  GatedAssociativeMemory<GatedAssociativeMemoryConfig{.d_model = 2, .slots = 1}, double> layer;
  layer.memory_bank[0] = 3;
  layer.memory_bank[1] = -4;
  const auto y = forward(layer, Sequence<double, 2>{{1, 2}, {-5, 7}});
  for (Index t = 0; t < 2; ++t) {
    REQUIRE(y(t, 0) == 1.5);
    REQUIRE(y(t, 1) == -2);
  }
}

namespace {
constexpr auto parts = [](auto& state, auto f) { f(state.past); };
}  // namespace

// The numbers: tests/goldens/ssm_diagonal.py, gam().
TEST_CASE("GatedAssociativeMemory computes what PyTorch does", "[ssm][gam][golden]"){
#define LIMEN_CASE(k, D, M, W)                                                              \
  {                                                                                         \
    namespace g = goldens::ssm::gam_##k;                                                    \
    constexpr GatedAssociativeMemoryConfig c{.d_model = D, .slots = M, .d_conv = W};        \
    using Layer = GatedAssociativeMemory<c>;                                                \
    const golden::Parameters parameters = {{g::conv_weight, g::d_conv_weight},              \
                                           {g::conv_bias, g::d_conv_bias},                  \
                                           {g::memory_bank, g::d_memory_bank},              \
                                           {g::gate_weight, g::d_gate_weight},              \
                                           {g::gate_bias, g::d_gate_bias}};                 \
    golden::check_in_double_and_float<Layer>({g::x, g::y, g::dy, g::dx}, parameters);       \
    golden::check_last_state<Layer>(                                                        \
        g::x, parameters, [](auto& S) { return streams::numbers_of(S, parts); }, g::state); \
  }
    LIMEN_CASE(0, 1, 1, 2) LIMEN_CASE(1, 3, 4, 3) LIMEN_CASE(2, 17, 5, 3)
#undef LIMEN_CASE
}

TEST_CASE("States of GatedAssociativeMemory are values", "[ssm][gam]") {
  using Small = GatedAssociativeMemory<GatedAssociativeMemoryConfig{.d_model = 3, .slots = 4}>;
  using Wide = GatedAssociativeMemory<GatedAssociativeMemoryConfig{.d_model = 5, .slots = 4}>;
  streams::are_values<Small, Wide>();
  streams::fall_silent<Small>(parts);
}

TEST_CASE("Sequences of GatedAssociativeMemory do not see each other", "[ssm][gam]") {
  using Small = GatedAssociativeMemory<GatedAssociativeMemoryConfig{.d_model = 3, .slots = 4}>;
  streams::long_batches_are_their_sequences<Small>();
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("GatedAssociativeMemory steps, trains, and prepares to step", "[ssm][gam]") {
  using Layer = GatedAssociativeMemory<GatedAssociativeMemoryConfig{.d_model = 3, .slots = 4}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(Streaming<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
}
