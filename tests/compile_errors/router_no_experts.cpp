// Each row needs an expert.
// expect: TopKRouter: .top_k must be positive, each row needs an expert
#include <limen/moe/top_k_router.hpp>

constexpr limen::TopKRouterConfig c{.d_model = 4, .n_experts = 4, .top_k = 0};

int main() { return static_cast<int>(limen::TopKRouter<c>::in); }
