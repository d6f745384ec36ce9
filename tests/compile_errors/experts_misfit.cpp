// The router looks at 8 columns, the experts take 6.
// expect: MixtureOfExperts: router and experts must take the same width
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/linear.hpp>

using Route = limen::TopKRouter<limen::TopKRouterConfig{.d_model = 8, .n_experts = 4}>;
using Expert = limen::Linear<limen::LinearConfig{.d_in = 6, .d_out = 6}>;

int main() { return static_cast<int>(limen::MixtureOfExperts<Route, Expert>::in); }
