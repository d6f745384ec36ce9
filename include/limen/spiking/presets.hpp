#pragma once
/// @file  The leaky neurons of other libraries, as configs of a Lif.
///
///                     a             g            fires   reset                    paid
///   snntorch_leaky    β             1            > θ     by θ, or to 0            next
///   snntorch_lapicque 1 - dt/(RC)   dt/C         > θ     by θ, or to 0            next
///   spikingjelly_lif  1 - 1/τ       1/τ or 1     >= θ    to 0, or by θ            now
///   norse_lif_box     1 - dt/τ      dt/τ         > θ     to 0                     now
///   genn_lif          e^(-dt/τ)     R (1 - a)    >= θ    to V_reset, refractory   now
///   bindsnet_lif      e^(-dt/τ)     1            >= θ    to V_reset, refractory   now
///
/// The test is that of the code of each, which with those marked > is not that of its text. A
/// preset is a start: change a field and it is another neuron, by name.
///
///     constexpr LifConfig hidden = [] {
///       LifConfig c = spikingjelly_lif(128, 2);
///       c.detach_reset = true;
///       return c;
///     }();

#include <limen/spiking/lif_config.hpp>

namespace limen::inline LIMEN_ABI {

/// `snntorch.Leaky(beta)`; Reset::to_value for `reset_mechanism="zero"`. Taking θ one step late is
/// not taking it at once: it is as if θ / β were taken at once, since the leak is escaped.
constexpr LifConfig snntorch_leaky(Index d_model, double beta, Reset reset = Reset::subtract) {
  return {
      .d_model = d_model, .decay = beta, .test = SpikeTest::gt, .reset = reset, .when = When::next};
}

/// `snntorch.Lapicque(R=..., C=..., time_step=...)`; its "zero" loses the input of that step too.
constexpr LifConfig snntorch_lapicque(Index d_model, double resistance, double capacity,
                                      double dt = 1, Reset reset = Reset::subtract) {
  return {.d_model = d_model,
          .decay = euler_decay(dt, resistance * capacity),
          .gain = dt / capacity,
          .test = SpikeTest::gt,
          .reset = reset,
          .when = When::next,
          .reset_clears_input = reset == Reset::to_value};
}

/// `spikingjelly.activation_based.neuron.LIFNode(tau)`; Reset::subtract for `v_reset=None`. Without
/// `decay_input`, set `.decay_input = false`.
constexpr LifConfig spikingjelly_lif(Index d_model, double tau = 2, Reset reset = Reset::to_value) {
  return {.d_model = d_model, .decay = euler_decay(1, tau), .decay_input = true, .reset = reset};
}

/// `norse.torch.functional.lif_box`, one step of `dt_ms`.
constexpr LifConfig norse_lif_box(Index d_model, double dt_ms = 1, double tau_mem_ms = 10) {
  return {.d_model = d_model,
          .decay = euler_decay(dt_ms, tau_mem_ms),
          .decay_input = true,
          .test = SpikeTest::gt,
          .reset = Reset::to_value};
}

/// The membrane of `snntorch.Synaptic(alpha, beta)`, behind a Synaptic with α; its "zero" loses
/// what arrives in that step, unlike that of `Leaky`.
constexpr LifConfig snntorch_synaptic_membrane(Index d_model, double beta,
                                               Reset reset = Reset::subtract) {
  LifConfig c = snntorch_leaky(d_model, beta, reset);
  c.reset_clears_input = reset == Reset::to_value;
  return c;
}

/// The membrane of `norse.torch.LIF`, behind a Synaptic with `.decay = euler_decay(dt, tau_syn)`,
/// which is 0.8 by its defaults of 1 and 5 ms. In its recurrent cell the reset is detached, in the
/// feed-forward one it is not.
constexpr LifConfig norse_lif_membrane(Index d_model, double dt_ms = 1, double tau_mem_ms = 10) {
  return norse_lif_box(d_model, dt_ms, tau_mem_ms);
}

/// Membranes in millivolt, currents in nanoampere, `resistance` in megaohm, τ = R C.
struct BiologicalLif {
  double tau_ms = 20;
  double resistance = 20;
  double rest_mv = -70;
  double reset_mv = -70;
  double threshold_mv = -51;
  double refractory_ms = 2;
};

/// `LIF` of GeNN.
constexpr LifConfig genn_lif(Index d_model, double dt_ms, BiologicalLif p = {}) {
  return {.d_model = d_model,
          .decay = exact_decay(dt_ms, p.tau_ms),
          .gain = p.resistance,
          .decay_input = true,
          .threshold = p.threshold_mv,
          .rest = p.rest_mv,
          .reset = Reset::to_value,
          .reset_to = p.reset_mv,
          .refractory = refractory_steps(p.refractory_ms, dt_ms)};
}

/// `bindsnet.network.nodes.LIFNodes`.
constexpr LifConfig bindsnet_lif(Index d_model, double dt_ms = 1,
                                 BiologicalLif p = {.tau_ms = 100,
                                                    .resistance = 1,
                                                    .rest_mv = -65,
                                                    .reset_mv = -65,
                                                    .threshold_mv = -52,
                                                    .refractory_ms = 5}) {
  return {.d_model = d_model,
          .decay = exact_decay(dt_ms, p.tau_ms),
          .threshold = p.threshold_mv,
          .rest = p.rest_mv,
          .reset = Reset::to_value,
          .reset_to = p.reset_mv,
          .refractory = refractory_steps(p.refractory_ms, dt_ms)};
}

}  // namespace limen::inline LIMEN_ABI
