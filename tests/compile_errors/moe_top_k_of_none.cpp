// A row that no expert sees.
// expect: TopKRouter: .top_k must be positive
#include <limen/moe/top_k_router.hpp>

int main() {
  using R = limen::TopKRouter<limen::TopKRouterConfig{.d_model = 4, .n_experts = 2, .top_k = 0}>;
  return static_cast<int>(R::in);
}
