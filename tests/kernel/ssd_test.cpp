#include <limen/kernel/ssd.hpp>

#include <limen/kernel/keyed_ssd.hpp>

#include "state_operands.hpp"

using namespace limen;
using operands::Rule, operands::Size;

namespace {

template <class Real>
void compare(Rule rule, Size s, Index T, double tolerance) {
  operands::compare<Real>(
      rule, s, T, tolerance,
      [&](const auto& x, const auto& batch, auto y, auto* kept) {
        rule == Rule::keys ? keyed_ssd(x, batch, y, kept) : ssd(x, batch, y, kept);
      },
      [&](const auto& x, const auto& batch, const auto& kept, auto dy, const auto& g) {
        rule == Rule::keys ? keyed_ssd_backward<Real>(x, batch, kept, dy, g)
                           : ssd_backward<Real>(x, batch, kept, dy, g);
      });
}

}  // namespace

TEST_CASE("Chunks of a decaying matrix state are its recurrence, and so are their gradients",
          "[kernel][ssd]") {
  for (const Size s : {Size{1, 1, 1, 1}, Size{2, 1, 3, 5}, Size{6, 2, 7, 17}, Size{3, 3, 16, 8},
                       Size{5, 1, 33, 15}, Size{2, 2, 18, 64}}) {
    for (const Index T : {0, 1, 2, 7, 8, 9, 31, 32, 33, 64, 127, 128, 129, 300}) {
      compare<double>(Rule::head, s, T, 1e-12);
      compare<float>(Rule::head, s, T, 2e-5);
    }
  }
}

TEST_CASE("Chunks of a state with a decay for each key are its recurrence", "[kernel][ssd]") {
  for (const Size s : {Size{1, 1, 1, 1}, Size{2, 2, 3, 5}, Size{3, 3, 16, 8}, Size{2, 2, 7, 17},
                       Size{1, 1, 33, 15}, Size{2, 2, 18, 64}}) {
    for (const Index T : {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 129, 300}) {
      compare<double>(Rule::keys, s, T, 1e-12);
      compare<float>(Rule::keys, s, T, 2e-5);
    }
  }
}
