// More than all of the membrane cannot be left.
// expect: Lif: .decay must be from 0 to 1
#include <limen/spiking/lif.hpp>

limen::Lif<limen::LifConfig{.d_model = 3, .decay = 1.1}> layer;
