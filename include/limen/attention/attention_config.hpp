#pragma once
/// @file  What a layer of attention is, as a template argument.

#include <limen/attention/gate.hpp>
#include <limen/attention/head_norm.hpp>
#include <limen/attention/kv_cache.hpp>
#include <limen/attention/rope.hpp>

namespace limen::inline LIMEN_ABI {

struct AttentionConfig {
  Index d_model = 0;     ///< D
  Index n_heads = 0;     ///< H, of queries
  Index n_kv_heads = 0;  ///< K, of keys and values, a divisor of H; 0: H
  Index d_head = 0;      ///< d; 0: D / H
  bool causal = true;    ///< a row sees rows up to itself; false: no state, no step

  Index capacity = 0;     ///< tokens that a state has room for, without .window
  Index window = 0;       ///< a row sees the last so many, itself included; 0: all
  Index first = 0;        ///< with .window, the first so many rows are seen for ever
  Index rollback = 0;     ///< with .window, tokens that a state can take back
  bool bfloat16 = false;  ///< the state stores bfloat16 (where Real is float)

  bool bias = false;              ///< of q_proj, k_proj and v_proj
  bool out_bias = false;          ///< of o_proj
  RopeConfig rope{};              ///< rotation of queries and keys
  QkNorm qk_norm = QkNorm::none;  ///< in front of it
  double norm_eps = 1e-6;         ///< of the norm
  bool norm_bias = false;         ///< of QkNorm::layer
  Gate gate{};                    ///< where, and what kind of

  double scale = 0;     ///< of scores; 0: 1 / sqrt(d), and 1 with QkNorm::l2
  double soft_cap = 0;  ///< c: scores become c tanh(s / c); 0: none
  bool alibi = false;   ///< scores lose a slope times the distance
  bool sink = false;    ///< with a logit for each head that takes probability and gives no value

  constexpr Index kv_heads() const { return n_kv_heads > 0 ? n_kv_heads : n_heads; }
  constexpr Index head_width() const { return d_head > 0 ? d_head : d_model / n_heads; }
  constexpr KvCacheConfig cache() const {
    return {kv_heads(), head_width(), head_width(), window > 0 ? 0 : capacity,
            window,     first,        rollback};
  }
  /// Heads, and their width, of what the gate is applied to.
  constexpr Index gated_heads() const {
    if (gate.at(GatePosition::G5)) return 1;
    return gate.at(GatePosition::G2) || gate.at(GatePosition::G3) ? kv_heads() : n_heads;
  }
  constexpr Index gate_width() const {
    if (gate.headwise) return gated_heads();
    return gate.at(GatePosition::G5) ? d_model : gated_heads() * head_width();
  }
};

namespace detail {

/// Says what is wrong with a config; a layer names it as a base of nothing.
template <AttentionConfig C>
struct AttentionChecks {
  static_assert(C.d_model > 0, "Attention: .d_model must be positive");
  static_assert(C.n_heads > 0, "Attention: .n_heads must be positive");
  static_assert(C.n_heads % C.kv_heads() == 0, "Attention: .n_kv_heads must divide .n_heads");
  static_assert(C.d_head > 0 || C.d_model % C.n_heads == 0,
                "Attention: .n_heads must divide .d_model, or .d_head be given");
  static_assert(C.n_kv_heads >= 0 && C.d_head >= 0 && C.capacity >= 0 && C.window >= 0 &&
                    C.first >= 0 && C.rollback >= 0,
                "Attention: a number of heads, channels or tokens is not negative");
  static_assert(C.norm_eps > 0, "Attention: .norm_eps must be positive");
  static_assert(!C.causal || C.window > 0 || C.capacity > 0,
                "Attention: .capacity must say how many tokens a state has room for");
  static_assert(C.first == 0 || (C.causal && C.window > 0),
                "Attention: .first is for causal layers with a .window");
  static_assert(C.first == 0 || !C.alibi, "Attention: .alibi has no distance to .first rows");
  static_assert(!(C.gate.headwise && C.gate.at(GatePosition::G5)),
                "Attention: behind o_proj (G5) there are no heads to gate one by one");
  static_assert(!(C.gate.headwise && (C.gate.shared || !C.gate.from_input)),
                "Attention: a headwise gate is neither shared nor without input");
  static_assert(!(C.gate.at(GatePosition::G5) && (C.gate.shared || !C.gate.from_input)),
                "Attention: a gate behind o_proj (G5) is neither shared nor without input");
  static_assert(!(C.gate.headwise && C.qk_norm != QkNorm::none && !C.gate.additive &&
                  (C.gate.at(GatePosition::G3) || C.gate.at(GatePosition::G4))),
                "Attention: a headwise gate in front of the norm does nothing: it cancels");
  static_assert(!C.norm_bias || C.qk_norm == QkNorm::layer,
                "Attention: .norm_bias is for QkNorm::layer");
  static_assert(C.soft_cap >= 0 && C.scale >= 0,
                "Attention: .soft_cap and .scale are not negative");
  static constexpr bool ok = true;
};

/// 2^(-8 (h + 1) / p) for the first p = 2^⌊log2 H⌋ heads, 2^(-4 (2h + 1) / p) for the others.
/// Press et al., arXiv:2108.12409, and its authors' code for other numbers of heads.
template <class Real, Index H>
std::array<Real, static_cast<std::size_t>(H)> make_alibi_slopes() {
  std::array<Real, static_cast<std::size_t>(H)> slopes{};
  Index p = 1;
  while (2 * p <= H) p *= 2;
  for (Index h = 0; h < H; ++h) {
    const double power =
        h < p ? -8.0 * static_cast<double>(h + 1) : -4.0 * static_cast<double>(2 * (h - p) + 1);
    slopes[static_cast<std::size_t>(h)] =
        static_cast<Real>(std::exp2(power / static_cast<double>(p)));
  }
  return slopes;
}
template <class Real, Index H>
inline const std::array<Real, static_cast<std::size_t>(H)> alibi_slopes =
    make_alibi_slopes<Real, H>();

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
