#pragma once
/// @file  Channels that are scaled and shifted, the same in every row.
///
///   y_t = x_t ⊙ γ + β        x, y [T x n]   γ, β [n]

#include <type_traits>

#include <limen/core/matrix.hpp>

namespace limen::inline LIMEN_ABI {

/// `y` may be `x`.
template <class Real>
void scale_shift(std::type_identity_t<MatrixView<const Real>> x, const Real* gamma,
                 const Real* beta, std::type_identity_t<MatrixView<Real>> y) noexcept {
  for (Index t = 0; t < x.rows; ++t) {
    const Real* const from = x.row(t);
    Real* const to = y.row(t);
    simd::for_each<Real>(x.cols, [&](Index c, auto load, auto store) {
      store(to + c, simd::fma(load(from + c), load(gamma + c), load(beta + c)));
    });
  }
}

/// dx += dy ⊙ γ,  dγ += Σ_t dy ⊙ x,  dβ += Σ_t dy
template <class Real>
void scale_shift_backward(std::type_identity_t<MatrixView<const Real>> x, const Real* gamma,
                          std::type_identity_t<MatrixView<const Real>> dy,
                          std::type_identity_t<MatrixView<Real>> dx, Real* dgamma,
                          Real* dbeta) noexcept {
  for (Index t = 0; t < x.rows; ++t) {
    const Real *const from = x.row(t), *const down = dy.row(t);
    Real* const to = dx.row(t);
    simd::for_each<Real>(x.cols, [&](Index c, auto load, auto store) {
      const auto d = load(down + c);
      store(dgamma + c, simd::fma(d, load(from + c), load(dgamma + c)));
      store(dbeta + c, load(dbeta + c) + d);
      store(to + c, simd::fma(d, load(gamma + c), load(to + c)));
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
