#pragma once
/// @file  A few rows against weights that are not packed:  y = a(x wᵀ + b),  w [N x K].
///
/// Sums run along k, lane by lane, and are folded at the end. Every group of rows of w is read
/// once, from memory to the last row of x. The bits of a result do not depend on how many rows x
/// has.

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

/// Rows m.. of x by rows n0..n1 of w, so many at once. A group that is not full repeats its first.
template <class Real, int Rows, int Outputs>
LIMEN_NOINLINE void dots(MatrixView<const Real> x, Index m, MatrixView<const Real> w, Index n0,
                         Index n1, MatrixView<Real> y, const Epilogue<Real>& out) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr Index together = Outputs < lanes ? Outputs : lanes;
  const Real* left[Rows];
  LIMEN_UNROLL for (int i = 0; i < Rows; ++i) left[i] = x.row(m + i);
  const Index depth = w.cols, rest = depth % lanes, whole = depth - rest;
  const Real* const bias = out.bias;
  const bool accumulate = out.accumulate;

  for (Index n = n0; n < n1; n += Outputs) {
    const Index columns = n1 - n;
    const Real* right[Outputs];
    LIMEN_UNROLL for (int j = 0; j < Outputs; ++j) right[j] = w.row(j < columns ? n + j : n);
    V sum[Rows][Outputs];
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      LIMEN_UNROLL for (int j = 0; j < Outputs; ++j) sum[i][j] = V(Real(0));
    }
    const auto advance = [&](Index k, auto load) __attribute__((always_inline)) {
      V a[Rows];
      LIMEN_UNROLL for (int i = 0; i < Rows; ++i) a[i] = load(left[i] + k);
      LIMEN_UNROLL for (int j = 0; j < Outputs; ++j) {
        const V b = load(right[j] + k);
        LIMEN_UNROLL for (int i = 0; i < Rows; ++i) sum[i][j] = simd::fma(a[i], b, sum[i][j]);
      }
    };
    for (Index k = 0; k < whole; k += lanes) {
      advance(k, [](const Real* p) __attribute__((always_inline)) { return simd::load<V>(p); });
    }
    if (rest > 0) {
      advance(whole, [rest](const Real* p)
                         __attribute__((always_inline)) { return simd::load<V>(p, rest); });
    }
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      Real* const to = y.row(m + i) + n;
      LIMEN_UNROLL for (Index j = 0; j < Outputs; j += together) {
        const Index count = columns - j < together ? columns - j : together;
        if (count <= 0) break;
        V v = simd::reduce_add_each<together>(sum[i] + j);
        if (bias != nullptr) v = v + simd::load<V>(bias + n + j, count);
        if (accumulate) v = simd::load<V>(to + j, count) + v;
        simd::store(to + j, v, count);
      }
    }
  }
}

/// The whole product. Every group of rows of w is read once, for all rows of x.
template <class Real>
void multiply_unpacked(MatrixView<const Real> x, MatrixView<const Real> w, MatrixView<Real> y,
                       const Epilogue<Real>& out) noexcept {
  constexpr int tallest = simd::lanes<Real> * static_cast<Index>(sizeof(Real)) == 64 ? 4 : 2;
  if (x.rows == 1) {
    dots<Real, 1, 8>(x, 0, w, 0, w.rows, y, out);
  } else {
    // A group of rows of w that stays in the first-level cache while rows of x pass.
    const Index group = w.cols > 512 ? 4 : w.cols > 64 ? 16 : 64;
    for (Index n = 0; n < w.rows; n += group) {
      const Index end = n + group < w.rows ? n + group : w.rows;
      Index m = 0;
      for (; m + tallest <= x.rows; m += tallest) dots<Real, tallest, 4>(x, m, w, n, end, y, out);
      if constexpr (tallest > 2) {
        for (; m + 2 <= x.rows; m += 2) dots<Real, 2, 4>(x, m, w, n, end, y, out);
      }
      if (m < x.rows) dots<Real, 1, 4>(x, m, w, n, end, y, out);
    }
  }
  activate_rows(out.activation, y);
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
