#pragma once
/// @file  Leaky neurons that learn how fast they leak (PLIF).
///
///   κ = σ(w) = 1/τ
///   h_t = v_{t-1} - κ (v_{t-1} - ρ) + κ x_t        or  + x_t without .decay_input
///   s_t = H(h_t - θ),  reset to c, which is ρ, or by θ
///
/// That is a Lif with a = 1 - κ = σ(-w), so it is one: its parameter `decay` is -w. What is known
/// of Lif (laws, events, recurrence) holds for it. The sigmoid keeps κ between 0 and 1 without a
/// clip, past which nothing would be learned.
///
/// One w for the layer, as published, has a gradient that sums over all neurons and steps: give it
/// a smaller rate than the weights, or `Learned::each`.
///
/// Fang, Yu, Chen, Masquelier, Huang & Tian, Incorporating Learnable Membrane Time Constant to
/// Enhance Learning of Spiking Neural Networks, arXiv:2007.05785, equations 7 to 10.

#include <limen/spiking/lif.hpp>

namespace limen::inline LIMEN_ABI {

struct PlifConfig {
  Index d_model = 0;                  ///< D, neurons
  double tau = 2;                     ///< τ at the start, in steps, above 1
  bool decay_input = true;            ///< the input is scaled by κ too
  double threshold = 1;               ///< θ
  Reset reset = Reset::to_value;      ///< what a spike does to the membrane
  double reset_to = 0;                ///< c, and ρ: where the membrane rests
  SpikeTest test = SpikeTest::ge;     ///< whether θ itself fires
  bool detach_reset = false;          ///< no gradient through the spike of the reset
  Learned learn = Learned::together;  ///< one w for the layer, or one for each neuron
};

/// The Lif that a Plif is. A time constant that is not above 1 gives a decay that Lif refuses.
constexpr LifConfig plif(const PlifConfig& c) {
  return {.d_model = c.d_model,
          .decay = c.tau > 1 ? 1 - 1 / c.tau : -1,
          .decay_input = c.decay_input,
          .threshold = c.threshold,
          .rest = c.reset == Reset::to_value ? c.reset_to : 0,
          .test = c.test,
          .reset = c.reset,
          .reset_to = c.reset == Reset::to_value ? c.reset_to : 0,
          .detach_reset = c.detach_reset,
          .learn_decay = c.learn};
}

template <PlifConfig C, class S = float, auto Phi = ArcTan{}>
using Plif = Lif<plif(C), S, Phi>;

}  // namespace limen::inline LIMEN_ABI
