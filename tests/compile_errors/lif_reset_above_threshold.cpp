// A neuron that is reset to above its threshold would fire for ever.
// expect: Lif: .reset_to must be below .threshold
#include <limen/spiking/lif.hpp>

constexpr limen::LifConfig c{.d_model = 3, .reset = limen::Reset::to_value, .reset_to = 1};

limen::Lif<c> layer;
