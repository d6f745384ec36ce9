// A config whose fields were forgotten.
// expect: Linear: .d_in must be positive
#include <limen/nn/linear.hpp>

limen::Linear<limen::LinearConfig{.d_out = 3}> layer;
