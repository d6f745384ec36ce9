// More experts for a row than there are.
// expect: TopKRouter: .top_k must not exceed .n_experts
#include <limen/moe/top_k_router.hpp>

int main() {
  using R = limen::TopKRouter<limen::TopKRouterConfig{.d_model = 4, .n_experts = 2, .top_k = 3}>;
  return static_cast<int>(R::in);
}
