#include <limen/ssm/s5.hpp>

#include "../goldens/ssm_linear.hpp"
#include "../laws.hpp"
#include "streams.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("S5 keeps the laws of layers", "[ssm][s5][laws]", ((S5Config C), C),
                       (S5Config{.d = 1, .d_state = 1}), (S5Config{.d = 3, .d_state = 5}),
                       (S5Config{.d = 17, .d_state = 9, .rule = Discretization::bilinear})) {
  laws::hold_in_double_and_float<S5<C>>();
}

namespace {
using Small = S5<S5Config{.d = 3, .d_state = 4}>;
constexpr auto parts = [](auto& state, auto f) { f(state.h); };
}  // namespace

// The numbers: tests/goldens/ssm_diagonal.py, linear(): s5-pytorch.
TEST_CASE("S5 computes what s5-pytorch does", "[ssm][s5][golden]"){
#define LIMEN_CASE(k, E, P, form)                                                           \
  {                                                                                         \
    namespace g = goldens::ssm::s5_##k;                                                     \
    constexpr S5Config c{.d = E, .d_state = P, .rule = Discretization::form};               \
    const golden::Parameters parameters = {{g::Lambda_re, g::d_Lambda_re},                  \
                                           {g::Lambda_im, g::d_Lambda_im},                  \
                                           {g::B, g::d_B},                                  \
                                           {g::C, g::d_C},                                  \
                                           {g::log_step, g::d_log_step},                    \
                                           {g::D, g::d_D}};                                 \
    golden::check_in_double_and_float<S5<c>>({g::x, g::y, g::dy, g::dx}, parameters);       \
    golden::check_last_state<S5<c>>(                                                        \
        g::x, parameters, [](auto& S) { return streams::numbers_of(S, parts); }, g::state); \
  }
    LIMEN_CASE(0, 1, 1, bilinear) LIMEN_CASE(1, 3, 5, zero_order_hold)
        LIMEN_CASE(2, 5, 18, zero_order_hold)
#undef LIMEN_CASE
}

TEST_CASE("States of S5 are values", "[ssm][s5]") {
  streams::are_values<Small, S5<S5Config{.d = 3, .d_state = 6}>>();
  streams::fall_silent<Small>(parts);
}

TEST_CASE("Sequences of S5 do not see each other", "[ssm][s5]") {
  streams::long_batches_are_their_sequences<Small>();
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("S5 does not drift in a million steps", "[ssm][s5][.slow]") {
  streams::do_not_drift<Small>(parts, 1e-4);
}

TEST_CASE("S5 takes steps from tiny to huge", "[ssm][s5]") {
  using Bilinear = S5<S5Config{.d = 3, .d_state = 4, .rule = Discretization::bilinear}>;
  const auto step = [](auto& layer, float value) { fill(layer.log_step, value); };
  streams::stays_finite_for_any_step<Small>(step, {-80, -30, -5, 0, 5, 10, 30});
  streams::stays_finite_for_any_step<Bilinear>(step, {-80, -30, -5, 0, 5, 10, 30});
}

TEST_CASE("S5 refuses rates that grow", "[ssm][s5]") {
  Random random(1);
  auto layer = S5<S5Config{.d = 2, .d_state = 3}>::initialized(random);
  REQUIRE(layer.check());
  layer.Lambda_re[1] = 0.25f;
  REQUIRE(layer.check().error().message() ==
          "Lambda_re: wanted negative numbers, found 0.250000 at element 1");
}

TEST_CASE("S5 steps, trains, and prepares to step", "[ssm][s5]") {
  using Layer = S5<S5Config{.d = 3, .d_state = 4}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(Streaming<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
}
