#pragma once
/// @file  Rows that are added, multiplied, copied and sorted into groups.
///
///   add_rows        y += x
///   multiply_rows   y ⊙= x
///   copy_rows       y = x
///   gather_rows     y_i = x_{from[i]}
///   scatter_rows    y_{to[i]} = x_i
///
/// x and y have one shape (gather and scatter: one width); rows may lie apart in memory.

#include <cstring>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// f(x, y, n) over pieces without gaps: all at once if the rows touch, else row by row.
template <class Real, class F>
LIMEN_INLINE void for_each_run(MatrixView<const Real> x, MatrixView<Real> y, F f) {
  if (x.stride == x.cols && y.stride == y.cols) {
    f(x.data, y.data, x.rows * x.cols);
  } else {
    for (Index t = 0; t < x.rows; ++t) f(x.row(t), y.row(t), x.cols);
  }
}

template <class Real>
void copy_run(const Real* x, Real* y, Index n) noexcept {
  if (n > 0) std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(Real));
}

}  // namespace detail

template <class Real>
void add_rows(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) noexcept {
  detail::for_each_run<Real>(x, y, [](const Real* a, Real* b, Index n) {
    simd::for_each<Real>(
        n, [&](Index i, auto load, auto store) { store(b + i, load(a + i) + load(b + i)); });
  });
}

template <class Real>
void multiply_rows(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) noexcept {
  detail::for_each_run<Real>(x, y, [](const Real* a, Real* b, Index n) {
    simd::for_each<Real>(
        n, [&](Index i, auto load, auto store) { store(b + i, load(a + i) * load(b + i)); });
  });
}

template <class Real>
void copy_rows(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) noexcept {
  detail::for_each_run<Real>(x, y, detail::copy_run<Real>);
}

template <class Real>
void gather_rows(std::type_identity_t<MatrixView<const Real>> x, const Index* from,
                 MatrixView<Real> y) noexcept {
  for (Index i = 0; i < y.rows; ++i) detail::copy_run(x.row(from[i]), y.row(i), y.cols);
}

template <class Real>
void scatter_rows(std::type_identity_t<MatrixView<const Real>> x, const Index* to,
                  MatrixView<Real> y) noexcept {
  for (Index i = 0; i < x.rows; ++i) detail::copy_run(x.row(i), y.row(to[i]), x.cols);
}

}  // namespace limen::inline LIMEN_ABI
