// A layer that narrows has no way around it.
// expect: Residual: the inner layer must give as many numbers as it takes
// expect: takes<64>
// expect: gives<32>
#include <limen/compose/residual.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

int main() {
  const Residual<Linear<LinearConfig{.d_in = 64, .d_out = 32}>> layer;
  return forward(layer, Sequence<float, 64>(3)).rows() == 3;
}
