// An even kernel has no middle.
// expect: Dcls: .width must be odd
#include <limen/spiking/dcls.hpp>

limen::Dcls<limen::DclsConfig{.d_in = 2, .d_out = 2, .width = 24}> layer;
