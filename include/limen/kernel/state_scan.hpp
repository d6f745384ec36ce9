#pragma once
/// @file  A matrix state, one row after the other: the form for steps and for few rows.
///
///   S_t = diag(a_t) S_{t-1} + k_t (d_t v_t)ᵀ        y_t = S_tᵀ q_t
///
///   S [N][P] of one head, q, k [N], v, y [P], d a number; a one number, or with `Keyed` [N].
///
/// A strip of four vectors of P goes down the rows of S once for two time steps: decay, write and
/// read in one pass, the outputs in registers.

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// Row t of each operand starts t times its stride behind `data`.
template <class Real>
struct StateScan {
  Index N, P;
  const Real* q;
  Index q_row;
  const Real* k;
  Index k_row;
  const Real* v;
  Index v_row;
  const Real* a;
  Index a_row;
  const Real* d;  ///< or null: 1
  Index d_row;
  Real scale;  ///< of q
  Real* state;
  Real* y;
  Index y_row;
};

namespace detail {

template <bool Keyed, int Rows, int Vectors, bool Ragged, class Real>
LIMEN_NOINLINE void scan_strip(const StateScan<Real>& s, Index t, Index p, Index n) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  const auto load = [n](const Real* from) __attribute__((always_inline)) {
    return Ragged ? simd::load<V>(from, n) : simd::load<V>(from);
  };
  V x[Rows][Vectors], y[Rows][Vectors];
  const Real *a[Rows], *k[Rows], *q[Rows];
  LIMEN_UNROLL for (int r = 0; r < Rows; ++r) {
    a[r] = s.a + (t + r) * s.a_row;
    k[r] = s.k + (t + r) * s.k_row;
    q[r] = s.q + (t + r) * s.q_row;
    const V d(s.d != nullptr ? s.d[(t + r) * s.d_row] : Real(1));
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      x[r][j] = d * load(s.v + (t + r) * s.v_row + p + j * width);
      y[r][j] = V(Real(0));
    }
  }
  V decay[Rows];
  if constexpr (!Keyed) {
    LIMEN_UNROLL for (int r = 0; r < Rows; ++r) decay[r] = V(*a[r]);
  }
  Real* row = s.state + p;
  for (Index i = 0; i < s.N; ++i, row += s.P) {
    V state[Vectors];
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) state[j] = load(row + j * width);
    LIMEN_UNROLL for (int r = 0; r < Rows; ++r) {
      if constexpr (Keyed) decay[r] = V(a[r][i]);
      const V ki(k[r][i]), qi(q[r][i]);
      LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
        state[j] = simd::fma(ki, x[r][j], decay[r] * state[j]);
        y[r][j] = simd::fma(qi, state[j], y[r][j]);
      }
    }
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      if constexpr (Ragged) {
        simd::store(row + j * width, state[j], n);
      } else {
        simd::store(row + j * width, state[j]);
      }
    }
  }
  LIMEN_UNROLL for (int r = 0; r < Rows; ++r) {
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      Real* const to = s.y + (t + r) * s.y_row + p + j * width;
      if constexpr (Ragged) {
        simd::store(to, V(s.scale) * y[r][j], n);
      } else {
        simd::store(to, V(s.scale) * y[r][j]);
      }
    }
  }
}

}  // namespace detail

/// Rows 0..T of one head.
template <bool Keyed, class Real>
void state_scan(const StateScan<Real>& s, Index T) noexcept {
  constexpr Index width = simd::lanes<Real>;
  for (Index p = 0, columns; p < s.P; p += columns) {
    const Index left = s.P - p;
    columns = left >= 4 * width ? 4 * width : left >= width ? width : left;
    Index t = 0;
    if (columns == 4 * width) {
      for (; t + 2 <= T; t += 2) detail::scan_strip<Keyed, 2, 4, false>(s, t, p, columns);
      if (t < T) detail::scan_strip<Keyed, 1, 4, false>(s, t, p, columns);
    } else if (columns == width) {
      for (; t < T; ++t) detail::scan_strip<Keyed, 1, 1, false>(s, t, p, columns);
    } else {
      for (; t < T; ++t) detail::scan_strip<Keyed, 1, 1, true>(s, t, p, columns);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
