#pragma once
/// @file  A gated recurrent unit whose gate sees the input only.
///
///   z_t = σ(W_z x_t + b_z)                          how much is rewritten
///   h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ g(W_h x_t + b_h),   y = h
///
///   x [T x I], h, y [T x E]; weight [2E x I], its rows in 2 groups of E: [hidden | z].
///   g(a) = a + 1/2 for a >= 0, σ(a) below (Candidate::positive), or g(a) = a (Candidate::plain).
///
/// And back, with λ_t what arrives at h_t (min_recurrent.hpp, where the code is):
///
///   dp_z = λ ⊙ (h̃ - h_{t-1}) ⊙ z ⊙ (1 - z),  dp_h = λ ⊙ z ⊙ g'(p_h),  h̃ = g(p_h)
///
/// Feng et al., Were RNNs all we needed?, arXiv:2410.01201, section 3.1.

#include <limen/nn/min_recurrent.hpp>

namespace limen::inline LIMEN_ABI {

using MinGruConfig = MinRecurrentConfig;

template <MinGruConfig C, class S = float>
using MinGru = MinRecurrent<MinGruGates, C, S>;

}  // namespace limen::inline LIMEN_ABI
