// An inventory of adapters of rank 0 can change nothing.
// expect: Polytropon: .rank must be positive
#include <limen/moe/polytropon.hpp>

using namespace limen;

int main() {
  using L = Polytropon<PolytroponConfig{.n_tasks = 2, .rank = 0},
                       Linear<LinearConfig{.d_in = 6, .d_out = 4}>>;
  return static_cast<int>(L::in);
}
