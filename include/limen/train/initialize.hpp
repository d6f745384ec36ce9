#pragma once
/// @file  Starting values for weights [O x I] (further dimensions count as part of I).
///
///   fill_kaiming_uniform, _normal   variance g² / I          He et al., arXiv:1502.01852
///   fill_xavier_uniform, _normal    variance g² 2 / (I + O)  Glorot & Bengio, AISTATS 2010
///   fill_truncated_normal           normal, redrawn beyond two deviations
///   fill_orthogonal                 W Wᵀ = g² 1 or Wᵀ W = g² 1, whichever is smaller
///                                                            Saxe et al., arXiv:1312.6120
///   fill_low_rank                   the best rank-r part of a normal matrix with variance g² / I,
///                                   at the same Frobenius norm: only the rank differs
///                                                            Liu et al., arXiv:2310.08513

#include <cmath>
#include <numbers>
#include <string>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/memory.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// How many inputs an output has, and how many outputs an input.
template <class T>
constexpr double fan_in = static_cast<double>(T::size / T::shape[0]);
template <class T>
constexpr double fan_out = static_cast<double>(T::size / T::shape[1]);

inline double dot(const double* a, const double* b, Index n) {
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// Makes the rows orthogonal to those before, with length 1. Twice is enough (Kahan): what the first
/// pass leaves of the others is rounding.
inline void gram_schmidt(double* a, Index rows, Index cols) {
  for (Index r = 0; r < rows; ++r) {
    double* x = a + r * cols;
    for (int pass = 0; pass < 2; ++pass) {
      for (Index q = 0; q < r; ++q) {
        const double* y = a + q * cols;
        const double overlap = dot(x, y, cols);
        for (Index i = 0; i < cols; ++i) x[i] -= overlap * y[i];
      }
    }
    const double length = std::sqrt(dot(x, x, cols));
    for (Index i = 0; i < cols; ++i) x[i] /= length;
  }
}

/// Turns pairs of rows of a [m x n] until all are orthogonal, and does the same to the rows of v
/// [m x m]. Then a = S V and v = Uᵀ, if they started as A and 1: the singular value decomposition
/// A = U S V (one-sided Jacobi).
inline void jacobi(double* a, double* v, Index m, Index n) {
  const auto turn = [](double* x, double* y, double c, double s, Index size) {
    for (Index i = 0; i < size; ++i) {
      const double old = x[i];
      x[i] = c * old - s * y[i];
      y[i] = s * old + c * y[i];
    }
  };
  for (int sweep = 0, turned = 1; sweep < 60 && turned != 0; ++sweep) {
    turned = 0;
    for (Index p = 0; p < m; ++p) {
      for (Index q = p + 1; q < m; ++q) {
        double *x = a + p * n, *y = a + q * n;
        const double xx = dot(x, x, n), yy = dot(y, y, n), xy = dot(x, y, n);
        if (std::abs(xy) <= 1e-14 * std::sqrt(xx * yy)) continue;
        turned = 1;
        const double z = (yy - xx) / (2 * xy);
        const double t = std::copysign(1 / (std::abs(z) + std::sqrt(1 + z * z)), z);
        const double c = 1 / std::sqrt(1 + t * t);
        turn(x, y, c, c * t, n);
        turn(v + p * m, v + q * m, c, c * t, m);
      }
    }
  }
}

}  // namespace detail

inline constexpr double relu_gain = std::numbers::sqrt2;

template <class Real, Index O, Index... I>
void fill_kaiming_uniform(Tensor<Real, O, I...>& w, Random& random, double gain = relu_gain) {
  fill_uniform(w, gain * std::sqrt(3 / detail::fan_in<Tensor<Real, O, I...>>), random);
}

template <class Real, Index O, Index... I>
void fill_kaiming_normal(Tensor<Real, O, I...>& w, Random& random, double gain = relu_gain) {
  fill_normal(w, gain / std::sqrt(detail::fan_in<Tensor<Real, O, I...>>), random);
}

template <class Real, Index O, Index I, Index... More>
void fill_xavier_uniform(Tensor<Real, O, I, More...>& w, Random& random, double gain = 1) {
  using W = Tensor<Real, O, I, More...>;
  fill_uniform(w, gain * std::sqrt(6 / (detail::fan_in<W> + detail::fan_out<W>)), random);
}

template <class Real, Index O, Index I, Index... More>
void fill_xavier_normal(Tensor<Real, O, I, More...>& w, Random& random, double gain = 1) {
  using W = Tensor<Real, O, I, More...>;
  fill_normal(w, gain * std::sqrt(2 / (detail::fan_in<W> + detail::fan_out<W>)), random);
}

/// `deviation` is the one before the cut; after it, 0.88 times as much.
template <class Real, Index... Dims>
void fill_truncated_normal(Tensor<Real, Dims...>& tensor, double deviation, Random& random) {
  for (Real& value : tensor.flat()) {
    double z = random.normal();
    while (std::abs(z) > 2) z = random.normal();
    value = static_cast<Real>(deviation * z);
  }
}

template <class Real, Index O, Index I, Index... More>
void fill_orthogonal(Tensor<Real, O, I, More...>& w, Random& random, double gain = 1) {
  constexpr Index cols = Tensor<Real, O, I, More...>::size / O;
  constexpr Index m = O < cols ? O : cols, n = O < cols ? cols : O;
  Buffer<double> a(m * n);
  for (double& x : a) x = random.normal();
  detail::gram_schmidt(a.data(), m, n);
  for (Index r = 0; r < O; ++r) {
    for (Index c = 0; c < cols; ++c) {
      w(r, c) = static_cast<Real>(gain * a[O < cols ? r * n + c : c * n + r]);
    }
  }
}

/// Leaves the weight alone and `fail`s if there is no such rank.
template <class Real, Index O, Index I>
void fill_low_rank(Tensor<Real, O, I>& w, Index rank, Random& random, double gain = 1) {
  if (rank < 1 || rank > (O < I ? O : I)) {
    fail({"fill_low_rank: rank", "1 to " + std::to_string(O < I ? O : I), std::to_string(rank)});
    return;
  }
  // Rows of `a` become orthogonal; A = Σ_p u_p a_p, and the r longest a_p are kept.
  Buffer<double> a(O * I), u(O * O), length(O);
  for (double& x : a) x = gain * random.normal() / std::sqrt(double{I});
  for (Index i = 0; i < O * O; ++i) u[i] = i % (O + 1) == 0 ? 1 : 0;
  detail::jacobi(a.data(), u.data(), O, I);
  double all = 0, kept = 0;
  for (Index p = 0; p < O; ++p) all += length[p] = detail::dot(&a[p * I], &a[p * I], I);
  fill(w, 0);
  Buffer<double> sum(O * I);
  for (double& x : sum) x = 0;
  for (Index r = 0; r < rank; ++r) {
    Index p = 0;
    for (Index q = 1; q < O; ++q) p = length[q] > length[p] ? q : p;
    kept += length[p];
    length[p] = -1;
    for (Index i = 0; i < O; ++i) {
      for (Index j = 0; j < I; ++j) sum[i * I + j] += u[p * O + i] * a[p * I + j];
    }
  }
  for (Index i = 0; i < O * I; ++i) w[i] = static_cast<Real>(sum[i] * std::sqrt(all / kept));
}

}  // namespace limen::inline LIMEN_ABI
