#include <limen/ssm/s4d.hpp>

#include <limits>

#include "../goldens/ssm_linear.hpp"
#include "../laws.hpp"
#include "streams.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("S4d keeps the laws of layers", "[ssm][s4d][laws]", ((S4dConfig C), C),
                       (S4dConfig{.d = 1, .d_state = 2}), (S4dConfig{.d = 3, .d_state = 6}),
                       (S4dConfig{.d = 17, .d_state = 10, .rule = Discretization::bilinear})) {
  laws::hold_in_double_and_float<S4d<C>>({.rows = 19});
}

TEST_CASE("The impulse response of S4d is that of its system", "[ssm][s4d]") {
  const auto respond = [](auto layer) {
    layer.log_dt[0] = std::log(0.1);
    layer.C[0] = 1;
    layer.log_A_real[0] = std::log(0.5);
    layer.A_imag[0] = std::numbers::pi;
    return forward(layer, Sequence<double, 1>{{1}, {0}, {0}, {0}});
  };
  constexpr S4dConfig hold{.d = 1, .d_state = 2};
  constexpr S4dConfig bilinear{.d = 1, .d_state = 2, .rule = Discretization::bilinear};
  const auto y = respond(S4d<hold, double>{});
  REQUIRE(y(0, 0) == Approx(0.191929).epsilon(1e-5));
  REQUIRE(y(1, 0) == Approx(0.164773).epsilon(1e-5));
  REQUIRE(y(2, 0) == Approx(0.124467).epsilon(1e-5));
  REQUIRE(y(3, 0) == Approx(0.0761113).epsilon(1e-5));
  const auto z = respond(S4d<bilinear, double>{});
  REQUIRE(z(0, 0) == Approx(0.190645).epsilon(1e-5));
  REQUIRE(z(2, 0) == Approx(0.124895).epsilon(1e-5));
}

TEST_CASE("Sampling is smooth where the step is tiny", "[ssm][discretize]") {
  for (const double size : {1e-12, 1e-6, 1e-3, 0.1, 0.4999, 0.5001, 2.0}) {
    for (const auto rule : {Discretization::zero_order_hold, Discretization::bilinear}) {
      const std::complex<double> A(-0.6, 0.8);
      const Discretized d = discretize(rule, A, size);
      const std::complex<double> next = (d.a - 1.0) / A;
      INFO("step " << size);
      REQUIRE(std::abs(d.k - next) <=
              1e-15 + 1e-16 / size * std::abs(next));  // as far as that has digits
      const double h = 1e-4 * size;
      const auto up = discretize(rule, A, size + h), down = discretize(rule, A, size - h);
      REQUIRE(std::abs(d.k_by_dt - (up.k - down.k) / (2 * h)) <= 1e-7);
      const double g = 1e-4;
      const auto right = discretize(rule, A + g, size), left = discretize(rule, A - g, size);
      REQUIRE(std::abs(d.k_by_A - (right.k - left.k) / (2 * g)) <= 1e-7 * size);
      REQUIRE(std::abs(d.a_by_A - (right.a - left.a) / (2 * g)) <= 1e-7 * size + 1e-11);
    }
  }
}

namespace {

/// The state as the equations index it: real and imaginary part of each.
template <class L>
std::vector<double> state_numbers(const typename L::State& state) {
  std::vector<double> all;
  for (Index e = 0; e < L::E; ++e) {
    for (Index n = 0; n < L::M; ++n) {
      const Index at = s4d_at(e, n, L::M);
      all.insert(all.end(),
                 {static_cast<double>(state.h[at]), static_cast<double>(state.h[at + scan_block])});
    }
  }
  return all;
}

}  // namespace

// The numbers: tests/goldens/ssm_diagonal.py, linear(): a convolution with the kernel of the
// system.
TEST_CASE("S4d computes the convolution of its kernel", "[ssm][s4d][golden]") {
#define LIMEN_CASE(k, N_E, N, form)                                                     \
  {                                                                                     \
    namespace g = goldens::ssm::s4d_##k;                                                \
    static constexpr S4dConfig c{.d = N_E, .d_state = N, .rule = Discretization::form}; \
    const golden::Parameters parameters = {{g::log_dt, g::d_log_dt},                    \
                                           {g::C, g::d_C},                              \
                                           {g::log_A_real, g::d_log_A_real},            \
                                           {g::A_imag, g::d_A_imag},                    \
                                           {g::D, g::d_D}};                             \
    golden::check_in_double_and_float<S4d<c>>({g::x, g::y, g::dy, g::dx}, parameters);  \
    golden::check_last_state<S4d<c>>(                                                   \
        g::x, parameters,                                                               \
        []<class Real, Index E, Index M>(const S4dState<Real, E, M>& state) {           \
          return state_numbers<S4d<c, Real>>(state);                                    \
        },                                                                              \
        g::state);                                                                      \
  }
  LIMEN_CASE(0, 1, 2, zero_order_hold)
  LIMEN_CASE(1, 3, 6, bilinear)
  LIMEN_CASE(2, 18, 4, zero_order_hold)
#undef LIMEN_CASE
}

namespace {
using Small = S4d<S4dConfig{.d = 3, .d_state = 4}>;
constexpr auto parts = [](auto& state, auto f) { f(state.h); };
}  // namespace

TEST_CASE("States of S4d are values", "[ssm][s4d]") {
  streams::are_values<Small, S4d<S4dConfig{.d = 3, .d_state = 6}>>();
  streams::fall_silent<Small>(parts);
}

TEST_CASE("Sequences of S4d do not see each other", "[ssm][s4d]") {
  streams::long_batches_are_their_sequences<Small>();
  streams::keep_nan_to_themselves<Small>();
}

TEST_CASE("S4d does not drift in a million steps", "[ssm][s4d][.slow]") {
  streams::do_not_drift<Small>(parts, 1e-4);
}

TEST_CASE("S4d takes steps from tiny to huge", "[ssm][s4d]") {
  using Bilinear = S4d<S4dConfig{.d = 3, .d_state = 4, .rule = Discretization::bilinear}>;
  const auto step = [](auto& layer, float value) { fill(layer.log_dt, value); };
  streams::stays_finite_for_any_step<Small>(step, {-80, -30, -5, 0, 5, 10, 30});
  streams::stays_finite_for_any_step<Bilinear>(step, {-80, -30, -5, 0, 5, 10, 30});
}

TEST_CASE("S4d says which of its numbers is none", "[ssm][s4d]") {
  Random random(1);
  auto layer = S4d<S4dConfig{.d = 2, .d_state = 4}>::initialized(random);
  REQUIRE(layer.check());
  layer.A_imag[3] = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(layer.check().error().message() ==
          "A_imag: wanted finite numbers, found nan at element 3");
}

TEST_CASE("S4d steps, trains, and prepares to step", "[ssm][s4d]") {
  using Layer = S4d<S4dConfig{.d = 3, .d_state = 4}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(Streaming<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
  STATIC_REQUIRE(std::is_same_v<Layer::State, prepared_form<Layer>::State>);
}
