#pragma once
/// @file  A block along edges: attention by dot products, in which edges have their say, and a feed
/// forward net.
///
///   n = norm(x),  e = norm(f)                           f [E x d_edge], of the edges j -> i
///   s_ij = q_i·(k_j + a_ij) / √C,  q, k, v = n W + b,   a, b = e W_a + b_a, e W_b + b_b
///   u_i = n_i + Σ_j softmax_j(s_ij) (v_j + b_ij)        for each head
///   y = u + W_2 relu(W_1 norm(u) + b_1) + b_2
///
///   x, n, u, y [N x D]   q, k, v, a, b [D], H heads of C
///
/// What goes past the attention is n, not x. The graph and what its edges say are in the Context of
/// the run (attention/graph.hpp). A node without edges has u = n. It needs all rows of the graph,
/// so there is no step.
///
/// Tang et al., "HPNet: Dynamic trajectory forecasting with historical prediction attention",
/// arXiv:2404.06351; names are those of its authors' code.

#include <cmath>

#include <limen/attention/graph.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/edge_dot_attention.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct GraphBlockConfig {
  Index d_model = 0;   ///< D
  Index heads = 1;     ///< H
  Index d_edge = 0;    ///< features of an edge; 0: none are asked for
  Index widening = 4;  ///< of the feed forward net
  double eps = 1e-5;   ///< of norms

  constexpr Index edge_width() const { return d_edge > 0 ? d_edge : 1; }
};

template <GraphBlockConfig C, class S = float>
struct GraphBlock {
  static_assert(C.d_model > 0, "GraphBlock: .d_model must be positive");
  static_assert(C.heads > 0 && C.d_model % C.heads == 0, "GraphBlock: .heads must divide .d_model");
  static_assert(C.d_edge >= 0, "GraphBlock: .d_edge must not be negative");
  static_assert(C.widening > 0, "GraphBlock: .widening must be positive");

