// A reset that is paid later is defined for a rest of 0 only.
// expect: Lif: .when = next needs .rest = 0 and .reset_to = 0
#include <limen/spiking/lif.hpp>

limen::Lif<limen::LifConfig{.d_model = 3, .rest = -0.5, .when = limen::When::next}> layer;
