#pragma once
/// @file  Layer norm: each row shifted to mean 0 and scaled to variance 1.
///
///   y = w ⊙ x̂ + b,   x̂ = (x - m) / sqrt(var + eps)        x, y [T x D], w, b [D]
///
/// Ba, Kiros & Hinton, "Layer Normalization", arXiv:1607.06450, equation 4. It is a group norm with
/// one group (group_norm.hpp), where the code is.

#include <limen/nn/group_norm.hpp>

namespace limen::inline LIMEN_ABI {

struct LayerNormConfig {
  Index d = 0;         ///< D
  double eps = 1e-5;   ///< added to the variance
  bool weight = true;  ///< multiply by w
  bool bias = true;    ///< add b

  constexpr operator GroupNormConfig() const {  // NOLINT: one is the other with one group
    return {.d = d, .groups = 1, .eps = eps, .weight = weight, .bias = bias};
  }
};

template <LayerNormConfig C, class S = float>
using LayerNorm = GroupNorm<GroupNormConfig(C), S>;

}  // namespace limen::inline LIMEN_ABI
