// A model with a layer that looks at the whole sequence cannot go step by step.
// expect: step: every layer must have one; this one needs the whole sequence
// expect: layer<1>
// expect: Reverse
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>

#include "../compose/layers.hpp"

using Model = limen::Sequential<parts::Filter<3>, parts::Reverse<3>, parts::Map<3, 2>>;

int main() {
  const Model model;
  Model::State state{};
  const limen::Vector<float, 3> x{1, 2, 3};
  const auto y = model.step(x, state);
  return y[0] > 0;
}
