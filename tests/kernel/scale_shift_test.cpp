#include <limen/kernel/scale_shift.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"
#include "../numbers.hpp"

#include <limen/core/random.hpp>

using namespace limen;
using numbers::at;
using numbers::noise;

TEMPLATE_TEST_CASE("Channels are scaled and shifted at any width, and so is their gradient",
                   "[kernel][scale_shift]", float, double) {
  using Real = TestType;
  constexpr Index rows = 3;
  const double eps = 4 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  for (Index n = 0; n < 4 * simd::lanes<Real> + 2; ++n) {
    const Index stride = n + 1;  // views into something wider
    const auto x = noise<Real>(rows * stride, 1), dy = noise<Real>(rows * stride, 2),
               gamma = noise<Real>(n + 1, 3), beta = noise<Real>(n + 1, 4);
    std::vector<Real> y(x.size(), Real(7)), dx(x.size(), Real(0.5)), dgamma(gamma.size(), Real(1)),
        dbeta(gamma.size(), Real(2));
    const MatrixView<const Real> xs{x.data(), rows, n, stride}, downs{dy.data(), rows, n, stride};
    scale_shift<Real>(xs, gamma.data(), beta.data(), MatrixView<Real>{y.data(), rows, n, stride});
    scale_shift_backward<Real>(xs, gamma.data(), downs,
                               MatrixView<Real>{dx.data(), rows, n, stride}, dgamma.data(),
                               dbeta.data());
    for (Index c = 0; c < n; ++c) {
      double dg = 1, db = 2;
      for (Index t = 0; t < rows; ++t) {
        const double xi = x[at(t * stride + c)], d = dy[at(t * stride + c)], g = gamma[at(c)];
        REQUIRE(std::abs(y[at(t * stride + c)] - (xi * g + beta[at(c)])) <= eps * 8);
        REQUIRE(std::abs(dx[at(t * stride + c)] - (0.5 + d * g)) <= eps * 8);
        dg += d * xi;
        db += d;
      }
      REQUIRE(std::abs(dgamma[at(c)] - dg) <= eps * 16);
      REQUIRE(std::abs(dbeta[at(c)] - db) <= eps * 16);
    }
    // What lies behind a row is somebody else's.
    REQUIRE(y[at(n)] == 7);
    REQUIRE(dx[at(n)] == Real(0.5));
    REQUIRE(dgamma[at(n)] == 1);
    REQUIRE(dbeta[at(n)] == 2);
  }
}

TEST_CASE("Rows may be scaled and shifted where they lie", "[kernel][scale_shift]") {
  double x[] = {1, 2, 3, 4};
  const double gamma[] = {2, -1}, beta[] = {1, 0.5};
  const MatrixView<double> rows{x, 2, 2, 2};
  scale_shift<double>(rows, gamma, beta, rows);
  REQUIRE(x[0] == 3);
  REQUIRE(x[1] == -1.5);
  REQUIRE(x[2] == 7);
  REQUIRE(x[3] == -3.5);
}
