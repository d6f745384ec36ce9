#include <limen/kernel/rows.hpp>

#include "../catch.hpp"

#include <vector>

using namespace limen;

namespace {

/// Rows of `cols` numbers, `gap` apart, the gaps full of 1000.
template <class Real>
struct Rows {
  Rows(Index rows, Index cols, Index gap, Real first)
      : all(static_cast<std::size_t>(rows * (cols + gap)), Real(1000)),
        view{all.data(), rows, cols, cols + gap} {
    for (Index t = 0; t < rows; ++t) {
      for (Index c = 0; c < cols; ++c) view(t, c) = first + static_cast<Real>(t * cols + c);
    }
  }
  Real gaps() const {
    Real sum = 0;
    for (Index t = 0; t < view.rows; ++t) {
      for (Index c = view.cols; c < view.stride; ++c) sum += view(t, c);
    }
    return sum;
  }
  std::vector<Real> all;
  MatrixView<Real> view;
};

/// check(x, y before, y after) at each element, for widths around the vector and with gaps.
template <class Real, class Run, class Check>
void over_shapes(Run run, Check check) {
  for (Index cols = 1; cols <= 2 * simd::lanes<Real> + 1; ++cols) {
    for (const Index gap : {0, 3}) {
      for (const Index rows : {0, 1, 3}) {
        Rows<Real> x(rows, cols, gap, 2), y(rows, cols, 3 - gap, 5);
        const Rows<Real> before(rows, cols, 0, 5);
        run(x.view, y.view);
        for (Index t = 0; t < rows; ++t) {
          for (Index c = 0; c < cols; ++c) {
            REQUIRE(y.view(t, c) == check(x.view(t, c), before.view(t, c)));
          }
        }
        REQUIRE(y.gaps() == static_cast<Real>(rows * (3 - gap) * 1000));
      }
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("Rows are added, multiplied and copied, whatever lies between them",
                   "[kernel][rows]", float, double) {
  using Real = TestType;
  over_shapes<Real>([](auto x, auto y) { add_rows<Real>(x, y); },
                    [](Real x, Real y) { return x + y; });
  over_shapes<Real>([](auto x, auto y) { multiply_rows<Real>(x, y); },
                    [](Real x, Real y) { return x * y; });
  over_shapes<Real>([](auto x, auto y) { copy_rows<Real>(x, y); }, [](Real x, Real) { return x; });
}

TEMPLATE_TEST_CASE("Rows are gathered and go back to their places", "[kernel][rows]", float,
                   double) {
  using Real = TestType;
  for (const Index cols : {Index{1}, simd::lanes<Real> + 1}) {
    Rows<Real> x(5, cols, 2, 0), some(3, cols, 1, 0), back(5, cols, 2, 500);
    const Index which[] = {4, 0, 3};
    gather_rows<Real>(x.view, which, some.view);
    scatter_rows<Real>(some.view, which, back.view);
    for (Index i = 0; i < 3; ++i) {
      for (Index c = 0; c < cols; ++c) {
        REQUIRE(some.view(i, c) == x.view(which[i], c));
        REQUIRE(back.view(which[i], c) == x.view(which[i], c));
        REQUIRE(back.view(1, c) == 500 + static_cast<Real>(cols + c));  // not among them
      }
    }
  }
}
