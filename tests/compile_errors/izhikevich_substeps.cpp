// A step of nothing.
// expect: Izhikevich: .substeps must be at least 1
#include <limen/spiking/izhikevich.hpp>

limen::Izhikevich<limen::IzhikevichConfig{.d = 3, .substeps = 0}> layer;
