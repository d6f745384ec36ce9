#pragma once
/// @file  Starting values for weights [O x I] (further dimensions count as part of I) that need a
/// decomposition.
///
///   fill_orthogonal   W Wᵀ = g² 1 or Wᵀ W = g² 1, whichever is smaller; each such W is as likely
///                                                            Saxe et al., arXiv:1312.6120
///   fill_low_rank     the best rank-r part of a normal matrix with variance g² / I, at the same
///                     Frobenius norm: only the rank differs  Liu et al., arXiv:2310.08513
///
/// By Eigen, whose inline functions do not carry the instruction set in their names: in a program
/// that mixes -march, include this in one of the translation units. limen.hpp leaves it out.

#include <cmath>
#include <string>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/random.hpp>
#include <limen/core/tensor.hpp>

#include <Eigen/Eigenvalues>
#include <Eigen/QR>

namespace limen::inline LIMEN_ABI {

namespace detail {

// Templates, so that who does not call them does not compile Eigen.

template <class Number>
using Square = Eigen::Matrix<Number, Eigen::Dynamic, Eigen::Dynamic>;

template <class Number>
Square<Number> normal_matrix(Index rows, Index cols, Random& random) {
  Square<Number> a(rows, cols);
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < cols; ++c) a(r, c) = random.normal();
  }
  return a;
}

/// [m x n], m >= n, with orthonormal columns: Q of a normal matrix, and R's diagonal positive,
/// without which Q would not be uniform. Mezzadri, arXiv:math-ph/0609050.
template <class Number>
Square<Number> random_orthogonal(Index m, Index n, Random& random) {
  const Square<Number> a = normal_matrix<Number>(m, n, random);
  const Eigen::HouseholderQR<Square<Number>> qr(a);
  Square<Number> q = Square<Number>::Identity(m, n);
  q = qr.householderQ() * q;
  for (Index c = 0; c < n; ++c) {
    if (qr.matrixQR()(c, c) < 0) q.col(c) *= -1;
  }
  return q;
}

/// a -> its best approximation of rank r, stretched to the length of a: what lies in the directions
/// of the r largest singular values.
template <class Number>
void keep_rank(Square<Number>& a, Index r) {
  const bool wide = a.rows() < a.cols();
  const Square<Number> gram =
      wide ? Square<Number>(a * a.transpose()) : Square<Number>(a.transpose() * a);
  const Eigen::SelfAdjointEigenSolver<Square<Number>> solver(gram);  // ascending
  const Square<Number> u = solver.eigenvectors().rightCols(r);
  const Number length = a.norm();
  a = wide ? Square<Number>(u * (u.transpose() * a)) : Square<Number>((a * u) * u.transpose());
  a *= length / a.norm();
}

}  // namespace detail

template <class Real, Index O, Index I, Index... More>
void fill_orthogonal(Tensor<Real, O, I, More...>& w, Random& random, double gain = 1) {
  constexpr Index cols = Tensor<Real, O, I, More...>::size / O;
  constexpr bool wide = O < cols;
  const auto q = detail::random_orthogonal<double>(wide ? cols : O, wide ? O : cols, random);
  for (Index r = 0; r < O; ++r) {
    for (Index c = 0; c < cols; ++c) w(r, c) = static_cast<Real>(gain * (wide ? q(c, r) : q(r, c)));
  }
}

/// Leaves the weight alone and `fail`s if there is no such rank.
template <class Real, Index O, Index I>
void fill_low_rank(Tensor<Real, O, I>& w, Index rank, Random& random, double gain = 1) {
  if (rank < 1 || rank > (O < I ? O : I)) {
    fail({"fill_low_rank: rank", "1 to " + std::to_string(O < I ? O : I), std::to_string(rank)});
    return;
  }
  auto a = detail::normal_matrix<double>(O, I, random);
  detail::keep_rank(a, rank);
  const double scale = gain / std::sqrt(double{I});
  for (Index r = 0; r < O; ++r) {
    for (Index c = 0; c < I; ++c) w(r, c) = static_cast<Real>(scale * a(r, c));
  }
}

}  // namespace limen::inline LIMEN_ABI
