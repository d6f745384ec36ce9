#pragma once
/// @file  A query that is one for all rows: what a score multiplies x with.
///
///   u_h = (W_kᵀ q̂)_h,  q̂_h = q_h / ((|q_h| + ε) √d)        q [H d], W_k [H d x D]  ->  u [H x D]
///
/// Only the direction of q_h matters; zeros ask for nothing, and have a slope.

#include <algorithm>
#include <cmath>

#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <class Real, Index H, Index d, Index D>
struct LearnedQuery {
  const Real *q, *k_proj;

  /// u
  void ask(Real* u) const noexcept {
    std::fill(u, u + H * D, Real(0));
    for (Index h = 0; h < H; ++h) {
      const Real by = factor(length(h));
      Real* const to = u + h * D;
      for (Index c = h * d; c < (h + 1) * d; ++c) {
        const simd::Vec<Real> share(q[c] * by);
        const Real* const row = k_proj + c * D;
        simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
          store(to + i, simd::fma(share, load(row + i), load(to + i)));
        });
      }
    }
  }

  /// dW_k += q̂ du, and with n = |q|, g = W_k du / √d:  dq += g / (n + ε) - q <g, q> / (n (n + ε)²).
  void back(const Real* du, Real* dq, Real* dk_proj) const noexcept {
    for (Index h = 0; h < H; ++h) {
      const Real n = length(h), by = factor(n);
      const Real* const from = du + h * D;
      Real g[d], along = 0;
      for (Index c = 0; c < d; ++c) {
        const Index at = h * d + c;
        const Real* const row = k_proj + at * D;
        Real* const to = dk_proj + at * D;
        const simd::Vec<Real> share(q[at] * by);
        simd::Vec<Real> sum(Real(0));
        simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
          sum = simd::fma(load(row + i), load(from + i), sum);
          store(to + i, simd::fma(share, load(from + i), load(to + i)));
        });
        g[c] = simd::reduce_add(sum) * by;
        along += g[c] * q[at];
      }
      const Real back = n > 0 ? along / (n * (n + eps)) : Real(0);
      for (Index c = 0; c < d; ++c) dq[h * d + c] += g[c] - q[h * d + c] * back;
    }
  }

 private:
  static constexpr Real eps = Real(1e-6);

  Real length(Index h) const noexcept {
    Real square = 0;
    for (Index c = h * d; c < (h + 1) * d; ++c) square += q[c] * q[c];
    return std::sqrt(square);
  }
  static Real factor(Real length) noexcept {
    return 1 / ((length + eps) * std::sqrt(static_cast<Real>(d)));
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
