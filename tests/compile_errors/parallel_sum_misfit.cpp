// Outputs of different widths cannot be added.
// expect: Parallel: layers that are added or multiplied must give the same width
// expect: layer<0>
// expect: gives<16>
// expect: layer<2>
// expect: gives<8>
#include <limen/compose/parallel.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index O>
using To = Linear<LinearConfig{.d_in = 4, .d_out = O}>;

Parallel<Join::sum, To<16>, To<16>, To<8>> model;
