#include <limen/spiking/synaptic.hpp>

#include <cmath>
#include <vector>

#include <limen/spiking/alpha.hpp>
#include <limen/spiking/leaky_integrator.hpp>

#include "laws.hpp"

using namespace limen;

namespace {

constexpr LifConfig membrane{.d_model = 5,
                             .decay = 0.7,
                             .gain = 0.6,
                             .threshold = 0.5,
                             .learn_decay = Learned::each,
                             .learn_gain = Learned::together,
                             .learn_threshold = Learned::each};
constexpr LifConfig plain{.d_model = 17, .reset = Reset::to_value, .detach_reset = false};
constexpr LifConfig slow{.d_model = 3, .decay = 0.8, .threshold = 0.4, .refractory = 2};
constexpr LifConfig silent{.d_model = 1, .decay = 0.5, .threshold = 1e9};

template <auto Phi>
using Learning = Synaptic<Lif<membrane, double, Phi>, SynapticConfig{.learn_decay = Learned::each}>;
template <auto Phi>
using Late = Synaptic<Lif<membrane, double, Phi>, SynapticConfig{.current = Current::previous,
                                                                 .learn_decay = Learned::together}>;
template <auto Phi>
using Plain = Synaptic<Lif<plain, double, Phi>>;
template <auto Phi>
using Waiting = Synaptic<Lif<slow, double, Phi>, SynapticConfig{.learn_decay = Learned::each}>;

}  // namespace

TEST_CASE("Synaptic keeps the laws of layers", "[spiking][synaptic][laws]") {
  spiking::twin_keeps_the_laws<Learning<Soft{ArcTan{}}>>();
  spiking::twin_keeps_the_laws<Late<Soft{Sigmoid{}}>>();
  spiking::twin_keeps_the_laws<Plain<Soft{ArcTan{}}>>();
  spiking::keeps_the_laws<Learning<ArcTan{}>>();
}

TEST_CASE("Synaptic keeps the laws of layers with a refractory time",
          "[spiking][synaptic][refractory][laws]") {
  spiking::twin_keeps_the_laws<Waiting<Soft{ArcTan{}}>>({}, true);
  spiking::keeps_the_laws<Waiting<ArcTan{}>>();
}

TEST_CASE("An impulse through a synapse: a case by hand", "[spiking][synaptic]") {
  using N = Synaptic<Lif<silent, double>, SynapticConfig{.decay = 0.5}>;
  using Delayed =
      Synaptic<Lif<silent, double>, SynapticConfig{.decay = 0.5, .current = Current::previous}>;
  const Sequence<double, 1> x{{1}, {0}, {0}, {0}};
  const double i[] = {1, 0.5, 0.25, 0.125}, v[] = {1, 1, 0.75, 0.5}, late[] = {0, 1, 1, 0.75};
  N::State state{};
  Delayed::State delayed{};
  for (Index t = 0; t < 4; ++t) {
    N{}.step(x.row(t), state);
    Delayed{}.step(x.row(t), delayed);
    REQUIRE(state.i[0] == i[t]);
    REQUIRE(state.v[0] == v[t]);
    REQUIRE(delayed.v[0] == late[t]);
  }
}

TEST_CASE("A spike resets the membrane and leaves the current", "[spiking][synaptic]") {
  using N = Synaptic<Lif<LifConfig{.d_model = 1, .reset = Reset::to_value}, double>,
                     SynapticConfig{.decay = 0.5}>;
  N::State state{};
  const auto s = N{}.step(Sequence<double, 1>{{4}}.row(0), state);
  REQUIRE(s[0] == 1);
  REQUIRE(state.v[0] == 0);
  REQUIRE(state.i[0] == 4);
}

TEST_CASE("With the exact gain a step of any length follows the solution", "[spiking][synaptic]") {
  constexpr double tau_m = 10, tau_s = 4, dt = 3;
  constexpr LifConfig exact{.d_model = 1,
                            .decay = exact_decay(dt, tau_m),
                            .gain = exact_current_gain(dt, tau_m, tau_s),
                            .threshold = 1e9};
  using N = Synaptic<Lif<exact, double>, SynapticConfig{.decay = exact_decay(dt, tau_s)}>;
  N::State state{};
  for (int t = 0; t < 9; ++t) {
    N{}.step(Sequence<double, 1>{{t == 0 ? 1.0 : 0.0}}.row(0), state);
    const double time = dt * (t + 1);
    const double v = tau_s / (tau_m - tau_s) * (std::exp(-time / tau_m) - std::exp(-time / tau_s));
    REQUIRE(std::abs(state.v[0] - v) < 1e-15);
  }
}

TEMPLATE_TEST_CASE_SIG("LeakyIntegrator keeps the laws of layers",
                       "[spiking][leaky_integrator][laws]", ((LeakyIntegratorConfig C), C),
                       (LeakyIntegratorConfig{.d_model = 1}),
                       (LeakyIntegratorConfig{.d_model = 17,
                                              .learn_decay = Learned::each,
                                              .learn_gain = Learned::together}),
                       (LeakyIntegratorConfig{.d_model = 5,
                                              .decay = 0.3,
                                              .learn_decay = Learned::together,
                                              .learn_gain = Learned::each})) {
  spiking::twin_keeps_the_laws<LeakyIntegrator<C>>();
}

TEST_CASE("A readout that does not leak counts", "[spiking][leaky_integrator]") {
  LeakyIntegrator<LeakyIntegratorConfig{.d_model = 2, .decay = 1}> count;
  const auto y = forward(count, Sequence<float, 2>{{1, 0}, {0, 0}, {1, 1}});
  REQUIRE(y(2, 0) == 2);
  REQUIRE(y(2, 1) == 1);
  LeakyIntegrator<LeakyIntegratorConfig{.d_model = 1, .decay = 0.75, .decay_input = true}> mean;
  REQUIRE(forward(mean, Sequence<float, 1>{{4}, {0}})(1, 0) == 0.75f);
}

TEST_CASE("Alpha keeps the laws of layers", "[spiking][alpha][laws]") {
  constexpr AlphaConfig narrow{.d_model = 1, .threshold = 0.3},
      wide{.d_model = 17, .threshold = 0.2};
  spiking::twin_keeps_the_laws<Alpha<narrow, double, Soft{ArcTan{}}>>({}, true);
  spiking::twin_keeps_the_laws<Alpha<wide, double, Soft{Sigmoid{}}>>({}, true);
  spiking::keeps_the_laws<Alpha<wide>>();
}

TEST_CASE("An alpha neuron answers one step later, then falls: a case by hand",
          "[spiking][alpha]") {
  using N = Alpha<AlphaConfig{.d_model = 1, .alpha = 0.5, .beta = 0.25, .threshold = 10}, double>;
  N::State state{};
  const double h[] = {0, 0.5, 0.375, 0.21875};
  for (int t = 0; t < 4; ++t) {
    N{}.step(Sequence<double, 1>{{t == 0 ? 1.0 : 0.0}}.row(0), state);
    REQUIRE(std::abs(state.h[0] - h[t]) < 1e-15);
  }
}
