#include <limen/attention/feature_maps.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"
#include "../numbers.hpp"

#include <limen/core/sequence.hpp>

using namespace limen;
using numbers::at;
using numbers::noise;

namespace {

/// φ and its slope of all numbers, whole vectors and the rest.
template <FeatureMap M, class Real>
std::vector<Real> mapped(std::vector<Real> x, double floor = 0) {
  simd::transform(x.data(), x.data(), static_cast<Index>(x.size()),
                  [&](const auto& v) { return detail::feature<M>(v, floor); });
  return x;
}
template <FeatureMap M, class Real>
std::vector<Real> slopes(std::vector<Real> x) {
  simd::transform(x.data(), x.data(), static_cast<Index>(x.size()),
                  [](const auto& v) { return detail::feature_slope<M>(v); });
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("Feature maps are what their formulas say, at every place of a vector",
                   "[attention][feature_maps]", float, double) {
  using Real = TestType;
  using enum FeatureMap;
  const double eps = 4 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  const Real some[] = {-30, -2, -0.5, 0, 0.25, 1, 3, 50};
  std::vector<Real> x;
  for (Index i = 0; i < 3 * simd::lanes<Real> + 3; ++i) x.push_back(some[i % 8]);
  const auto elu = mapped<elu_plus_one>(x), d_elu = slopes<elu_plus_one>(x);
  const auto relu_floor = mapped<relu>(x, 0.125), d_relu = slopes<relu>(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = static_cast<double>(x[i]);
    const double expected = v > 0 ? v + 1 : std::exp(v);
    REQUIRE(std::abs(static_cast<double>(elu[i]) - expected) <= eps * expected);
    REQUIRE(elu[i] > 0);
    REQUIRE(std::abs(static_cast<double>(d_elu[i]) - (v > 0 ? 1 : std::exp(v))) <= eps);
    REQUIRE(relu_floor[i] == (v > 0 ? x[i] : Real(0)) + Real(0.125));
    REQUIRE(d_relu[i] == (v > 0 ? 1 : 0));
  }
  REQUIRE(mapped<identity>(x) == x);
  for (const Real s : slopes<identity>(x)) REQUIRE(s == 1);
}

TEMPLATE_TEST_CASE("What is not a number stays none, and infinity has an image",
                   "[attention][feature_maps]", float, double) {
  using Real = TestType;
  using enum FeatureMap;
  const Real inf = std::numeric_limits<Real>::infinity();
  const std::vector<Real> x{std::numeric_limits<Real>::quiet_NaN(), inf, -inf};
  const auto elu = mapped<elu_plus_one>(x), rectified = mapped<relu>(x, 0.5);
  REQUIRE(std::isnan(elu[0]));
  REQUIRE(elu[1] == inf);
  REQUIRE(elu[2] == 0);
  REQUIRE(std::isnan(rectified[0]));
  REQUIRE(rectified[1] == inf);
  REQUIRE(rectified[2] == Real(0.5));
}

TEST_CASE("Random features stand at right angles, and their generator decides them",
          "[attention][feature_maps]") {
  Random random(3), same(3);
  Tensor<double, 7, 4> a, b;
  draw_orthogonal_features(a, random);
  draw_orthogonal_features(b, same);
  REQUIRE(a == b);
  for (Index i = 0; i < 7; ++i) {
    for (Index j = 0; j < i; ++j) {
      double dot = 0;
      for (Index c = 0; c < 4; ++c) dot += a(i, c) * a(j, c);
      if (i / 4 == j / 4) REQUIRE(std::abs(dot) < 1e-12);
    }
  }
  draw_orthogonal_features(a, random);
  REQUIRE_FALSE(a == b);
}

TEST_CASE("Many random features are close to a softmax", "[attention][feature_maps]") {
  constexpr Index r = 4096, d = 3;
  Random random(6);
  Tensor<double, r, d> omega;
  draw_orthogonal_features(omega, random);
  const detail::RandomFeatures<double> features{omega.matrix(), 1};
  const Sequence<double, d> q{{0.5, -1, 0.25}}, k{{1, 0.5, -0.5}, {-1, 1, 0}, {0.2, 0.1, 1.5}};
  Sequence<double, r> phi_q(1), phi_k(3);
  double c = 0;
  features.queries(q.matrix(), phi_q.matrix());
  features.keys(k.matrix(), &c, phi_k.matrix());
  double expected[3], got[3], expected_sum = 0, sum = 0;
  for (Index j = 0; j < 3; ++j) {
    double dot = 0;
    got[j] = 0;
    for (Index i = 0; i < d; ++i) dot += q(0, i) * k(j, i);
    for (Index i = 0; i < r; ++i) got[j] += phi_q(0, i) * phi_k(j, i);
    expected_sum += expected[j] = std::exp(dot / std::sqrt(3.0));
    sum += got[j];
  }
  for (Index j = 0; j < 3; ++j) {
    REQUIRE(std::abs(got[j] / sum - expected[j] / expected_sum) < 0.02);
  }
}

TEMPLATE_TEST_CASE("Random features are exponentials of products, by hand",
                   "[attention][feature_maps]", float, double) {
  using Real = TestType;
  const double eps = 8 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  // ω = 1, -2 in one dimension: of x, e^(x - x²/2 - c) and e^(-2x - x²/2 - c) over √2.
  const Real omega[] = {1, -2}, x[] = {0.5, -1};
  const detail::RandomFeatures<Real> features{{omega, 2, 1, 1}, 1};
  const MatrixView<const Real> rows{x, 2, 1, 1};
  Real phi[4], c = 0, decay[2];
  const MatrixView<Real> to{phi, 2, 2, 2};
  const auto is = [&](double p00, double p01, double p10, double p11) {
    const double p[] = {p00, p01, p10, p11};
    for (int i = 0; i < 4; ++i) {
      const double expected = std::exp(p[i] - (i < 2 ? 0.125 : 0.5)) / std::sqrt(2.0);
      REQUIRE(std::abs(static_cast<double>(phi[i]) - expected) <= eps * expected);
    }
  };
  features.queries(rows, to);  // c: 0.5 and 2
  is(0, -1.5, -3, 0);
  features.keys(rows, &c, decay, to);  // c: 0.5, then 2
  is(0, -1.5, -3, 0);
  REQUIRE(c == 2);
  REQUIRE(std::abs(static_cast<double>(decay[0]) - std::exp(-0.5)) <= eps);
  REQUIRE(std::abs(static_cast<double>(decay[1]) - std::exp(-1.5)) <= eps);
  c = 3;  // of rows before these
  features.keys(rows, &c, decay, to);
  is(-2.5, -4, -4, -1);
  REQUIRE(decay[0] == 1);
  REQUIRE(decay[1] == 1);
  c = 0;
  features.keys(rows, &c, to);  // one c for all: 2
  is(-1.5, -3, -3, 0);
  REQUIRE(c == 2);
}

TEST_CASE("Random features are positive, and their products the exponential kernel",
          "[attention][feature_maps]") {
  constexpr Index H = 2, d = 5, r = 4095;  // neither fills a vector
  Random random(8);
  Tensor<double, r, d> omega;
  draw_orthogonal_features(omega, random);
  const detail::RandomFeatures<double> features{omega.matrix(), H};
  auto q = noise<double>(3 * H * d, 9), k = noise<double>(4 * H * d, 10);
  for (double& v : q) v *= 0.4;
  for (double& v : k) v *= 0.4;
  std::vector<double> phi_q(3 * H * r), phi_k(4 * H * r), no_c(H), p(3 * H * r);
  const MatrixView<const double> q_rows{q.data(), 3, H * d, H * d},
      k_rows{k.data(), 4, H * d, H * d};
  features.queries(q_rows, {phi_q.data(), 3, H * r, H * r});
  features.keys(k_rows, no_c.data(), {phi_k.data(), 4, H * r, H * r});
  features.project(q_rows, {p.data(), 3, H * r, H * r});
  for (const double v : phi_q) REQUIRE(v > 0);
  for (const double v : phi_k) REQUIRE(v > 0);
  for (Index i = 0; i < 3; ++i) {
    for (Index h = 0; h < H; ++h) {
      const auto first = p.begin() + (i * H + h) * r;
      const double c = no_c[at(h)] + *std::max_element(first, first + r);
      for (Index j = 0; j < 4; ++j) {
        double dot = 0, got = 0;
        for (Index n = 0; n < d; ++n)
          dot += q[at((i * H + h) * d + n)] * k[at((j * H + h) * d + n)];
        for (Index n = 0; n < r; ++n) {
          got += phi_q[at((i * H + h) * r + n)] * phi_k[at((j * H + h) * r + n)];
        }
        const double kernel = std::exp(dot / std::sqrt(double{d}));
        REQUIRE(std::abs(got * std::exp(c) / kernel - 1) < 0.06);
      }
    }
  }
}

TEMPLATE_TEST_CASE_SIG("Random features have the slopes that backward says, c being constant",
                       "[attention][feature_maps]", ((Index H, Index d, Index r), H, d, r),
                       (1, 1, 1), (2, 3, 5), (3, 8, 17)) {
  constexpr Index T = 3;
  const auto omega = noise<double>(r * d, 11), dphi = noise<double>(T * H * r, 12);
  auto x = noise<double>(T * H * d, 13);
  const detail::RandomFeatures<double> features{{omega.data(), r, d, d}, H};
  std::vector<double> phi(dphi.size()), a = dphi, dx(x.size(), 99.0);  // written
  const MatrixView<const double> rows{x.data(), T, H * d, H * d};
  const auto loss = [&] {
    std::vector<double> c(at(H), 50.0);  // above all there is: it stays
    features.keys(rows, c.data(), {phi.data(), T, H * r, H * r});
    REQUIRE(c[0] == 50);
    double sum = 0;
    for (std::size_t i = 0; i < phi.size(); ++i) sum += phi[i] * dphi[i];
    return sum * std::exp(50.0);
  };
  loss();
  features.backward(rows, {phi.data(), T, H * r, H * r}, {a.data(), T, H * r, H * r},
                    {dx.data(), T, H * d, H * d});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double value = x[i], h = 1e-6;
    x[i] = value + h;
    const double above = loss();
    x[i] = value - h;
    const double below = loss();
    x[i] = value;
    const double slope = dx[i] * std::exp(50.0);
    REQUIRE(std::abs((above - below) / (2 * h) - slope) < 1e-6 * (1 + std::abs(slope)));
  }
}

TEST_CASE("A key that is not a number spoils neither the others nor what is the largest",
          "[attention][feature_maps]") {
  const auto omega = noise<float>(3 * 2, 14);
  const detail::RandomFeatures<float> features{{omega.data(), 3, 2, 2}, 1};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float x[] = {0.5F, 1, nan, 1, -1, 0.25F};
  float phi[9], decay[3], c = 0;
  features.keys({x, 3, 2, 2}, &c, decay, {phi, 3, 3, 3});
  REQUIRE(std::isfinite(c));
  for (Index i = 0; i < 9; ++i) REQUIRE(std::isnan(phi[i]) == (i / 3 == 1));
  for (const float v : decay) REQUIRE(std::isfinite(v));
  features.queries({x, 3, 2, 2}, {phi, 3, 3, 3});
  for (Index i = 0; i < 9; ++i) REQUIRE(std::isnan(phi[i]) == (i / 3 == 1));
}

TEMPLATE_TEST_CASE("Columns become probabilities, also of numbers far apart",
                   "[attention][feature_maps]", float, double) {
  using Real = TestType;
  const double eps = 16 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  for (Index n = 1; n < 2 * simd::lanes<Real> + 2; ++n) {
    constexpr Index T = 3;
    std::vector<Real> x(at(T * (n + 1)), Real(5));  // views into something wider
    for (Index c = 0; c < n; ++c) {
      x[at(c)] = static_cast<Real>(std::log(1.0 + static_cast<double>(c)));
      x[at(n + 1 + c)] = 0;
      x[at(2 * (n + 1) + c)] = Real(c % 2 == 0 ? -10000 : 0);
    }
    detail::softmax_columns<Real>({x.data(), T, n, n + 1});
    for (Index c = 0; c < n; ++c) {
      const double sum = 2.0 + static_cast<double>(c) + (c % 2 == 0 ? 0 : 1);
      REQUIRE(std::abs(static_cast<double>(x[at(c)]) - (1.0 + static_cast<double>(c)) / sum) < eps);
      REQUIRE(std::abs(static_cast<double>(x[at(n + 1 + c)]) - 1 / sum) < eps);
    }
    REQUIRE(x[at(n)] == 5);
  }
  Real one[] = {Real(-3e4), Real(3e4)};
  detail::softmax_columns<Real>({one, 1, 2, 2});  // alone in its column
  REQUIRE(one[0] == 1);
  REQUIRE(one[1] == 1);
  detail::softmax_columns<Real>({nullptr, 0, 2, 2});
}

TEST_CASE("A softmax of columns has the slopes that backward says", "[attention][feature_maps]") {
  constexpr Index T = 4, n = 19;
  auto x = noise<double>(T * n, 15);
  const auto dy = noise<double>(T * n, 16);
  const auto softmax_of_x = [&] {
    auto p = x;
    detail::softmax_columns<double>({p.data(), T, n, n});
    return p;
  };
  const auto p = softmax_of_x();
  auto dx = dy;
  detail::softmax_columns_backward<double>({p.data(), T, n, n}, {dx.data(), T, n, n});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto loss = [&](double by) {
      x[i] += by;
      const auto y = softmax_of_x();
      x[i] -= by;
      double sum = 0;
      for (std::size_t j = 0; j < y.size(); ++j) sum += y[j] * dy[j];
      return sum;
    };
    REQUIRE(std::abs((loss(1e-6) - loss(-1e-6)) / 2e-6 - dx[i]) < 1e-8);
  }
}
