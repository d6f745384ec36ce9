// What a row becomes must not depend on the way it takes.
// expect: Branch, Switch: all alternatives must give the same width
// expect: layer<0>
// expect: gives<16>
// expect: layer<1>
// expect: gives<8>
#include <limen/compose/switch.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index O>
using To = Linear<LinearConfig{.d_in = 4, .d_out = O}>;

Switch<To<16>, To<8>> model;
