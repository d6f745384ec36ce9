#include <limen/kernel/softmax.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
constexpr Real inf = std::numeric_limits<Real>::infinity();

/// Rows of any width with a gap; some entries masked, all of row 1.
template <class Real>
struct Rows {
  Index rows, cols, stride;
  std::vector<Real> values;
  Rows(Index r, Index c)
      : rows(r), cols(c), stride(c + 3), values(std::size_t(r * stride + 1), 77) {}
  MatrixView<Real> view() { return {values.data(), rows, cols, stride}; }
  MatrixView<const Real> look() { return view(); }
  bool gaps_untouched() {
    for (Index t = 0; t < rows; ++t) {
      for (Index i = cols; i < stride; ++i) {
        if (view()(t, i) != 77) return false;
      }
    }
    return true;
  }
};

double plain_log_sum_exp(const double* x, Index n) {
  double most = -inf<double>, sum = 0;
  for (Index i = 0; i < n; ++i) most = std::max(most, x[i]);
  if (std::isinf(most)) return most;
  for (Index i = 0; i < n; ++i) sum += std::exp(x[i] - most);
  return most + std::log(sum);
}

}  // namespace

TEMPLATE_TEST_CASE("softmax, its logarithm and its sum at every length, with masked entries",
                   "[kernel][softmax]", float, double) {
  using Real = TestType;
  const double near = sizeof(Real) == 4 ? 2e-6 : 4e-15;
  Random random(1);
  for (Index n = 1; n <= 9 * simd::lanes<Real> + 1; ++n) {
    Rows<Real> x(3, n), p(3, n), y(3, n);
    for (Index t = 0; t < 3; ++t) {
      for (Index i = 0; i < n; ++i) {
        const bool masked = t == 1 || (t == 2 && i % 3 == 1);
        x.view()(t, i) =
            masked ? -inf<Real> : static_cast<Real>(5 * random.normal() + 300 * double(t));
      }
    }
    Real lse[3];
    softmax(x.look(), p.view(), lse);
    log_softmax(x.look(), y.view());
    for (Index t = 0; t < 3; ++t) {
      std::vector<double> wide(std::size_t(n), 0.0);
      for (Index i = 0; i < n; ++i) wide[std::size_t(i)] = double(x.view()(t, i)) - 300 * double(t);
      const double log_sum = plain_log_sum_exp(wide.data(), n),
                   expected = log_sum + 300 * double(t);
      INFO("row " << t << " of " << n);
      if (t == 1) {
        REQUIRE(lse[t] == -inf<Real>);
      } else {
        REQUIRE(std::abs(double(lse[t]) - expected) <= near * (1 + std::abs(expected)));
        REQUIRE(std::abs(log_sum_exp(x.look().row(t), n) - expected) <=
                near * (1 + std::abs(expected)));
      }
      for (Index i = 0; i < n; ++i) {
        const double log_p = wide[std::size_t(i)] - log_sum;
        if (std::isinf(wide[std::size_t(i)])) {
          REQUIRE(p.view()(t, i) == 0);
          REQUIRE(y.view()(t, i) == -inf<Real>);
        } else {
          REQUIRE(std::abs(double(p.view()(t, i)) - std::exp(log_p)) <= near);
          REQUIRE(std::abs(double(y.view()(t, i)) - log_p) <= near * (1 + std::abs(log_p)));
        }
      }
    }
    REQUIRE(p.gaps_untouched());
    REQUIRE(y.gaps_untouched());
    softmax(x.look(), x.view());
    REQUIRE(x.values == p.values);
  }
}

TEST_CASE("softmax by hand", "[kernel][softmax]") {
  const double x[] = {0, std::log(3.0)};
  double p[2];
  REQUIRE(std::abs(softmax_row(x, p, 2) - std::log(4.0)) < 1e-15);
  REQUIRE(std::abs(p[0] - 0.25) < 1e-15);
  REQUIRE(std::abs(p[1] - 0.75) < 1e-15);
}

TEST_CASE("softmax neither overflows nor loses NaN, and NaN stays in its row",
          "[kernel][softmax]") {
  Rows<float> x(3, 40), p(3, 40);
  for (Index t = 0; t < 3; ++t) {
    for (Index i = 0; i < 40; ++i) x.view()(t, i) = i == 7 ? 3e38f : -3e38f;
  }
  x.view()(1, 39) = std::numeric_limits<float>::quiet_NaN();
  softmax(x.look(), p.view());
  REQUIRE(p.view()(0, 7) == 1);
  REQUIRE(p.view()(0, 8) == 0);
  for (Index i = 0; i < 40; ++i) REQUIRE(std::isnan(p.view()(1, i)));
  REQUIRE(p.view()(2, 7) == 1);
}

TEST_CASE("Backward of softmax and of its logarithm are slopes", "[kernel][softmax]") {
  Random random(9);
  for (const Index n : {1, 2, 7, 8, 9, 31, 65}) {
    std::vector<double> x(std::size_t(n), 0.0), dy = x, p = x, y = x, dx = x, d_log = x;
    for (double& v : x) v = random.normal();
    for (double& v : dy) v = random.normal();
    softmax_row(x.data(), p.data(), n);
    log_softmax_row(x.data(), y.data(), n);
    softmax_backward_row(p.data(), dy.data(), dx.data(), n);
    log_softmax_backward_row(y.data(), dy.data(), d_log.data(), n);
    const auto weighted = [&](bool logarithm) {
      std::vector<double> out(x.size());
      logarithm ? log_softmax_row(x.data(), out.data(), n) : softmax_row(x.data(), out.data(), n);
      double sum = 0;
      for (std::size_t i = 0; i < out.size(); ++i) sum += dy[i] * out[i];
      return sum;
    };
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double h = 1e-5, before = x[i];
      x[i] = before + h;
      const double up = weighted(false), log_up = weighted(true);
      x[i] = before - h;
      const double down = weighted(false), log_down = weighted(true);
      x[i] = before;
      INFO(i << " of " << n);
      REQUIRE(std::abs(dx[i] - (up - down) / (2 * h)) < 1e-8);
      REQUIRE(std::abs(d_log[i] - (log_up - log_down) / (2 * h)) < 1e-8);
    }
    softmax_backward_row(p.data(), dy.data(), dy.data(), n);
    REQUIRE(dy == dx);  // in place
  }
}

TEST_CASE("A masked row has no gradient", "[kernel][softmax]") {
  std::vector<float> x(19, -inf<float>), p(19), dy(19, 2.0f), dx(19, 5.0f);
  REQUIRE(softmax_row(x.data(), p.data(), 19) == -inf<double>);
  softmax_backward_row(p.data(), dy.data(), dx.data(), 19);
  for (const float d : dx) REQUIRE(d == 0);
}
