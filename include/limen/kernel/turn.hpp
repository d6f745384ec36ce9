#pragma once
/// @file  A matrix turned: rows become columns.
///
///   turn(x, y)         y  = xᵀ      x [M x N], y [N x M or wider], zeros where x has no row
///   add_turned(x, y)   y += xᵀ      y [N x M]
///
/// In squares of lanes x lanes, so that both sides are read and written in whole vectors.

#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// f(i, j, rows, columns, square) for each square of x: lane k of square[c] is x(i + k, j + c),
/// zero behind the edges.
template <class Real, class F>
LIMEN_INLINE void for_each_turned(MatrixView<const Real> x, Index width, F&& f) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  for (Index i = 0; i < width; i += lanes) {
    const Index rows = x.rows - i < lanes ? x.rows - i : lanes;  // may be less than 1
    for (Index j = 0; j < x.cols; j += lanes) {
      const Index columns = x.cols - j < lanes ? x.cols - j : lanes;
      V square[lanes];
      if (rows == lanes && columns == lanes) {
        LIMEN_UNROLL for (Index k = 0; k < lanes; ++k) square[k] = simd::load<V>(x.row(i + k) + j);
      } else {
        for (Index k = 0; k < lanes; ++k) {
          square[k] = k < rows ? simd::load<V>(x.row(i + k) + j, columns) : V(Real(0));
        }
      }
      simd::transpose(square);
      f(i, j, width - i < lanes ? width - i : lanes, columns, square);
    }
  }
}

}  // namespace detail

template <class Real>
void turn(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) noexcept {
  detail::for_each_turned<Real>(
      x, y.cols, [&](Index i, Index j, Index rows, Index columns, const auto& square) {
        for (Index c = 0; c < columns; ++c) simd::store(y.row(j + c) + i, square[c], rows);
      });
}

template <class Real>
void add_turned(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  detail::for_each_turned<Real>(
      x, y.cols, [&](Index i, Index j, Index rows, Index columns, const auto& square) {
        for (Index c = 0; c < columns; ++c) {
          Real* const to = y.row(j + c) + i;
          simd::store(to, simd::load<V>(to, rows) + square[c], rows);
        }
      });
}

}  // namespace limen::inline LIMEN_ABI
