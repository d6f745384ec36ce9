#pragma once
/// @file  One row times a matrix with one row per input: nothing is packed or allocated.

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// y = b + x w        x [K], w [K x N], b [N] or null, y [N], which is not x
template <class Real>
LIMEN_NOINLINE void row_product(const Real* x, MatrixView<const Real> w, const Real* bias,
                                Real* y) noexcept {
  using V = simd::Vec<Real>;
  simd::for_each<Real>(w.cols, [&](Index c, auto load, auto store) {
    V sum[4] = {bias != nullptr ? load(bias + c) : V(Real(0)), V(Real(0)), V(Real(0)), V(Real(0))};
    Index i = 0;
    for (; i + 4 <= w.rows; i += 4) {
      LIMEN_UNROLL for (Index k = 0; k < 4; ++k) {
        sum[k] = simd::fma(V(x[i + k]), load(w.row(i + k) + c), sum[k]);
      }
    }
    for (; i < w.rows; ++i) sum[0] = simd::fma(V(x[i]), load(w.row(i) + c), sum[0]);
    store(y + c, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  });
}

}  // namespace limen::inline LIMEN_ABI
