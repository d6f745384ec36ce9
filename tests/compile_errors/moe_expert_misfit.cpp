// An expert of another width can not take the place of the others.
// expect: MixtureOfExperts: all experts must give the same width
// expect: layer<0>
// expect: gives<4>
// expect: layer<1>
// expect: gives<5>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index O>
using To = Linear<LinearConfig{.d_in = 4, .d_out = O}>;

MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = 4, .n_experts = 2}>, To<4>, To<5>> model;
