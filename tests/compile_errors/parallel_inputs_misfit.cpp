// Layers side by side see the same x.
// expect: Parallel: all layers must take the same width
// expect: layer<0>
// expect: takes<4>
// expect: layer<1>
// expect: takes<5>
#include <limen/compose/parallel.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I>
using From = Linear<LinearConfig{.d_in = I, .d_out = 3}>;

Parallel<Join::concat, From<4>, From<5>> model;
