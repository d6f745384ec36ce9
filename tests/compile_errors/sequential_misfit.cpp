// The fifth of ten layers takes another width than the fourth gives.
// expect: Sequential: each layer must fit the next
// expect: layer<3>
// expect: gives<64>
// expect: layer<4>
// expect: takes<32>
#include <limen/compose/sequential.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;
using Bend = Activate<ActivateConfig{.d = 64}>;

int main() {
  using Model = Sequential<Map<16, 64>, Bend, Map<64, 64>, Bend, Map<32, 64>, Bend, Map<64, 64>,
                           Bend, Map<64, 32>, Map<32, 8>>;
  Random random(1);
  const auto model = Model::initialized(random);
  const auto y = forward(model, Sequence<float, 16>(3));
  return y.rows() == 3;
}
