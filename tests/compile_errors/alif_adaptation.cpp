// A threshold that sinks when its neuron fires would let it fire for ever.
// expect: Alif: .adaptation must not be negative
#include <limen/spiking/alif.hpp>

limen::Alif<limen::AlifConfig{.d_model = 3, .adaptation = -0.1}> layer;
