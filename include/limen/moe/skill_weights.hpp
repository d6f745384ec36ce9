#pragma once
/// @file  Weights of adapters from logits of a task, and the slope back.
///
///   w_qs = s_qs / Σ_s s_qs      SkillWeights::shares         s = σ(z), or rounded to 0 or 1
///   w_qs = s_qs √(Q / S)        SkillWeights::scaled
///   w_qs = z_qs / ‖z_q‖         SkillWeights::unit
///
/// z, w [Q x S]. Rounding passes slopes straight through. A head without any adapter (all rounded
/// to 0, or z = 0) has weights 0; there, slopes are those of a sum of 1, or 0 for z / ‖z‖.

#include <algorithm>
#include <cmath>

#include <limen/core/random.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/mix.hpp>
#include <limen/moe/task_adapters.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <PolytroponConfig C, class Real>
struct SkillMixing {
  static constexpr Index Q = C.n_heads, S = C.n_skills, size = Q * S;
  static constexpr bool hard = C.round, unit = C.weigh == SkillWeights::unit;
  static constexpr bool scaled = C.weigh == SkillWeights::scaled;
  static constexpr bool plain = !hard && !unit && !scaled;
  // Not read from C at run time: clang may look for it in the wrong place.
  static constexpr Real temperature = static_cast<Real>(C.temperature);

  /// z = (z + log u - log(1 - u)) / τ,  u ~ uniform(0, 1)
  static void draw(Real* z, Random& random) noexcept {
    for (Index i = 0; i < size; ++i) {
      const double u = 0x1p-54 + random.uniform() * (1 - 0x1p-53);  // never 0 or 1
      z[i] = (z[i] + static_cast<Real>(std::log(u / (1 - u)))) / temperature;
    }
  }

  /// w from z, in place. `kept` [Q x S], if there is one, is for the way back.
  static void weigh(Real* w, Real* kept) noexcept {
    if constexpr (!unit) activate(Activation::sigmoid, w, w, size);
    if (kept != nullptr) std::copy_n(w, size, kept);
    if constexpr (plain) return shares(sizes, w, w);
    for (Index i = 0; hard && i < size; ++i) w[i] = rounded(w[i]);
    for (Index q = 0; q < Q; ++q) {
      const Real scale = scale_of(w + q * S);
      for (Index s = 0; s < S; ++s) w[q * S + s] *= scale;
    }
  }

  /// shares  dz = σ (1 - σ) (dw - Σ_s w dw) / Σ_s s      scaled  dz = σ (1 - σ) dw √(Q / S)
  /// unit    dz = (dw - w Σ_s w dw) / ‖z‖
  static void add_slope(const Real* kept, const Real* w, const Real* dw, Real c,
                        Real* dz) noexcept {
    if constexpr (plain) return add_share_gradient(sizes, kept, w, dw, c, dz);
    for (Index q = 0; q < Q; ++q, kept += S, w += S, dw += S, dz += S) {
      Real s_of[S], mean = 0;
      for (Index s = 0; s < S; ++s) s_of[s] = hard ? rounded(kept[s]) : kept[s];
      const Real scale = scale_of(s_of);
      for (Index s = 0; !scaled && s < S; ++s) mean += w[s] * dw[s];
      for (Index s = 0; s < S; ++s) {
        const Real d = unit ? dw[s] - w[s] * mean : (dw[s] - mean) * kept[s] * (1 - kept[s]);
        dz[s] += c * scale * d;
      }
    }
  }

 private:
  static constexpr AdapterSizes sizes{S, Q, 0, 0, 0};  // no matrices here

  static Real rounded(Real sigma) noexcept { return sigma > Real(0.5) ? Real(1) : Real(0); }

  static Real scale_of(const Real* s_of) noexcept {
    if constexpr (scaled) {
      return static_cast<Real>(std::sqrt(static_cast<double>(Q) / static_cast<double>(S)));
    }
    Real sum = 0;
    for (Index s = 0; s < S; ++s) sum += unit ? s_of[s] * s_of[s] : s_of[s];
    if constexpr (unit) return sum > 0 ? 1 / std::sqrt(sum) : Real(0);
    return sum > 0 ? 1 / sum : Real(1);
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
