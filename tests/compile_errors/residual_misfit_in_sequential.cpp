// The innermost mistake is told first.
// expect: Residual: the inner layer must give as many numbers as it takes
// expect: takes<8>
// expect: gives<16>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

Sequential<Map<4, 8>, Residual<Sequential<Map<8, 16>, Map<16, 16>>>, Map<8, 4>> model;
