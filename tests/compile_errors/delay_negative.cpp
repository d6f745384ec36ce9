// Nothing arrives before it was sent.
// expect: DelayedLinear: .longest must be 0 to 65535
#include <limen/spiking/delays.hpp>

limen::DelayedLinear<limen::DelayConfig{.d_in = 2, .d_out = 2, .longest = -1}> layer;
