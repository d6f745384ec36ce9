// Without a threshold everything is an event.
// expect: DeltaEncoder: .threshold must be positive
#include <limen/spiking/delta_encoder.hpp>

limen::DeltaEncoder<limen::DeltaEncoderConfig{.d_model = 2, .threshold = 0}> layer;
