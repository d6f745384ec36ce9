#pragma once
/// @file  The laws for layers that spike.

#include "../laws.hpp"

namespace spiking {

/// Parameters that differ from neuron to neuron, as after training.
template <class L>
L varied() {
  limen::Random random(11);
  L layer = L::initialized(random);
  limen::for_each_tensor(
      [&](auto& tensor) {
        for (auto& value : tensor.flat()) {
          value += static_cast<typename L::Scalar>(random.uniform(-0.1, 0.1));
        }
      },
      layer);
  return layer;
}

/// A layer of spikes: everything but the slope, which a step does not have.
template <class L>
void keeps_the_laws(limen::check::Options options = {}) {
  static_assert(limen::check::names_every_member<L>);
  options.slope = 1e300;
  laws::hold(varied<typename L::template with_scalar<float>>(), options);
  laws::hold(varied<typename L::template with_scalar<double>>(), options);
}

/// A soft twin: everything. The wide differences of float may cross a decision that is a constant
/// on the way back, so in float the slope is checked where there is none.
template <class L>
void twin_keeps_the_laws(limen::check::Options options = {}, bool decides = false) {
  laws::hold(varied<typename L::template with_scalar<double>>(), options);
  if (decides) options.slope = 1e300;
  laws::hold(varied<typename L::template with_scalar<float>>(), options);
}

}  // namespace spiking
