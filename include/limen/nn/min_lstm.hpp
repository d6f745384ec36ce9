#pragma once
/// @file  A long short-term memory whose gates see the input only and always sum to one.
///
///   f_t = σ(p_f) / (σ(p_f) + σ(p_i)),  i_t = 1 - f_t      what is kept, what is rewritten
///   h_t = f_t ⊙ h_{t-1} + i_t ⊙ g(p_h),   y = h           p = W x_t + b
///
///   x [T x I], h, y [T x E]; weight [3E x I], its rows in 3 groups of E: [hidden | f | i].
///   g(a) = a + 1/2 for a >= 0, σ(a) below (Candidate::positive), or g(a) = a (Candidate::plain).
///
/// And back, with λ_t what arrives at h_t (min_recurrent.hpp, where the code is):
///
///   df = λ ⊙ (h_{t-1} - h̃),  dp_f = df ⊙ f ⊙ i ⊙ σ(-p_f),  dp_i = -df ⊙ f ⊙ i ⊙ σ(-p_i),
///   dp_h = λ ⊙ i ⊙ g'(p_h),  h̃ = g(p_h)
///
/// Feng et al., Were RNNs all we needed?, arXiv:2410.01201, section 3.2.

#include <limen/nn/min_recurrent.hpp>

namespace limen::inline LIMEN_ABI {

using MinLstmConfig = MinRecurrentConfig;

template <MinLstmConfig C, class S = float>
using MinLstm = MinRecurrent<MinLstmGates, C, S>;

}  // namespace limen::inline LIMEN_ABI
