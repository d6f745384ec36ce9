// What a sigmoid makes is below 1.
// expect: Glif: every number must be between 0 and 1
#include <limen/spiking/glif.hpp>

limen::Glif<limen::GlifConfig{.d_model = 3, .threshold = 1}> layer;