  static constexpr GraphBlockConfig config = C;
  static constexpr Index D = C.d_model, H = C.heads, E = C.edge_width(), M = C.widening * D;
  static constexpr Index in = D, out = D;
  static constexpr bool says = C.d_edge > 0;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GraphBlock<C, T>;
  using Norm = LayerNorm<LayerNormConfig{.d = D, .eps = config.eps}, S>;
  using EdgeNorm = LayerNorm<LayerNormConfig{.d = E, .eps = config.eps}, S>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Norm norm;                                       ///< of nodes
  Optional<says, EdgeNorm> edge_norm;              ///< of edges
  Weight<S, D, D> q_proj, k_proj, v_proj;          ///< W
  Tensor<Real, D> q_bias, k_bias, v_bias;          ///< b
  Optional<says, Weight<S, D, E>> edge_k, edge_v;  ///< W_a, W_b
  Optional<says, Tensor<Real, D>> edge_k_bias, edge_v_bias;
  Norm ffn_norm;
  Weight<S, M, D> ffn_in;    ///< W_1
  Tensor<Real, M> in_bias;   ///< b_1
  Weight<S, D, M> ffn_out;   ///< W_2
  Tensor<Real, D> out_bias;  ///< b_2

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("mha_prenorm_src", l.norm...);
    f("mha_prenorm_edge", l.edge_norm...);
    f("q.weight", l.q_proj...);
    f("q.bias", l.q_bias...);
    f("k.weight", l.k_proj...);
    f("k.bias", l.k_bias...);
    f("v.weight", l.v_proj...);
    f("v.bias", l.v_bias...);
    f("edge_k.weight", l.edge_k...);
    f("edge_k.bias", l.edge_k_bias...);
    f("edge_v.weight", l.edge_v...);
    f("edge_v.bias", l.edge_v_bias...);
    f("ffn_prenorm", l.ffn_norm...);
    f("ffn.0.weight", l.ffn_in...);
    f("ffn.0.bias", l.in_bias...);
    f("ffn.3.weight", l.ffn_out...);
    f("ffn.3.bias", l.out_bias...);
  }

  /// Weights uniform with limit sqrt(6 / (in + out)), biases 0, norms the identity.
  static GraphBlock initialized(Random& random) {
    GraphBlock layer;
    layer.norm = layer.ffn_norm = Norm::initialized(random);
    for (auto* w : {&layer.q_proj, &layer.k_proj, &layer.v_proj}) {
      detail::fill_glorot(*w, 2 * D, random);
    }
    if constexpr (says) {
      layer.edge_norm = EdgeNorm::initialized(random);
      for (auto* w : {&layer.edge_k, &layer.edge_v}) detail::fill_glorot(*w, D + E, random);
    }
    detail::fill_glorot(layer.ffn_in, D + M, random);
    detail::fill_glorot(layer.ffn_out, D + M, random);
    return layer;
  }

  // ── Whole graphs ───────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  /// x [N x D] -> y [N x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    const FlushDenormals guard;
    detail::RunEdges<Real> edges;
    if (!edges.find(batch, x.rows(), asks)) return {};
    auto u = norm.forward(x, {});
    const auto q = linear(u, q_proj, q_bias.data()), k = linear(u, k_proj, k_bias.data()),
               v = linear(u, v_proj, v_bias.data());
    auto a = call(edges, q, k, v);
    Sequence<Real, D> edge_keys, edge_values;
    if constexpr (says) {
      const auto e = edge_norm.forward(features(edges), {});
      edge_keys = linear(e, edge_k, edge_k_bias.data());
      edge_values = linear(e, edge_v, edge_v_bias.data());
      a.edge_k = edge_keys.matrix();
      a.edge_v = edge_values.matrix();
    }
    Sequence<Real, D> read(x.rows());
    edge_dot_attention<Real>(a, nullptr, read.matrix());
    add_rows(read.matrix(), u.matrix());
    const auto h = linear(ffn_norm.forward(u, {}), ffn_in, in_bias.data(), Activation::relu);
    const auto y = linear(h, ffn_out, out_bias.data());
    add_rows(y.matrix(), u.matrix());
    return u;
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const {
    static_assert(sizeof...(Asked) > 99,
                  "GraphBlock: a node listens to others, so it has no step; use forward");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    detail::RunEdges<Real> edges;  ///< the graph, which must live until backward
    typename Norm::Cache norm, ffn_norm;
    typename EdgeNorm::Cache edge_norm;
    Sequence<Real, D> n, q, k, v;
    Sequence<Real, E> e;
    Sequence<Real, D> edge_k, edge_v;  ///< a and b [E x D]
    Buffer<Real> p;                    ///< [snapshots][E][H]
    Sequence<Real, D> ffn_x;           ///< norm(u)
    Sequence<Real, M> h;               ///< behind relu
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& c) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    const Index rows = x.rows();
    if (!c.edges.find(batch, rows, asks)) return {};
    c.n = norm.forward(std::move(x), {}, c.norm);
    c.q = linear(c.n, q_proj, q_bias.data());
    c.k = linear(c.n, k_proj, k_bias.data());
    c.v = linear(c.n, v_proj, v_bias.data());
    if constexpr (says) {
      c.e = edge_norm.forward(features(c.edges).copy(), {}, c.edge_norm);
      c.edge_k = linear(c.e, edge_k, edge_k_bias.data());
      c.edge_v = linear(c.e, edge_v, edge_v_bias.data());
    }
    c.p = Buffer<Real>(c.edges.snapshots * c.edges.graph->edges() * H);
    Sequence<Real, D> u(rows);
    edge_dot_attention<Real>(call(c), c.p.data(), u.matrix());
    add_rows(c.n.matrix(), u.matrix());
    c.ffn_x = ffn_norm.forward(Sequence<Real, D>(u), {}, c.ffn_norm);
    c.h = linear(c.ffn_x, ffn_in, in_bias.data(), Activation::relu);
    const auto y = linear(c.h, ffn_out, out_bias.data());
    add_rows(y.matrix(), u.matrix());
    return u;
  }

  /// Back through W_2, relu, W_1 and their norm to u, from there past the attention and through it
  /// (kernel/edge_dot_attention.hpp) to n and e, and through their norms.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                             GraphBlock& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.n.rows())) return {};
    const FlushDenormals guard;
    add_linear_weight_gradient<Real, D, M>(dy, c.h, gradient.ffn_out);
    add_bias_gradient<Real, D>(dy, gradient.out_bias);
    auto dh = linear_input_gradient<Real, D, M>(dy, ffn_out);
    simd::for_each<Real>(dh.size(), [&](Index i, auto load, auto store) {
      const simd::Vec<Real> zero(Real(0));
      store(dh.data() + i, simd::select(load(c.h.data() + i) > zero, load(dh.data() + i), zero));
    });
    add_linear_weight_gradient<Real, M, D>(dh, c.ffn_x, gradient.ffn_in);
    add_bias_gradient<Real, M>(dh, gradient.in_bias);
    auto dn = ffn_norm.backward(linear_input_gradient<Real, M, D>(dh, ffn_in), {}, c.ffn_norm,
                                gradient.ffn_norm);
    add_rows(dy.matrix(), dn.matrix());  // du, and what goes past the attention

    Sequence<Real, D> dq(dy.rows()), dk(dy.rows()), dv(dy.rows()), d_edge_k, d_edge_v;
    if constexpr (says) {
      d_edge_k = Sequence<Real, D>::zeros(c.e.rows());
      d_edge_v = Sequence<Real, D>::zeros(c.e.rows());
    }
    auto d_gate = detail::zeros<Real>(c.edges.gate.size());
    edge_dot_attention_backward<Real>(call(c), c.p.data(), dn.matrix(),
                                      {dq.matrix(), dk.matrix(), dv.matrix(), d_edge_k.matrix(),
                                       d_edge_v.matrix(), d_gate.data()});
    const auto through = [](const auto& from, const auto& x, const auto& w, auto& dw, auto& db,
                            auto& dx) {
      add_linear_weight_gradient(from, x, dw);
      add_bias_gradient<Real, D>(from, db);
      add_linear_input_gradient(from, w, dx);
    };
    through(dq, c.n, q_proj, gradient.q_proj, gradient.q_bias, dn);
    through(dk, c.n, k_proj, gradient.k_proj, gradient.k_bias, dn);
    through(dv, c.n, v_proj, gradient.v_proj, gradient.v_bias, dn);
    Sequence<Real, E> d_features;
    if constexpr (says) {
      auto de = Sequence<Real, E>::zeros(c.e.rows());
      through(d_edge_k, c.e, edge_k, gradient.edge_k, gradient.edge_k_bias, de);
      through(d_edge_v, c.e, edge_v, gradient.edge_v, gradient.edge_v_bias, de);
      d_features = edge_norm.backward(de, {}, c.edge_norm, gradient.edge_norm);
    }
    c.edges.give_back(batch.context, std::as_const(d_features).matrix(), d_gate);
    return norm.backward(dn, {}, c.norm, gradient.norm);
  }

 private:
  /// What it asks of the graph.
  static constexpr GraphAttentionConfig asks{
      .d_in = D, .d_head = D / H, .heads = H, .d_edge = C.d_edge};

  static SequenceView<Real, E> features(const detail::RunEdges<Real>& edges) {
    return {edges.features.data(), edges.graph->edges()};
  }
  EdgeDotAttention<Real> call(const detail::RunEdges<Real>& edges, const Sequence<Real, D>& q,
                              const Sequence<Real, D>& k, const Sequence<Real, D>& v) const {
    EdgeDotAttention<Real> a;
    a.graph = edges.graph;
    a.snapshots = edges.snapshots;
    a.heads = H;
    a.scale = 1 / std::sqrt(static_cast<Real>(D / H));
    a.q = q.matrix();
    a.k = k.matrix();
    a.v = v.matrix();
    a.keep = edges.keep.size() > 0 ? edges.keep.data() : nullptr;
    a.gate = edges.gate.size() > 0 ? edges.gate.data() : nullptr;
    return a;
  }
  EdgeDotAttention<Real> call(const Cache& c) const {
    auto a = call(c.edges, c.q, c.k, c.v);
    if constexpr (says) {
      a.edge_k = c.edge_k.matrix();
      a.edge_v = c.edge_v.matrix();
    }
    return a;
  }
};

}  // namespace limen::inline LIMEN_ABI
