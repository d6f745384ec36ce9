#pragma once
/// @file  What a Lif is told (spiking/lif.hpp has the equations), and what of it cannot be.

#include <limen/kernel/lif.hpp>
#include <limen/spiking/spike.hpp>

namespace limen::inline LIMEN_ABI {

struct LifConfig {
  Index d_model = 0;                  ///< D, neurons
  double decay = 0.5;                 ///< a, what a step leaves of the membrane
  double gain = 1;                    ///< g, or what multiplies 1 - a
  bool decay_input = false;           ///< g = gain (1 - a)
  double threshold = 1;               ///< θ
  double rest = 0;                    ///< ρ
  SpikeTest test = SpikeTest::ge;     ///< whether θ itself fires
  Reset reset = Reset::subtract;      ///< what a spike does to the membrane
  double reset_by = 0;                ///< b; 0: θ
  double reset_to = 0;                ///< c
  When when = When::now;              ///< when it does
  bool reset_clears_input = false;    ///< next, to_value: the input of that step is lost too
  bool detach_reset = false;          ///< no gradient through the spike of the reset
  Index refractory = 0;               ///< silent steps after a spike (kernel/refractory.hpp)
  Learned learn_decay = Learned::no;  ///< a = σ(decay)
  Learned learn_gain = Learned::no;
  Learned learn_threshold = Learned::no;
  Learned learn_reset_to = Learned::no;
};

namespace detail {

/// Everything that a LifConfig can have wrong but its width.
constexpr bool lif_decays(const LifConfig& c) { return c.decay >= 0 && c.decay <= 1; }
constexpr bool lif_resets_below(const LifConfig& c) {
  return c.reset != Reset::to_value || c.reset_to < c.threshold;
}
constexpr bool lif_subtracts(const LifConfig& c) {
  return c.reset != Reset::subtract || (c.reset_by == 0 ? c.threshold > 0 : c.reset_by > 0);
}
constexpr bool lif_can_wait(const LifConfig& c) {
  return c.when == When::now || c.reset == Reset::none || (c.rest == 0 && c.reset_to == 0);
}
constexpr bool lif_is_finite(const LifConfig& c) {
  for (const double x : {c.gain, c.threshold, c.rest, c.reset_by, c.reset_to}) {
    if (!finite(x)) return false;
  }
  return true;
}

constexpr LifRules lif_rules(const LifConfig& c) {
  const bool learns_decay = c.learn_decay != Learned::no;
  return {.test = c.test,
          .reset = c.reset,
          .when = c.when,
          .detach_reset = c.detach_reset,
          .clears_input = c.reset_clears_input,
          .by_threshold = c.reset == Reset::subtract && c.reset_by == 0,
          .learns_decay = learns_decay,
          .learns_gain = c.learn_gain != Learned::no || (learns_decay && c.decay_input),
          .learns_threshold = c.learn_threshold != Learned::no,
          .learns_value = c.learn_reset_to != Learned::no};
}

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
