#pragma once
/// @file  Softmax over rows, its logarithm, and backward.
///
///   p_i = e^(x_i - m) / Σ e^(x_j - m),  m = max x       never overflows
///   lse = m + log Σ e^(x_j - m)                         log p_i = x_i - lse
///   dx = p ⊙ (dy - Σ p dy)                              of p;    dx = dy - p Σ dy   of log p
///
/// An entry of -inf is masked: its p is 0. Where all of a row is masked there is nothing to share
/// out: p is 0 everywhere and lse -inf. NaN, and +inf, which has no answer, make the whole row NaN.
///
/// The online form (Milakov and Gimelshein, arXiv:1805.02867) is for rows that do not fit into a
/// cache; these stay there between their three passes.

#include <cmath>
#include <limits>
#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/reduce.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// What is taken from a row before exp: its largest number, or 0 where all is masked.
template <class Real>
LIMEN_INLINE Real softmax_shift(Real most) {
  return most == -std::numeric_limits<Real>::infinity() ? Real(0) : most;
}

/// Lanes that `load` found in the row: load gives 0 past the end, where e^(0 - m) must not count.
template <class Real>
LIMEN_INLINE Real sum_of_exp(const Real* x, Index n, Real shift) {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  const Index whole = n - n % width;
  const V m(shift);
  const V sum = in_four_chains(
      whole, V(Real(0)),
      [&](const V& s, Index i, auto load) { return s + math::exp(load(x + i) - m); },
      [](const V& a, const V& b) { return a + b; });
  if (whole == n) return simd::reduce_add(sum);
  alignas(64) Real rest[V::size] = {};
  simd::store(rest, math::exp(simd::load<V>(x + whole, n - whole) - m), n - whole);
  return simd::reduce_add(sum + simd::load<V>(rest));
}

}  // namespace detail

/// log Σ e^x_i over n numbers; in double, because losses subtract from it.
template <class Real>
LIMEN_NOINLINE double log_sum_exp(const Real* x, Index n) noexcept {
  const Real m = detail::softmax_shift(row_max(x, n));
  return static_cast<double>(m) + std::log(static_cast<double>(detail::sum_of_exp(x, n, m)));
}

/// p = softmax(x); gives log Σ e^x_i.  `p` may be `x`.
template <class Real>
LIMEN_NOINLINE double softmax_row(const Real* x, Real* p, Index n) noexcept {
  using V = simd::Vec<Real>;
  const Real most = detail::softmax_shift(row_max(x, n));
  const V m(most);
  simd::transform(x, p, n, [m](const V& v) { return math::exp(v - m); });
  const Real sum = row_sum(p, n);
  const V scale(sum == 0 ? Real(0) : 1 / sum);
  simd::transform(p, p, n, [scale](const V& v) { return v * scale; });
  return static_cast<double>(most) + std::log(static_cast<double>(sum));
}

/// y = log softmax(x); gives log Σ e^x_i.  `y` may be `x`. All of a masked row is -inf.
template <class Real>
LIMEN_NOINLINE double log_softmax_row(const Real* x, Real* y, Index n) noexcept {
  using V = simd::Vec<Real>;
  const Real most = detail::softmax_shift(row_max(x, n));
  const double log_sum = std::log(static_cast<double>(detail::sum_of_exp(x, n, most)));
  const V m(most), less(detail::softmax_shift(static_cast<Real>(log_sum)));
  simd::transform(x, y, n, [m, less](const V& v) { return (v - m) - less; });
  return static_cast<double>(most) + log_sum;
}

/// dx = p ⊙ (dy - Σ p dy).  `dx` may be `dy`.
template <class Real>
LIMEN_NOINLINE void softmax_backward_row(const Real* p, const Real* dy, Real* dx,
                                         Index n) noexcept {
  using V = simd::Vec<Real>;
  const V dot(
      reduce_row<Real>(n, [p, dy](Index i, auto load) { return load(p + i) * load(dy + i); }));
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(dx + i, load(p + i) * (load(dy + i) - dot));
  });
}

/// dx = dy - e^y Σ dy with y = log softmax(x).  `dx` may be `dy`. A masked entry gets its dy: what
/// it is multiplied with above, or what made it -inf, has the slope 0.
template <class Real>
LIMEN_NOINLINE void log_softmax_backward_row(const Real* y, const Real* dy, Real* dx,
                                             Index n) noexcept {
  using V = simd::Vec<Real>;
  const V sum(row_sum(dy, n));
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(dx + i, simd::fnma(math::exp(load(y + i)), sum, load(dy + i)));
  });
}

// ── Matrices ─────────────────────────────────────────────────────────────────────────────────────

/// p [T x D] = softmax of each row of x [T x D]; lse [T] if not null.  `p` may be `x`.
template <class Real>
void softmax(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> p,
             std::type_identity_t<Real>* lse = nullptr) noexcept {
  for (Index t = 0; t < x.rows; ++t) {
    const double log_sum = softmax_row(x.row(t), p.row(t), x.cols);
    if (lse != nullptr) lse[t] = static_cast<Real>(log_sum);
  }
}

/// y [T x D] = log softmax of each row of x [T x D].  `y` may be `x`.
template <class Real>
void log_softmax(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) noexcept {
  for (Index t = 0; t < x.rows; ++t) log_softmax_row(x.row(t), y.row(t), x.cols);
}

/// p, dy, dx [T x D]
template <class Real>
void softmax_backward(std::type_identity_t<MatrixView<const Real>> p,
                      std::type_identity_t<MatrixView<const Real>> dy,
                      MatrixView<Real> dx) noexcept {
  for (Index t = 0; t < p.rows; ++t) softmax_backward_row(p.row(t), dy.row(t), dx.row(t), p.cols);
}

/// y = log softmax(x), dy, dx [T x D]
template <class Real>
void log_softmax_backward(std::type_identity_t<MatrixView<const Real>> y,
                          std::type_identity_t<MatrixView<const Real>> dy,
                          MatrixView<Real> dx) noexcept {
  for (Index t = 0; t < y.rows; ++t) {
    log_softmax_backward_row(y.row(t), dy.row(t), dx.row(t), y.cols);
  }
}

}  // namespace limen::inline LIMEN_ABI
