#pragma once
/// @file  The delta rule, one row after the other: the form for steps and for few rows.
///
///   u_t = d_t (v_t - (a_t S_{t-1})ᵀ k_t)        S_t = a_t S_{t-1} + k_t u_tᵀ        y_t = S_tᵀ q_t
///
/// A strip of four vectors of P goes down the rows of S twice: what the key finds, then decay,
/// write and read. The strip stays in the first-level cache between.

#include <limen/kernel/state_scan.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

template <int Vectors, bool Ragged, class Real>
LIMEN_NOINLINE void delta_strip(const StateScan<Real>& s, Index t, Index p, Index lanes) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  const auto load = [lanes](const Real* from) __attribute__((always_inline)) {
    return Ragged ? simd::load<V>(from, lanes) : simd::load<V>(from);
  };
  const auto store = [lanes](Real* to, const V& v) __attribute__((always_inline)) {
    Ragged ? simd::store(to, v, lanes) : simd::store(to, v);
  };
  const Real *q = s.q + t * s.q_row, *k = s.k + t * s.k_row, *v = s.v + t * s.v_row + p;
  const V a(s.a[t * s.a_row]), d(s.d[t * s.d_row]);
  V found[2][Vectors], u[Vectors], y[Vectors];
  LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) found[0][j] = found[1][j] = y[j] = V(Real(0));
  const Real* from = s.state + p;
  Index i = 0;
  for (; i + 2 <= s.N; i += 2, from += 2 * s.P) {  // two chains of sums
    LIMEN_UNROLL for (int c = 0; c < 2; ++c) {
      const V ki(k[i + c]);
      LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
        found[c][j] = simd::fma(ki, load(from + c * s.P + j * width), found[c][j]);
      }
    }
  }
  if (i < s.N) {
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      found[0][j] = simd::fma(V(k[i]), load(from + j * width), found[0][j]);
    }
  }
  LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
    u[j] = d * simd::fnma(a, found[0][j] + found[1][j], load(v + j * width));
  }
  Real* row = s.state + p;
  for (i = 0; i < s.N; ++i, row += s.P) {
    const V ki(k[i]), qi(q[i]);
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      const V next = simd::fma(ki, u[j], a * load(row + j * width));
      store(row + j * width, next);
      y[j] = simd::fma(qi, next, y[j]);
    }
  }
  LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
    store(s.y + t * s.y_row + p + j * width, V(s.scale) * y[j]);
  }
}

}  // namespace detail

/// Rows 0..T of one head; `d` is there.
template <class Real>
void delta_scan(const StateScan<Real>& s, Index T) noexcept {
  constexpr Index width = simd::lanes<Real>;
  for (Index p = 0, columns; p < s.P; p += columns) {
    const Index left = s.P - p;
    columns = left >= 4 * width ? 4 * width : left >= width ? width : left;
    for (Index t = 0; t < T; ++t) {
      if (columns == 4 * width) {
        detail::delta_strip<4, false>(s, t, p, columns);
      } else if (columns == width) {
        detail::delta_strip<1, false>(s, t, p, columns);
      } else {
        detail::delta_strip<1, true>(s, t, p, columns);
      }
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
