#include <limen/kernel/reduce.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

TEMPLATE_TEST_CASE("Sums and maxima of rows are those of a plain loop", "[kernel][reduce]", float,
                   double) {
  using Real = TestType;
  Random random(2);
  const double near = 8 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  for (Index n = 0; n <= 9 * simd::lanes<Real> + 1; ++n) {
    for (const Index start : {0, 1, 5}) {
      // Numbers behind the end are larger and must not count; all in the row are negative.
      std::vector<Real> x(static_cast<std::size_t>(n + start + 64), Real(1000));
      double sum = 0, size = 0, most = -std::numeric_limits<double>::infinity();
      for (Index i = 0; i < n; ++i) {
        Real& v = x[static_cast<std::size_t>(start + i)];
        v = static_cast<Real>(-1 - std::abs(random.normal()));
        sum += double(v);
        size += std::abs(double(v));
        most = double(v) > most ? double(v) : most;
      }
      INFO(n << " from " << start);
      REQUIRE(std::abs(double(row_sum(x.data() + start, n)) - sum) <= near * size);
      REQUIRE(double(row_max(x.data() + start, n)) == most);
    }
  }
}

TEST_CASE("The same numbers give the same sum wherever they start", "[kernel][reduce]") {
  Random random(6);
  std::vector<float> x(300), y(317);
  for (float& v : x) v = static_cast<float>(random.normal());
  const float expected = row_sum(x.data(), 300);
  for (Index start = 0; start < 17; ++start) {
    std::copy(x.begin(), x.end(), y.begin() + start);
    REQUIRE(row_sum(y.data() + start, 300) == expected);
  }
}

TEST_CASE("row_max passes NaN over", "[kernel][reduce]") {
  std::vector<float> x(70, -2.0f);
  x[3] = x[40] = x[69] = std::numeric_limits<float>::quiet_NaN();
  x[41] = -1;
  REQUIRE(row_max(x.data(), 70) == -1);
}

TEST_CASE("add_column_sums adds to what is there, rows apart in memory", "[kernel][reduce]") {
  Random random(8);
  for (Index cols = 1; cols <= 4 * simd::lanes<double> + 1; ++cols) {
    for (const Index rows : {0, 1, 3, 4, 5, 9}) {
      const Index stride = cols + 3;
      std::vector<double> x(static_cast<std::size_t>(rows * stride + 1)),
          sums(static_cast<std::size_t>(cols + 1), 7.0);
      for (double& v : x) v = random.normal();
      add_column_sums(MatrixView<const double>{x.data(), rows, cols, stride}, sums.data());
      for (Index c = 0; c < cols; ++c) {
        double expected = 7;
        for (Index r = 0; r < rows; ++r) expected += x[static_cast<std::size_t>(r * stride + c)];
        REQUIRE(std::abs(sums[static_cast<std::size_t>(c)] - expected) < 1e-13);
      }
      REQUIRE(sums.back() == 7);
    }
  }
}
