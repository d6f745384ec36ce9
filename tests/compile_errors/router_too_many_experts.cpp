// More experts for a row than there are.
// expect: TopKRouter: .top_k must not exceed .n_experts
#include <limen/moe/top_k_router.hpp>

constexpr limen::TopKRouterConfig c{.d_model = 4, .n_experts = 4, .top_k = 5};

int main() { return static_cast<int>(limen::TopKRouter<c>::in); }
