#pragma once
/// @file  Triangular systems of a chunk: eight rows at a time, what comes before them as a product.
///
///   solve_unit_lower             x = (I - M)^-1 x        M strictly lower
///   solve_unit_lower_transposed  x = (I - Mᵀ)^-1 x

#include <limen/kernel/chunk_product.hpp>

namespace limen::inline LIMEN_ABI::chunk {

namespace detail {

/// Rows 0..Rows of x, each less what the others of the block bring. m(i, j) = -A(i, j), j < i, or
/// with `Turned` -A(j, i), j > i.
template <class Real, int Rows, bool Turned>
LIMEN_NOINLINE void solve_block(const Real* m, Index stride, Real* x, Index x_row,
                                Index columns) noexcept {
  simd::for_each<Real>(columns, [&](Index c, auto load, auto store) {
    simd::Vec<Real> v[Rows];
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) v[i] = load(x + i * x_row + c);
    LIMEN_UNROLL for (int n = 1; n < Rows; ++n) {
      const int i = Turned ? Rows - 1 - n : n;
      LIMEN_UNROLL for (int k = 0; k < n; ++k) {
        const int j = Turned ? Rows - 1 - k : k;
        const Real factor = Turned ? m[j * stride + i] : m[i * stride + j];
        v[i] = simd::fma(simd::Vec<Real>(factor), v[j], v[i]);
      }
    }
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) store(x + i * x_row + c, v[i]);
  });
}

}  // namespace detail

/// x = (I - M)^-1 x for strictly lower M [n x n], zeros on and above its diagonal; x [n x V].
template <class Real>
void solve_unit_lower(const Real* m, Index stride, MatrixView<Real> x) noexcept {
  constexpr Index block = 8;
  for (Index i = 0, rows; i < x.rows; i += rows) {
    rows = x.rows - i >= block ? block : 1;
    if (i > 0) {
      multiply<Real>(Part::all, {m + i * stride, stride, 1}, x.middle_rows(0, i), add<Real>,
                     x.middle_rows(i, rows));
    }
    if (rows == block) {
      detail::solve_block<Real, block, false>(m + i * stride + i, stride, x.row(i), x.stride,
                                              x.cols);
    }
  }
}

/// x = (I - Mᵀ)^-1 x
template <class Real>
void solve_unit_lower_transposed(const Real* m, Index stride, MatrixView<Real> x) noexcept {
  constexpr Index block = 8;
  for (Index end = x.rows, rows; end > 0; end -= rows) {
    rows = end >= block ? block : 1;
    const Index i = end - rows;
    if (end < x.rows) {
      multiply<Real>(Part::all, {m + end * stride + i, 1, stride}, x.middle_rows(end, x.rows - end),
                     add<Real>, x.middle_rows(i, rows));
    }
    if (rows == block) {
      detail::solve_block<Real, block, true>(m + i * stride + i, stride, x.row(i), x.stride,
                                             x.cols);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI::chunk
