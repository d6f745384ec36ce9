// Experts that have no room.
// expect: CapacityRouter: .factor must be positive
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/top_k_router.hpp>

int main() {
  using namespace limen;
  using R = CapacityRouter<CapacityRouterConfig{.factor = 0},
                           TopKRouter<TopKRouterConfig{.d_model = 4, .n_experts = 2}>>;
  return static_cast<int>(R::in);
}
