#pragma once
/// @file  Units that leak: one row of a leaky recurrent network, forward and back.
///
///   s = u + q         u: the input's share of the drive, q = W h + b: the recurrent one
///   inside   h ← φ(h + k ⊙ (s - h))        k = 1 / τ
///   outside  h ← h + k ⊙ (φ(s) - h)
///   none     h ← φ(s)
///
/// Rows are arrays of H numbers.

#include <cstring>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/gemm.hpp>

namespace limen::inline LIMEN_ABI {

/// Where the leak stands.
enum class Leak {
  none,    ///< no leak: a plain recurrent network
  inside,  ///< φ of the leaky sum
  outside  ///< leaky sum of φ
};

/// One step of one sequence. h moves on and is written to y. With Keep, s is left in `u` and
/// h_{t-1} in `before`. `k` is not read without a leak.
template <Leak L, Activation A, bool Keep, class Real>
void leaky_units(Index H, const Real* k, std::conditional_t<Keep, Real, const Real>* u,
                 const Real* q, Real* h, Real* y, [[maybe_unused]] Real* before) noexcept {
  simd::for_each<Real>(H, [&](Index j, auto load, auto store) {
    const auto s = load(u + j) + load(q + j), old = load(h + j);
    auto now = s;
    if constexpr (L == Leak::inside) {
      now = activate<A>(simd::fma(load(k + j), s - old, old));
    } else if constexpr (L == Leak::outside) {
      now = simd::fma(load(k + j), activate<A>(s) - old, old);
    } else {
      now = activate<A>(s);
    }
    if constexpr (Keep) {
      store(u + j, s);
      store(before + j, old);
    }
    store(h + j, now);
    store(y + j, now);
  });
}

/// One row back. `d` comes in as what reaches h_t from later steps and goes out as what reaches
/// h_{t-1} past W: with λ = dy + d,
///   inside   dp = λ φ'(p),  ds = k dp,      dk = dp (s - h_{t-1}),    d = (1 - k) dp
///   outside                 ds = k λ φ'(s), dk = λ (φ(s) - h_{t-1}),  d = (1 - k) λ
///   none                    ds = λ φ'(s),                             d = 0
/// ds is written twice: among the rows of the batch and, for the product, side by side.
template <Leak L, Activation A, class Real>
void leaky_units_backward(Index H, const Real* k, const Real* s, const Real* before, const Real* dy,
                          Real* d, Real* ds, Real* ds_beside, [[maybe_unused]] Real* dk) noexcept {
  using V = simd::Vec<Real>;
  simd::for_each<Real>(H, [&](Index j, auto load, auto store) {
    const V lambda = load(dy + j) + load(d + j), sum = load(s + j);
    V dsum, past(Real(0));
    if constexpr (L == Leak::inside) {
      const V leak = load(k + j), old = load(before + j), gap = sum - old;
      const V dp = lambda * activation_derivative<A>(simd::fma(leak, gap, old));
      dsum = dp * leak;
      past = dp - dsum;
      store(dk + j, dp * gap);
    } else if constexpr (L == Leak::outside) {
      const V kept = lambda * load(k + j);
      dsum = kept * activation_derivative<A>(sum);
      past = lambda - kept;
      store(dk + j, lambda * (activate<A>(sum) - load(before + j)));
    } else {
      dsum = lambda * activation_derivative<A>(sum);
    }
    store(d + j, past);
    store(ds + j, dsum);
    store(ds_beside + j, dsum);
  });
}

/// A copy of the square matrix w with nothing on its diagonal.
template <class Real>
void copy_without_diagonal(MatrixView<const Real> w, MatrixView<Real> to) noexcept {
  for (Index r = 0; r < w.rows; ++r) {
    std::memcpy(to.row(r), w.row(r), static_cast<std::size_t>(w.cols) * sizeof(Real));
    to(r, r) = Real(0);
  }
}

/// y += (w - diag w) h, of one vector. Allocates nothing.
template <class Real>
void add_product_without_diagonal(MatrixView<const Real> w, const Real* h, Real* y) noexcept {
  constexpr Index block = 16;
  const Index H = w.rows;
  for (Index r = 0; r < H; r += block) {
    const Index rows = H - r < block ? H - r : block, right = r + rows;
    const MatrixView<const Real> part = w.middle_rows(r, rows);
    const MatrixView<Real> to{y + r, 1, rows, rows};
    const auto add = [&](Index first, Index count) {
      if (count == 0) return;
      product_nt<Real>({h + first, 1, count, count}, part.middle_cols(first, count), to,
                       {.accumulate = true});
    };
    add(0, r);
    add(right, H - right);
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < rows; ++j) {
        if (i != j) y[r + i] += w(r + i, r + j) * h[r + j];
      }
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
