#pragma once
/// @file  Integrate-and-fire neurons: a Lif that does not leak.
///
///   h_t = v_{t-1} + x_t,   s_t = H(h_t - θ),   v_t as Reset says
///
/// With Reset::subtract no charge is lost: Σ x = θ Σ s + v_T - v_0. At most one spike a step, so an
/// input of 3 θ is paid out over three.

#include <limen/spiking/lif.hpp>

namespace limen::inline LIMEN_ABI {

struct IntegrateFireConfig {
  Index d_model = 0;               ///< D, neurons
  double threshold = 1;            ///< θ
  SpikeTest test = SpikeTest::ge;  ///< whether θ itself fires
  Reset reset = Reset::subtract;   ///< what a spike does to the membrane
  double reset_to = 0;             ///< c, for to_value
  When when = When::now;           ///< when it does
  bool detach_reset = false;       ///< no gradient through the spike of the reset
  Index refractory = 0;            ///< silent steps after a spike
  Learned learn_threshold = Learned::no;
};

namespace detail {

constexpr LifConfig without_leak(const IntegrateFireConfig& c) {
  return {.d_model = c.d_model,
          .decay = 1,
          .threshold = c.threshold,
          .test = c.test,
          .reset = c.reset,
          .reset_to = c.reset_to,
          .when = c.when,
          .detach_reset = c.detach_reset,
          .refractory = c.refractory,
          .learn_threshold = c.learn_threshold};
}

}  // namespace detail

template <IntegrateFireConfig C, class S = float, auto Phi = ArcTan{}>
using IntegrateFire = Lif<detail::without_leak(C), S, Phi>;

}  // namespace limen::inline LIMEN_ABI
