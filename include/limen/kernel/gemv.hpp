#pragma once
/// @file  A few rows against weights that are not packed:  y = a(x wᵀ + b),  w [N x K].
///
/// Sums run along k, lane by lane, and are folded at the end. Every group of rows of w is read once,
/// from memory to the last row of x. The bits of a result do not depend on how many rows x has.

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>

namespace limen::inline LIMEN_ABI {

/// What happens to a product on its way out: y = a(x wᵀ + bias), or a(y + x wᵀ + bias).
template <class Real>
struct Epilogue {
  const Real* bias = nullptr;  ///< [N], or null
  Activation activation = Activation::identity;
  bool accumulate = false;  ///< start from what y holds
};

namespace detail {

/// Activations run over what a product has just left, still in the cache.
template <class Real>
void activate_rows(Activation a, MatrixView<Real> y) noexcept {
  if (a == Activation::identity) return;
  for (Index m = 0; m < y.rows; ++m) activate(a, y.row(m), y.row(m), y.cols);
}

/// Rows m.. of x by `columns` <= Outputs rows n.. of w.
template <class Real, int Rows, int Outputs>
LIMEN_NOINLINE void dots(MatrixView<const Real> x, Index m, MatrixView<const Real> w, Index n,
                         MatrixView<Real> y, const Epilogue<Real>& out) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Index columns = w.rows - n < Outputs ? w.rows - n : Outputs;
  V sum[Rows][Outputs];
  LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
    LIMEN_UNROLL for (int j = 0; j < Outputs; ++j) sum[i][j] = V(Real(0));
  }
  const Real *left[Rows], *right[Outputs];
  LIMEN_UNROLL for (int i = 0; i < Rows; ++i) left[i] = x.row(m + i);
  LIMEN_UNROLL for (int j = 0; j < Outputs; ++j) right[j] = w.row(j < columns ? n + j : n);
  const auto advance = [&](Index k, auto load) __attribute__((always_inline)) {
    V a[Rows];
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) a[i] = load(left[i] + k);
    LIMEN_UNROLL for (int j = 0; j < Outputs; ++j) {
      const V b = load(right[j] + k);
      LIMEN_UNROLL for (int i = 0; i < Rows; ++i) sum[i][j] = simd::fma(a[i], b, sum[i][j]);
    }
  };
  Index k = 0;
  for (; k + lanes <= w.cols; k += lanes) {
    advance(k, [](const Real* p) __attribute__((always_inline)) { return simd::load<V>(p); });
  }
  if (k < w.cols) {
    const Index rest = w.cols - k;
    advance(k, [rest](const Real* p) __attribute__((always_inline)) {
      return simd::load<V>(p, rest);
    });
  }
  constexpr Index together = Outputs < lanes ? Outputs : lanes;
  LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
    Real* const to = y.row(m + i) + n;
    LIMEN_UNROLL for (Index j = 0; j < Outputs; j += together) {
      const Index count = columns - j < together ? columns - j : together;
      if (count <= 0) break;
      V v = simd::reduce_add_each<together>(sum[i] + j);
      if (out.bias != nullptr) v = v + simd::load<V>(out.bias + n + j, count);
      if (out.accumulate) v = simd::load<V>(to + j, count) + v;
      simd::store(to + j, v, count);
    }
  }
}

/// The whole product.
template <class Real>
void multiply_unpacked(MatrixView<const Real> x, MatrixView<const Real> w, MatrixView<Real> y,
                       const Epilogue<Real>& out) noexcept {
  constexpr int tallest = simd::lanes<Real> * static_cast<Index>(sizeof(Real)) == 64 ? 4 : 2;
  if (x.rows == 1) {
    for (Index n = 0; n < w.rows; n += 8) dots<Real, 1, 8>(x, 0, w, n, y, out);
  } else {
    for (Index n = 0; n < w.rows; n += 4) {
      Index m = 0;
      for (; m + tallest <= x.rows; m += tallest) dots<Real, tallest, 4>(x, m, w, n, y, out);
      if constexpr (tallest > 2) {
        for (; m + 2 <= x.rows; m += 2) dots<Real, 2, 4>(x, m, w, n, y, out);
      }
      if (m < x.rows) dots<Real, 1, 4>(x, m, w, n, y, out);
    }
  }
  activate_rows(out.activation, y);
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
