// A gate needs a number for each number of the value.
// expect: Gated: value and gate must give the same width
// expect: gives<16>
// expect: gives<1>
#include <limen/compose/gated.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index O>
using To = Linear<LinearConfig{.d_in = 4, .d_out = O}>;

Gated<To<16>, To<1>> model;
