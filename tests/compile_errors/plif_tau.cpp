// A time constant of one step leaves nothing to learn.
// expect: Lif: .decay must be from 0 to 1
#include <limen/spiking/plif.hpp>

limen::Plif<limen::PlifConfig{.d_model = 3, .tau = 1}> layer;
