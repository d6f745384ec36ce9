// Nobody takes the rows that come to the end.
// expect: EarlyExit: no head at the end; the last part must be an Exit
// expect: layer<2>
#include <limen/exit/early_exit.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

int main() {
  using Net = EarlyExit<Map<4, 8>, Exit<Map<8, 3>>, Map<8, 3>>;
  Random random(1);
  return static_cast<int>(forward(Net::initialized(random), Sequence<float, 4>(3)).rows());
}
