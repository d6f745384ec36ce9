#pragma once
/// @file  The spatio-temporal block of GMAN: attention over nodes and over time, and a gate that
/// weighs the two.
///
///   h_S = spatial([x ‖ e]),  h_T = temporal([x ‖ e])
///   z = σ(h_S W_Sᵀ + h_T W_Tᵀ + b),  h = z ⊙ h_S + (1 - z) ⊙ h_T
///   y = x + W_2 relu(W_1 h + b_1) + b_2
///
///   [x ‖ e] [T N x 2 D]: what is known of N nodes in T steps, next to where and when that is
///   y [T N x D]
///
/// Zheng et al., arXiv:1911.08415, sections 4.2 and 4.3; its batch norms are left out.

#include <limen/attention/row_attention.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

struct GmanConfig {
  Index nodes = 0;      ///< N
  Index heads = 0;      ///< K
  Index d_head = 0;     ///< d; D = K d
  Index blocks = 1;     ///< L, of the encoder and of the decoder
  Index horizon = 0;    ///< Q, steps that are foretold
  Index slots = 0;      ///< steps in a day
  bool causal = false;  ///< attention over time looks back only

  constexpr Index d() const { return heads * d_head; }
};

template <GmanConfig C, class S = float>
struct GmanBlock {
  static constexpr GmanConfig config = C;
  static constexpr Index D = C.d(), in = 2 * D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GmanBlock<C, T>;

  static constexpr RowAttentionConfig over(Over what) {
    return {2 * D, C.heads, C.d_head, C.nodes, what, C.causal && what == Over::time};
  }
  using Spatial = RowAttention<over(Over::nodes), S>;
  using Temporal = RowAttention<over(Over::time), S>;
  using Two = detail::TwoLinear<D, D, D, S>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Spatial spatial;
  Temporal temporal;
  Weight<S, D, D> fusion_s, fusion_t;  ///< W_S, W_T
  Tensor<Real, D> fusion_bias;         ///< b
  Two output;                          ///< W_1, b_1, W_2, b_2

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("spatial", l.spatial...);
    f("temporal", l.temporal...);
    f("fusion.spatial.weight", l.fusion_s...);
    f("fusion.temporal.weight", l.fusion_t...);
    f("fusion.bias", l.fusion_bias...);
    f("output", l.output...);
  }

  static GmanBlock initialized(Random& random) {
    GmanBlock layer;
    layer.spatial = Spatial::initialized(random);
    layer.temporal = Temporal::initialized(random);
    detail::start_linear(layer.fusion_s, random);
    detail::start_linear(layer.fusion_t, random);
    detail::start_two(layer.output, random);
    return layer;
  }

  // ── Whole sequences ────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  /// [x ‖ e] [T N x 2 D] -> y [T N x D]
  Sequence<Real, D> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    if (!detail::whole_steps(C.nodes, batch, x.rows())) return {};
    const auto hs = spatial.forward(x, batch), ht = temporal.forward(x, batch);
    auto y = output.forward(fused(hs, ht, gate(hs, ht)), {});
    add_x(x, y);
    return y;
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const {
    static_assert(sizeof...(Asked) > 99,
                  "GmanBlock: looks at all nodes and all of time, so it has no step; use forward");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    typename detail::CacheOf<Spatial>::type spatial;
    typename detail::CacheOf<Temporal>::type temporal;
    typename detail::CacheOf<Two>::type output;
    Sequence<Real, D> hs, ht, z;
  };

  Sequence<Real, D> forward(Sequence<Real, in> x, Batch<State> batch, Cache& c) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    if (!detail::whole_steps(C.nodes, batch, x.rows())) return {};
    c.hs = spatial.forward(Sequence<Real, in>(x), batch, c.spatial);
    c.ht = temporal.forward(Sequence<Real, in>(x), batch, c.temporal);
    c.z = gate(c.hs, c.ht);
    auto y = output.forward(fused(c.hs, c.ht, c.z), {}, c.output);
    add_x(x, y);
    return y;
  }

  /// With dh through W_2 and W_1:  da = dh ⊙ (h_S - h_T) ⊙ z ⊙ (1 - z),
  ///   dh_S = z ⊙ dh + da W_S,  dh_T = (1 - z) ⊙ dh + da W_T,
  ///   dW_S = daᵀ h_S,  dW_T = daᵀ h_T,  db = Σ da
  Sequence<Real, in> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                              GmanBlock& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.z.rows())) return {};
    const FlushDenormals guard;
    using V = simd::Vec<Real>;
    auto dhs = output.backward(dy, {}, c.output, gradient.output);
    Sequence<Real, D> da(dy.rows()), dht(dy.rows());
    simd::for_each<Real>(da.size(), [&](Index i, auto load, auto store) {
      const V dh = load(dhs.data() + i), z = load(c.z.data() + i), rest = V(Real(1)) - z;
      store(da.data() + i, dh * (load(c.hs.data() + i) - load(c.ht.data() + i)) * z * rest);
      store(dhs.data() + i, dh * z);
      store(dht.data() + i, dh * rest);
    });
    add_linear_weight_gradient<Real, D, D>(da, c.hs, gradient.fusion_s);
    add_linear_weight_gradient<Real, D, D>(da, c.ht, gradient.fusion_t);
    add_bias_gradient<Real, D>(da, gradient.fusion_bias);
    add_linear_input_gradient<Real, D, D>(da, fusion_s, dhs);
    add_linear_input_gradient<Real, D, D>(da, fusion_t, dht);
    auto dx = spatial.backward(dhs, batch, c.spatial, gradient.spatial);
    const auto dx_t = temporal.backward(dht, batch, c.temporal, gradient.temporal);
    add_rows(dx_t.matrix(), dx.matrix());
    add_rows(dy.matrix(), dx.matrix().middle_cols(0, D));
    return dx;
  }

 private:
  Sequence<Real, D> gate(const Sequence<Real, D>& hs, const Sequence<Real, D>& ht) const {
    auto z = linear(hs, fusion_s, fusion_bias.data());
    const auto t = linear(ht, fusion_t);
    simd::for_each<Real>(z.size(), [&](Index i, auto load, auto store) {
      store(z.data() + i, math::sigmoid(load(z.data() + i) + load(t.data() + i)));
    });
    return z;
  }
  static Sequence<Real, D> fused(const Sequence<Real, D>& hs, const Sequence<Real, D>& ht,
                                 const Sequence<Real, D>& z) {
    Sequence<Real, D> h(z.rows());
    simd::for_each<Real>(h.size(), [&](Index i, auto load, auto store) {
      const auto t = load(ht.data() + i);
      store(h.data() + i, simd::fma(load(z.data() + i), load(hs.data() + i) - t, t));
    });
    return h;
  }
  static void add_x(SequenceView<Real, in> x, Sequence<Real, D>& y) {
    add_rows(x.matrix().middle_cols(0, D), y.matrix());
  }
};

}  // namespace limen::inline LIMEN_ABI
