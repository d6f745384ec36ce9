// A head that takes another width than the layer before it gives.
// expect: EarlyExit: each layer and each head must fit the layer before it
// expect: layer<0>
// expect: gives<8>
// expect: layer<1>
// expect: takes<9>
#include <limen/exit/early_exit.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

int main() {
  using Net = EarlyExit<Map<4, 8>, Exit<Map<9, 3>>, Map<8, 8>, Exit<Map<8, 3>>>;
  Random random(1);
  return static_cast<int>(forward(Net::initialized(random), Sequence<float, 4>(3)).rows());
}
