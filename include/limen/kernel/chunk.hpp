#pragma once
/// @file  What the chunked forms of matrix-state recurrences are made of, besides their products
/// (kernel/chunk_product.hpp): rows that are moved and scaled, and decays.
///
///   transpose         to[c][r] = x(r, c)
///   decay_matrix      Γ(i, j) = a_{j+1} a_{j+2} ... a_i for j <= i, else 0
///
/// Decays are products of numbers in [0, 1], never quotients, nor e to the power of a difference of
/// sums: nothing overflows, nothing cancels, a decay of 0 is a decay like any other, and there is
/// no exponential left in the chunk.

#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI::chunk {

template <class Real>
using View = MatrixView<const Real>;

/// n, rounded up to whole vectors.
template <class Real>
constexpr Index whole(Index n) {
  return (n + simd::lanes<Real> - 1) / simd::lanes<Real> * simd::lanes<Real>;
}

/// to[c][r] = x(r, c); rows of `to` are `stride` apart and get zeros up to a whole vector.
template <class Real>
void transpose(MatrixView<const Real> x, Real* to, Index stride) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  for (Index r = 0; r < x.rows; r += width) {
    for (Index c = 0; c < x.cols; c += width) {
      const Index rows = x.rows - r, columns = x.cols - c;
      V block[width];
      if (rows >= width && columns >= width) {
        LIMEN_UNROLL for (Index i = 0; i < width; ++i) block[i] = simd::load<V>(x.row(r + i) + c);
      } else {
        for (Index i = 0; i < width; ++i) {
          block[i] = i < rows ? simd::load<V>(x.row(r + i) + c, columns) : V(Real(0));
        }
      }
      simd::transpose(block);
      if (columns >= width) {
        LIMEN_UNROLL for (Index i = 0; i < width; ++i) {
          simd::store(to + (c + i) * stride + r, block[i]);
        }
      } else {
        for (Index i = 0; i < columns; ++i) simd::store(to + (c + i) * stride + r, block[i]);
      }
    }
  }
}

/// to(r, :) = s_r x(r, :), or without s a copy.
template <class Real>
void scale_rows(MatrixView<const Real> x, const Real* s, MatrixView<Real> to) noexcept {
  using V = simd::Vec<Real>;
  for (Index r = 0; r < x.rows; ++r) {
    const Real* from = x.row(r);
    Real* out = to.row(r);
    const V factor(s != nullptr ? s[r] : Real(1));
    simd::for_each<Real>(
        x.cols, [&](Index i, auto load, auto store) { store(out + i, load(from + i) * factor); });
  }
}

/// to = x, row by row.
template <class Real>
void copy(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> to) noexcept {
  scale_rows<Real>(x, nullptr, to);
}

/// y = a b, elementwise.
template <class Real>
void multiply_elements(MatrixView<const Real> a, MatrixView<const Real> b,
                       MatrixView<Real> y) noexcept {
  for (Index r = 0; r < y.rows; ++r) {
    const Real *ar = a.row(r), *br = b.row(r);
    Real* to = y.row(r);
    simd::for_each<Real>(y.cols, [&](Index i, auto load, auto store) {
      store(to + i, load(ar + i) * load(br + i));
    });
  }
}

/// Σ a b over n numbers.
template <class Real>
Real dot(const Real* a, const Real* b, Index n) noexcept {
  using V = simd::Vec<Real>;
  V sum[2] = {V(Real(0)), V(Real(0))};
  Index i = 0;
  for (; i + 2 * simd::lanes<Real> <= n; i += 2 * simd::lanes<Real>) {
    LIMEN_UNROLL for (int c = 0; c < 2; ++c) {
      const Index at = i + c * simd::lanes<Real>;
      sum[c] = simd::fma(simd::load<V>(a + at), simd::load<V>(b + at), sum[c]);
    }
  }
  for (; i < n; i += simd::lanes<Real>) {
    sum[0] = simd::fma(simd::load<V>(a + i, n - i), simd::load<V>(b + i, n - i), sum[0]);
  }
  return simd::reduce_add(sum[0] + sum[1]);
}

/// Γ [n x whole(n)] of the decays a [n]; zeros above the diagonal and behind it.
template <class Real>
void decay_matrix(const Real* a, Index n, Real* gamma, Index stride) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  alignas(64) Real unit[2 * width] = {};
  unit[width] = 1;
  for (Index j = 0; j < n; j += width) {
    V g(Real(0));
    for (Index i = 0; i < j; ++i) simd::store(gamma + i * stride + j, g);
    const Index diagonal = n < j + width ? n : j + width;
    for (Index i = j; i < diagonal; ++i) {  // a one enters in lane i - j
      g = simd::fma(g, V(a[i]), simd::load<V>(unit + width - (i - j)));
      simd::store(gamma + i * stride + j, g);
    }
    for (Index i = diagonal; i < n; ++i) {
      g = g * V(a[i]);
      simd::store(gamma + i * stride + j, g);
    }
  }
}

/// to[i] = a_0 a_1 ... a_i
template <class Real>
void running_product(const Real* a, Index n, Real* to) noexcept {
  Real product = 1;
  for (Index i = 0; i < n; ++i) to[i] = product *= a[i];
}

}  // namespace limen::inline LIMEN_ABI::chunk
