// A width that the formula cannot have.
// expect: Lif: the surrogate needs a derivative, and positive numbers
#include <limen/spiking/lif.hpp>

limen::Lif<limen::LifConfig{.d_model = 3}, float, limen::ArcTan{.alpha = 0}> layer;
