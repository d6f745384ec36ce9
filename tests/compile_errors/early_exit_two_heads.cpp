// The second of two heads at one depth would see nothing that the first has not.
// expect: EarlyExit: two heads at one depth; put a layer between them
// expect: layer<1>
// expect: layer<2>
#include <limen/exit/early_exit.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

int main() {
  using Net = EarlyExit<Map<4, 8>, Exit<Map<8, 3>>, Exit<Map<8, 3>>>;
  Random random(1);
  return static_cast<int>(forward(Net::initialized(random), Sequence<float, 4>(3)).rows());
}
