#include <limen/kernel/delta.hpp>

#include "state_operands.hpp"

using namespace limen;
using operands::Rule, operands::Size;

namespace {

template <class Real>
void compare(Size s, Index T, double tolerance) {
  operands::compare<Real>(
      Rule::delta, s, T, tolerance,
      [](const auto& x, const auto& batch, auto y, auto* kept) { delta_rule(x, batch, y, kept); },
      [](const auto& x, const auto& batch, const auto& kept, auto dy, const auto& g) {
        delta_rule_backward<Real>(x, batch, kept, dy, g);
      });
}

}  // namespace

TEST_CASE("Chunks of the delta rule are its recurrence, and so are their gradients",
          "[kernel][delta]") {
  for (const Size s : {Size{1, 1, 1, 1}, Size{2, 1, 3, 5}, Size{6, 2, 7, 17}, Size{3, 3, 16, 8},
                       Size{5, 1, 33, 15}, Size{2, 2, 18, 64}}) {
    for (const Index T : {0, 1, 2, 7, 8, 9, 15, 17, 31, 32, 33, 64, 127, 128, 129, 300}) {
      compare<double>(s, T, 1e-11);
      compare<float>(s, T, 1e-4);
    }
  }
}
