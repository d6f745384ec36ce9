#include <limen/train/initialize.hpp>
#include <limen/train/orthogonal.hpp>

#include <cmath>

#include "../catch.hpp"

using namespace limen;

namespace {

struct Moments {
  double mean = 0, variance = 0, most = 0;
};

template <class T>
Moments moments(const T& w) {
  Moments m;
  for (const auto x : w.flat()) m.mean += static_cast<double>(x) / T::size;
  for (const auto x : w.flat()) {
    m.variance += std::pow(static_cast<double>(x) - m.mean, 2) / T::size;
    m.most = std::max(m.most, std::abs(static_cast<double>(x)));
  }
  return m;
}

/// Variance within 3 %, mean within 0.02 deviations: four and more of their own deviations at this
/// size.
template <class T>
Moments has_variance(const T& w, double variance) {
  static_assert(T::size >= 40000);
  const Moments m = moments(w);
  REQUIRE(std::abs(m.variance / variance - 1) < 0.03);
  REQUIRE(std::abs(m.mean) < 0.02 * std::sqrt(variance));
  return m;
}

using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
Rows matrix_of(const T& w) {
  const auto m = w.matrix();
  Rows result(m.rows, m.cols);
  for (Index r = 0; r < m.rows; ++r) {
    for (Index c = 0; c < m.cols; ++c) result(r, c) = static_cast<double>(m(r, c));
  }
  return result;
}

}  // namespace

TEST_CASE("Kaiming and Xavier have the variance of their papers", "[train][initialize]") {
  Random random(1);
  Tensor<float, 100, 400> w;
  fill_kaiming_normal(w, random);
  REQUIRE(has_variance(w, 2.0 / 400).most > 3 * std::sqrt(2.0 / 400));  // tails
  fill_kaiming_uniform(w, random);
  REQUIRE(has_variance(w, 2.0 / 400).most <= std::sqrt(6.0 / 400));
  fill_kaiming_normal(w, random, 1);
  has_variance(w, 1.0 / 400);
  fill_xavier_normal(w, random);
  has_variance(w, 2.0 / 500);
  fill_xavier_uniform(w, random, 3);
  REQUIRE(has_variance(w, 9 * 2.0 / 500).most <= 3 * std::sqrt(6.0 / 500));

  Tensor<double, 80, 50, 3, 5> filters;  // F_in 750, F_out 1200
  fill_kaiming_normal(filters, random, 1);
  has_variance(filters, 1.0 / 750);
  fill_xavier_normal(filters, random);
  has_variance(filters, 2.0 / 1950);
}

TEST_CASE("A truncated normal stays within two deviations", "[train][initialize]") {
  Random random(2);
  Tensor<float, 50000> w;
  fill_truncated_normal(w, 0.5, random);
  const double kept = 0.7737413035499232;  // variance of a normal within ±2
  REQUIRE(has_variance(w, 0.25 * kept).most <= 1);
}

TEST_CASE("Orthogonal weights are orthogonal", "[train][initialize]") {
  Random random(3);
  const auto check = [&](auto w) {
    fill_orthogonal(w, random, 1.5);
    const Rows a = matrix_of(w);
    const Rows gram = a.rows() <= a.cols() ? Rows(a * a.transpose()) : Rows(a.transpose() * a);
    REQUIRE((gram - 2.25 * Rows::Identity(gram.rows(), gram.rows())).cwiseAbs().maxCoeff() < 1e-12);
  };
  check(Tensor<double, 5, 5>());
  check(Tensor<double, 4, 9>());
  check(Tensor<double, 9, 4>());
  check(Tensor<double, 3, 2, 4>());
  check(Tensor<double, 1, 1>());
  check(Tensor<double, 60, 50>());
}

TEST_CASE("All orthogonal matrices are equally likely", "[train][initialize]") {
  Random random(4);
  Tensor<double, 3, 3> w;
  double trace = 0, first = 0, determinant = 0;
  constexpr int draws = 4000;
  for (int i = 0; i < draws; ++i) {
    fill_orthogonal(w, random);
    const Rows a = matrix_of(w);
    trace += a.trace() / draws;
    first += a(0, 0) * a(0, 0) / draws;
    determinant += a.determinant() / draws;
  }
  REQUIRE(std::abs(trace) < 0.07);  // without the signs of R the diagonal leans to one side
  REQUIRE(std::abs(first - 1.0 / 3) < 0.03);
  REQUIRE(std::abs(determinant) < 0.07);
}

TEST_CASE("Low rank keeps the length and changes the rank only", "[train][initialize]") {
  const auto check = [](auto w, Index rank) {
    auto full = w;
    Random a(5), b(5);
    fill_low_rank(w, rank, a, 1.25);
    fill_normal(full, 1.25 / std::sqrt(static_cast<double>(w.shape[1])), b);  // the same draws
    const Rows x = matrix_of(w), y = matrix_of(full);
    REQUIRE(x.norm() == Approx(y.norm()).epsilon(1e-10));
    const auto singular = [](const Rows& m) {
      const Rows gram = m.rows() < m.cols() ? Rows(m * m.transpose()) : Rows(m.transpose() * m);
      return Eigen::VectorXd(
          Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(gram).eigenvalues().reverse());
    };
    const auto of_x = singular(x), of_y = singular(y);
    const double stretch = y.squaredNorm() / of_y.head(rank).sum();
    for (Index i = 0; i < of_x.size(); ++i) {
      REQUIRE(std::abs(of_x[i] - (i < rank ? stretch * of_y[i] : 0)) < 1e-10);
    }
    // Best: what was left out is orthogonal to what was kept.
    const Rows kept = x / std::sqrt(stretch);
    REQUIRE((kept.transpose() * (y - kept)).cwiseAbs().maxCoeff() < 1e-10);
  };
  check(Tensor<double, 6, 6>(), 1);
  check(Tensor<double, 6, 6>(), 6);
  check(Tensor<double, 9, 5>(), 2);
  check(Tensor<double, 5, 12>(), 3);
}

#if LIMEN_EXCEPTIONS
TEST_CASE("A rank that there is not leaves the weight alone", "[train][initialize]") {
  Random random(6);
  Tensor<float, 3, 5> w;
  fill(w, 1);
  const auto before = w;
  for (const Index rank : {Index{0}, Index{4}, Index{-1}}) {
    REQUIRE_THROWS_AS(fill_low_rank(w, rank, random), Exception);
    REQUIRE(w == before);
  }
}
#endif
