// A step longer than its time constant.
// expect: Eif: .tau must be longer than .dt
#include <limen/spiking/eif.hpp>

limen::Eif<limen::EifConfig{.d_model = 3, .dt = 3}> layer;
