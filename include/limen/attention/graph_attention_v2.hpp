#pragma once
/// @file  GATv2: each node listens to its neighbours, to whom depends on both.
///
///   l = x W_lᵀ + b_l,  r = x W_rᵀ + b_r
///   s_ij = a·LeakyReLU(r_i + l_j + f_ij),  p = softmax over the edges j -> i,
///   y_i = Σ_j p_ij l_j + b                                        for each head
///
///   x [N x F]   l, r [N x H C]   a [H x C]   f_ij [H C]: what the edge says (attention/graph.hpp)
///   y [N x H C], heads side by side, or [N x C], their mean
///
/// The graph is in the Context of the run. A node without edges gets b. It needs all rows of the
/// graph, so there is no step.
///
/// Brody et al., "How attentive are graph attention networks?", arXiv:2105.14491, equation 7.

#include <limen/attention/graph.hpp>
#include <limen/core/denormals.hpp>

namespace limen::inline LIMEN_ABI {

template <GraphAttentionConfig C, class S = float>
struct GraphAttentionV2 {
  static_assert(detail::GraphAttentionChecks<C>::ok);

  static constexpr GraphAttentionConfig config = C;
  static constexpr Index F = C.d_in, H = C.heads, K = C.d_head, W = C.width();
  static constexpr Index in = F, out = C.d_out();
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GraphAttentionV2<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, W, F> lin_l, lin_r;                                              ///< W_l, W_r
  Optional<C.bias, Tensor<Real, W>> l_bias, r_bias;                          ///< b_l, b_r
  Tensor<Real, 1, H, K> att;                                                 ///< a
  Optional<(C.d_edge > 0), Weight<S, W, C.edge_width()>> lin_edge;           ///< W_e
  Optional<(C.relations > 0), Tensor<Real, C.relation_rows(), W>> relation;  ///< rows of types
  Optional<C.bias, Tensor<Real, out>> bias;                                  ///< b

  template <class Fn, class... L>
  static constexpr void visit(Fn&& f, L&... l) {
    f("lin_l.weight", l.lin_l...);
    f("lin_l.bias", l.l_bias...);
    f("lin_r.weight", l.lin_r...);
    f("lin_r.bias", l.r_bias...);
    f("att", l.att...);
    f("lin_edge.weight", l.lin_edge...);
    f("relation", l.relation...);
    f("bias", l.bias...);
  }

  static GraphAttentionV2 initialized(Random& random) {
    GraphAttentionV2 layer;
    detail::fill_glorot(layer.lin_l, W + F, random);
    detail::fill_glorot(layer.lin_r, W + F, random);
    detail::fill_glorot(layer.att, H + K, random);
    if constexpr (C.d_edge > 0) detail::fill_glorot(layer.lin_edge, W + C.d_edge, random);
    if constexpr (C.relations > 0) detail::fill_glorot(layer.relation, W + C.relations, random);
    return layer;
  }

  // ── Whole graphs ───────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  /// x [N x F] -> y [N x H C] or [N x C]
  Sequence<Real, out> forward(SequenceView<Real, F> x, Batch<State> batch) const {
    const FlushDenormals guard;
    Cache cache;
    return run(x, batch, cache, nullptr);
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const {
    static_assert(sizeof...(Asked) > 99,
                  "GraphAttentionV2: a node listens to others, so it has no step; use forward");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    detail::RunEdges<Real> edges;  ///< the graph, which must live until backward
    Sequence<Real, F> x;
    Sequence<Real, W> l, r;
    Sequence<Real, W> f;  ///< [E x H C], if features are asked for
    Buffer<Real> p;       ///< [snapshots][E][H]
  };

  Sequence<Real, out> forward(Sequence<Real, F> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    auto y = run(SequenceView<Real, F>(x), batch, cache, &cache.p);
    if (y.rows() == x.rows()) cache.x = std::move(x);
    return y;
  }

  /// With g = dy of a head (mean: its share), u = r_i + l_j + f_ij, φ = LeakyReLU:
  ///   dp_ij = g_i·l_j,  ds_ij = p_ij (dp_ij - Σ_j p dp),  da = Σ ds φ(u),  du = ds a ⊙ φ'(u),
  ///   dr_i = Σ_j du,  df_ij = du,  dl_j = Σ_i (p_ij g_i + du)
  /// φ'(0) is the slope below 0.
  Sequence<Real, F> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& c,
                             GraphAttentionV2& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.x.rows())) return {};
    const FlushDenormals guard;
    if constexpr (C.bias) add_bias_gradient<Real, out>(dy, gradient.bias);
    Sequence<Real, W> share;
    const auto d = detail::gradient_of_heads<C, Real>(dy, share);
    Sequence<Real, W> dl(dy.rows()), dr(dy.rows()), df;
    if constexpr (says) df = Sequence<Real, W>::zeros(c.edges.graph->edges());
    auto d_gate = detail::zeros<Real>(c.edges.gate.size());
    edge_attention_backward<Real>(c.edges.call(H, K, c.l.matrix()), score(c), c.p.data(), d,
                                  {dl.matrix(), dr.matrix(), gradient.att.data(), df.matrix()},
                                  d_gate.data());
    detail::edge_rows_backward<C>(*this, c.edges, batch.context, df, d_gate, gradient);
    add_linear_weight_gradient<Real, W, F>(dl, c.x, gradient.lin_l);
    add_linear_weight_gradient<Real, W, F>(dr, c.x, gradient.lin_r);
    if constexpr (C.bias) {
      add_bias_gradient<Real, W>(dl, gradient.l_bias);
      add_bias_gradient<Real, W>(dr, gradient.r_bias);
    }
    auto dx = linear_input_gradient<Real, W, F>(dl, lin_l);
    add_linear_input_gradient<Real, W, F>(dr, lin_r, dx);
    return dx;
  }

 private:
  static constexpr bool says = C.d_edge > 0 || C.relations > 0;
  static constexpr double slope = config.slope;

  EdgeRows<Real> rows_of(const Cache& cache) const {
    return detail::edge_rows<C>(*this, cache.edges, cache.f);
  }
  AdditiveScore<Real> score(const Cache& c) const {
    return {c.r.matrix(), att.data(), rows_of(c), static_cast<Real>(slope)};
  }

  Sequence<Real, out> run(SequenceView<Real, F> x, const Batch<State>& batch, Cache& c,
                          Buffer<Real>* p) const {
    if (!c.edges.find(batch, x.rows(), C)) return {};
    c.l = linear(x, lin_l, data_or_null(l_bias));
    c.r = linear(x, lin_r, data_or_null(r_bias));
    detail::fill_edge_rows<C>(*this, c.edges, c.f);
    return detail::attend_edges<C, Real>(c.edges.call(H, K, c.l.matrix()), score(c),
                                         data_or_null(bias), p);
  }
};

}  // namespace limen::inline LIMEN_ABI
