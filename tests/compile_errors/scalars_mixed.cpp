// One layer in double among layers in float.
// expect: layers that are composed must have one scalar type
// expect: float
// expect: layer<1>
// expect: double
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

constexpr LinearConfig map{.d_in = 4, .d_out = 4};
Sequential<Linear<map>, Linear<map, double>> model;
