#pragma once
/// @file  What a layer of attention makes of x in front of the softmax, there and back.
///
///   q, k, v = x W_q, x W_k, x W_v,  z = x W_g
///   q = rope(norm(gate(q))),  k = rope(norm(gate(k))),  v = gate(v)      each where it is asked
///   for

#include <span>

#include <limen/attention/attend.hpp>
#include <limen/attention/attention_config.hpp>
#include <limen/attention/gate_places.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <class L>  // Attention<C, S>
struct AttentionInputs {
  static constexpr AttentionConfig C = L::config;
  static constexpr Index D = L::D, H = L::H, K = L::K, d = L::d, G = L::G;
  // A constant of its own: of a config that holds others, clang 16 reads fields wrongly at run
  // time.
  static constexpr double eps = C.norm_eps;
  using Real = typename L::Real;
  using Places = GatePlaces<C.gate, Real, G>;
  using Norm = HeadNorm<C.qk_norm, d, Real>;
  using enum GatePosition;

  const L& layer;

  static RopeRule rope() noexcept { return rope_rule<C.rope, d>(); }
  Places places(const Real* z) const noexcept { return {L::gated ? z : data_or_null(layer.gate)}; }

  // ── Of one row ─────────────────────────────────────────────────────────────────────────────────
  using RowScores = Vector<Real, L::gated ? G : 1>;
  struct KeyValue {
    Vector<Real, K * d> k, v;
  };

  RowScores row_scores(VectorView<Real, D> x) const noexcept {
    RowScores z;
    if constexpr (L::gated) z = linear(x, layer.gate_proj, data_or_null(layer.gate_bias));
    return z;
  }
  /// q [H d], not normed or turned yet
  Vector<Real, H * d> query(VectorView<Real, D> x, const Places& gate) const noexcept {
    auto q = linear(x, layer.q_proj, data_or_null(layer.q_bias));
    gate.template apply<G4>(H, q.matrix());
    return q;
  }
  /// k and v; q, if there is one, is normed and turned with k.
  KeyValue key_and_value(VectorView<Real, D> x, const Places& gate, std::int64_t seen,
                         MatrixView<Real> q) const noexcept {
    KeyValue kv{linear(x, layer.k_proj, data_or_null(layer.k_bias)),
                linear(x, layer.v_proj, data_or_null(layer.v_bias))};
    gate.template apply<G3>(K, kv.k.matrix());
    gate.template apply<G2>(K, kv.v.matrix());
    normalize(q, kv.k.matrix());
    if constexpr (C.rope.on()) limen::rope(rope(), seen, 1, 1, kv.k.matrix(), q);
    return kv;
  }

  // ── Of many ────────────────────────────────────────────────────────────────────────────────────
  /// q, k, v and z of the cache; `Keep`: and what backward needs.
  template <bool Keep, class Cache>
  void run(SequenceView<Real, D> x, Cache& c, TapListener* taps) const {
    c.q = linear(x, layer.q_proj, data_or_null(layer.q_bias));
    c.k = linear(x, layer.k_proj, data_or_null(layer.k_bias));
    c.v = linear(x, layer.v_proj, data_or_null(layer.v_bias));
    if constexpr (L::gated) c.z = linear(x, layer.gate_proj, data_or_null(layer.gate_bias));
    const Places gate = places(c.z.data());
    gate.template pass<G4, Keep>(H, c.q, c.q_ungated, taps);
    gate.template pass<G3, Keep>(K, c.k, c.k_ungated, taps);
    gate.template pass<G2, Keep>(K, c.v, c.v_ungated, taps);
    if constexpr (L::normed && Keep) {
      c.q_unnormed = c.q;
      c.k_unnormed = c.k;
      c.q_r = Buffer<Real>(x.rows() * H * Norm::kept);
      c.k_r = Buffer<Real>(x.rows() * K * Norm::kept);
    }
    normalize(c.q.matrix(), c.k.matrix(), Keep ? c.q_r.data() : nullptr,
              Keep ? c.k_r.data() : nullptr);
    if constexpr (C.rope.on()) turn_rows(rope(), c.rows(), 1, c.q.matrix(), c.k.matrix());
  }

  /// From the gradients of q, k and v of the new rows, and what z has gathered behind them: dx.
  template <class Cache>
  Sequence<Real, D> back(Sequence<Real, H * d> dq, Sequence<Real, K * d> dk,
                         Sequence<Real, K * d> dv, Sequence<Real, G> dz, const Cache& c,
                         L& gradient) const {
    if constexpr (C.rope.on()) turn_rows(rope(), c.rows(), -1, dq.matrix(), dk.matrix());
    if constexpr (L::normed) {
      q_norm().backward(dq.matrix(), c.q_unnormed.matrix(), c.q_r.data(),
                        data_or_null(l2_or(gradient.logit_scale, gradient.q_norm)),
                        data_or_null(gradient.q_norm_bias));
      k_norm().backward(dk.matrix(), c.k_unnormed.matrix(), c.k_r.data(),
                        data_or_null(gradient.k_norm), data_or_null(gradient.k_norm_bias));
    }
    const Places gate = places(c.z.data());
    gate.template back<G4>(H, c.q_ungated, dq, dz);
    gate.template back<G3>(K, c.k_ungated, dk, dz);
    gate.template back<G2>(K, c.v_ungated, dv, dz);
    Sequence<Real, D> dx(dq.rows());
    product_nn(dq.matrix(), layer.q_proj.matrix(), dx.matrix());
    add_linear_weight_gradient<Real, H * d, D>(dq, c.x, gradient.q_proj);
    const auto through = [&](const auto& from, const auto& weight, auto& dw) {
      add_linear_weight_gradient(from, c.x, dw);
      add_linear_input_gradient(from, weight, dx);
    };
    through(dk, layer.k_proj, gradient.k_proj);
    through(dv, layer.v_proj, gradient.v_proj);
    if constexpr (C.bias) {
      add_bias_gradient<Real, H * d>(dq, gradient.q_bias);
      add_bias_gradient<Real, K * d>(dk, gradient.k_bias);
      add_bias_gradient<Real, K * d>(dv, gradient.v_bias);
    }
    if constexpr (L::gated) through(dz, layer.gate_proj, gradient.gate_proj);
    if constexpr (L::gated && C.gate.bias) add_bias_gradient<Real, G>(dz, gradient.gate_bias);
    if constexpr (L::has_gate && !L::gated) add_bias_gradient<Real, G>(dz, gradient.gate);
    return dx;
  }

 private:
  /// What a norm of queries learns: of l2 another than of the rest.
  template <class A, class B>
  static auto& l2_or(A& scale_of_heads, B& weight) {
    if constexpr (L::l2) return scale_of_heads;
    if constexpr (!L::l2) return weight;
  }
  Norm q_norm() const noexcept {
    return {eps, data_or_null(l2_or(layer.logit_scale, layer.q_norm)),
            data_or_null(layer.q_norm_bias)};
  }
  Norm k_norm() const noexcept {
    return {eps, data_or_null(layer.k_norm), data_or_null(layer.k_norm_bias)};
  }
  void normalize(MatrixView<Real> q, MatrixView<Real> k, Real* q_r = nullptr,
                 Real* k_r = nullptr) const noexcept {
    if constexpr (L::normed) {
      q_norm().forward(q, q_r);
      k_norm().forward(k, k_r);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
