// Heads that do not speak of the same classes.
// expect: EarlyExit: all heads must give the same classes
// expect: layer<1>
// expect: gives<2>
// expect: layer<3>
// expect: gives<3>
#include <limen/exit/early_exit.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

int main() {
  using Net = EarlyExit<Map<4, 8>, Exit<Map<8, 2>>, Map<8, 8>, Exit<Map<8, 3>>>;
  Random random(1);
  return static_cast<int>(forward(Net::initialized(random), Sequence<float, 4>(3)).rows());
}
