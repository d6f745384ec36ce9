// The same deep inside: the outermost part that cannot step is told, with its type.
// expect: step: every layer must have one; this one needs the whole sequence
// expect: layer<0>
// expect: Reverse
#include <limen/compose/residual.hpp>
#include <limen/compose/tap.hpp>

#include "../compose/layers.hpp"

using Model = limen::Tap<"all", limen::Residual<parts::Reverse<3>>>;

int main() {
  const Model model;
  Model::State state{};
  model.step(limen::Vector<float, 3>{1, 2, 3}, state);
}
