// Heads are equal pieces of what a Linear takes and gives.
// expect: Polytropon: .n_heads must divide what the Linear takes and what it gives
#include <limen/moe/polytropon.hpp>

using namespace limen;

int main() {
  using L = Polytropon<PolytroponConfig{.n_tasks = 2, .n_heads = 3},
                       Linear<LinearConfig{.d_in = 6, .d_out = 4}>>;
  return static_cast<int>(L::in);
}
