// No expert could take a row.
// expect: CapacityRouter: .factor must be positive
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/top_k_router.hpp>

using Route = limen::TopKRouter<limen::TopKRouterConfig{.d_model = 8, .n_experts = 4}>;
constexpr limen::CapacityRouterConfig none{.factor = 0};

int main() { return static_cast<int>(limen::CapacityRouter<none, Route>::in); }
