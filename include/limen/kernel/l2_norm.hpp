#pragma once
/// @file  Rows of heads brought to length one, as keys of a delta rule must be.
///
///   y = x s,  s = 1 / sqrt(Σ x² + eps)        for each head of a row

#include <cmath>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/chunk.hpp>

namespace limen::inline LIMEN_ABI {

/// Heads of `width` columns.  `s` [T][heads] is kept for backward, or null.  y may be x.
template <class Real>
void l2_norm(std::type_identity_t<MatrixView<const Real>> x, Index width, double eps,
             MatrixView<Real> y, std::type_identity_t<Real>* s = nullptr) noexcept {
  using V = simd::Vec<Real>;
  for (Index t = 0; t < x.rows; ++t) {
    for (Index c = 0; c < x.cols; c += width) {
      const Real* from = x.row(t) + c;
      Real* to = y.row(t) + c;
      const Real scale =
          Real(1) / std::sqrt(chunk::dot(from, from, width) + static_cast<Real>(eps));
      if (s != nullptr) *s++ = scale;
      simd::for_each<Real>(
          width, [&](Index i, auto load, auto store) { store(to + i, load(from + i) * V(scale)); });
    }
  }
}

/// dx = s (dy - y <y, dy>).  dx may be dy.
template <class Real>
void l2_norm_backward(std::type_identity_t<MatrixView<const Real>> dy,
                      std::type_identity_t<MatrixView<const Real>> y, Index width, const Real* s,
                      MatrixView<Real> dx) noexcept {
  using V = simd::Vec<Real>;
  for (Index t = 0; t < y.rows; ++t) {
    for (Index c = 0; c < y.cols; c += width) {
      const Real *dyt = dy.row(t) + c, *yt = y.row(t) + c;
      Real* to = dx.row(t) + c;
      const V scale(*s++), along(chunk::dot(yt, dyt, width));
      simd::for_each<Real>(width, [&](Index i, auto load, auto store) {
        store(to + i, scale * simd::fnma(along, load(yt + i), load(dyt + i)));
      });
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
