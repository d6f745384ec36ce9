// Something in the list is no layer: here the config instead of the layer made from it.
// expect: what is composed must be a layer
// expect: layer<1>
// expect: LinearConfig
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

Sequential<Linear<LinearConfig{.d_in = 4, .d_out = 4}>, LinearConfig> model;
