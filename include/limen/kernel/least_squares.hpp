#pragma once
/// @file  The W of least length among those that minimize ‖A W - Y‖.
///
///   A = U Σ Vᵀ,  W = V Σ⁺ Uᵀ Y             A [M x N], Y [M x P], W [N x P]
///
/// By one-sided Jacobi rotations: columns of A are turned until they are orthogonal. Accurate where
/// A has dependent or too few rows, as the normal equations are not. Singular values below
/// ε max(M, N) of the largest count as 0. For small N: a sweep takes M N² operations.
///
/// Golub & Van Loan, "Matrix computations", sections 5.5 and 8.6.3.

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// x, y = cos x - sin y, sin x + cos y
inline void turn_pair(double* x, double* y, Index n, double cos, double sin) {
  for (Index i = 0; i < n; ++i) {
    const double a = x[i], b = y[i];
    x[i] = cos * a - sin * b;
    y[i] = sin * a + cos * b;
  }
}

inline double dot_in_double(const double* x, const double* y, Index n) {
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

/// Turns the rows of u [N x M] until they are orthogonal; v [N x N] is turned with them.
inline void orthogonalize(MatrixView<double> u, MatrixView<double> v) {
  constexpr double enough = 1e-15;
  bool turned = true;
  for (int sweep = 0; turned && sweep < 60; ++sweep) {
    turned = false;
    for (Index p = 0; p < u.rows; ++p) {
      for (Index q = p + 1; q < u.rows; ++q) {
        const double pp = dot_in_double(u.row(p), u.row(p), u.cols),
                     qq = dot_in_double(u.row(q), u.row(q), u.cols);
        const double pq = dot_in_double(u.row(p), u.row(q), u.cols);
        if (!(std::abs(pq) > enough * std::sqrt(pp * qq))) continue;
        const double tau = (qq - pp) / (2 * pq);
        const double tan = std::copysign(1 / (std::abs(tau) + std::sqrt(1 + tau * tau)), tau);
        const double cos = 1 / std::sqrt(1 + tan * tan), sin = cos * tan;
        turn_pair(u.row(p), u.row(q), u.cols, cos, sin);
        turn_pair(v.row(p), v.row(q), v.cols, cos, sin);
        turned = true;
      }
    }
  }
}

}  // namespace detail

inline void least_squares(MatrixView<const double> a, MatrixView<const double> y,
                          MatrixView<double> w) {
  const Index m = a.rows, n = a.cols;
  Buffer<double> turned(n * m), turns(n * n), lengths(n);
  const MatrixView<double> u{turned.data(), n, m, m}, v{turns.data(), n, n, n};  // transposed
  for (Index i = 0; i < n; ++i) {
    for (Index t = 0; t < m; ++t) u(i, t) = a(t, i);
    for (Index j = 0; j < n; ++j) v(i, j) = i == j ? 1 : 0;
  }
  detail::orthogonalize(u, v);
  double most = 0;
  for (Index i = 0; i < n; ++i) {
    lengths[i] = std::sqrt(detail::dot_in_double(u.row(i), u.row(i), m));
    most = std::max(most, lengths[i]);
  }
  const double least =
      most * static_cast<double>(std::max(m, n)) * std::numeric_limits<double>::epsilon();
  for (Index p = 0; p < w.cols; ++p) {
    for (Index i = 0; i < n; ++i) w(i, p) = 0;
    for (Index i = 0; i < n; ++i) {
      if (!(lengths[i] > least)) continue;
      double along = 0;
      for (Index t = 0; t < m; ++t) along += u(i, t) * y(t, p);
      along /= lengths[i] * lengths[i];
      for (Index j = 0; j < n; ++j) w(j, p) += along * v(i, j);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
