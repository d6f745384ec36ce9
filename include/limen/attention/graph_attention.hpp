#pragma once
/// @file  GAT: each node listens to its neighbours.
///
///   g = x Wᵀ,  s_ij = LeakyReLU(a_dst·g_i + a_src·g_j + a_edge·f_ij),
///   p = softmax over the edges j -> i,  y_i = Σ_j p_ij g_j + b             for each head
///
///   x [N x F]   g [N x H C]   a_src, a_dst, a_edge [H x C]   f_ij [H C]: what the edge says
///   (attention/graph.hpp)   y [N x H C], heads side by side, or [N x C], their mean
///
/// Which neighbour is heard best is the same for all nodes; where it should not be, take
/// GraphAttentionV2. The graph is in the Context of the run. A node without edges gets b. It needs
/// all rows of the graph, so there is no step.
///
/// Veličković et al., "Graph attention networks", arXiv:1710.10903, equations 1 to 6.

#include <algorithm>

#include <limen/attention/graph.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/parallel.hpp>

namespace limen::inline LIMEN_ABI {

template <GraphAttentionConfig C, class S = float>
struct GraphAttention {
  static_assert(detail::GraphAttentionChecks<C>::ok);

  static constexpr GraphAttentionConfig config = C;
  static constexpr bool says = C.d_edge > 0 || C.relations > 0;  ///< do edges say anything?
  static constexpr Index F = C.d_in, H = C.heads, K = C.d_head, W = C.width();
  static constexpr Index in = F, out = C.d_out();
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GraphAttention<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, W, F> lin;                                                       ///< W
  Tensor<Real, 1, H, K> att_src, att_dst;                                    ///< a_src, a_dst
  Optional<says, Tensor<Real, 1, H, K>> att_edge;                            ///< a_edge
  Optional<(C.d_edge > 0), Weight<S, W, C.edge_width()>> lin_edge;           ///< W_e
  Optional<(C.relations > 0), Tensor<Real, C.relation_rows(), W>> relation;  ///< rows of types
  Optional<C.bias, Tensor<Real, out>> bias;                                  ///< b

  template <class Fn, class... L>
  static constexpr void visit(Fn&& f, L&... l) {
    f("lin.weight", l.lin...);
    f("att_src", l.att_src...);
    f("att_dst", l.att_dst...);
    f("att_edge", l.att_edge...);
    f("lin_edge.weight", l.lin_edge...);
    f("relation", l.relation...);
    f("bias", l.bias...);
  }

  static GraphAttention initialized(Random& random) {
    GraphAttention layer;
    detail::fill_glorot(layer.lin, W + F, random);
    detail::fill_glorot(layer.att_src, H + K, random);
    detail::fill_glorot(layer.att_dst, H + K, random);
    if constexpr (says) detail::fill_glorot(layer.att_edge, H + K, random);
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
                  "GraphAttention: a node listens to others, so it has no step; use forward");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    detail::RunEdges<Real> edges;  ///< the graph, which must live until backward
    Sequence<Real, F> x;
    Sequence<Real, W> g;
    Sequence<Real, W> f;                  ///< [E x H C], if features are asked for
    Buffer<Real> to, from, edge;          ///< a_dst·g, a_src·g [N][H], a_edge·f [E or types][H]
    const std::int32_t* which = nullptr;  ///< rows of `edge`
    Buffer<Real> p;                       ///< [snapshots][E][H]
  };

  Sequence<Real, out> forward(Sequence<Real, F> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    auto y = run(SequenceView<Real, F>(x), batch, cache, &cache.p);
    if (y.rows() == x.rows()) cache.x = std::move(x);
    return y;
  }

  /// With d = dy of a head (mean: its share), φ = LeakyReLU of u = a_dst·g_i + a_src·g_j + ...:
  ///   dp_ij = d_i·g_j,  ds_ij = p_ij (dp_ij - Σ_j p dp),  du_ij = ds_ij φ'(u),
  ///   dg_j = Σ_i (p_ij d_i + du_ij a_src) + Σ_k du_jk a_dst,  da_src = Σ du_ij g_j,
  ///   da_dst = Σ du_ij g_i,  df_ij = du_ij a_edge,  da_edge = Σ du_ij f_ij
  Sequence<Real, F> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& c,
                             GraphAttention& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.x.rows())) return {};
    const FlushDenormals guard;
    if constexpr (C.bias) add_bias_gradient<Real, out>(dy, gradient.bias);
    Sequence<Real, W> share;
    const auto d = detail::gradient_of_heads<C, Real>(dy, share);
    const Index rows = dy.rows(), edges = c.edges.graph->edges();
    Sequence<Real, W> dg(rows), df;
    Buffer<Real> to(rows * H), from(rows * H);
    auto edge = detail::zeros<Real>(says ? edges * H : 0);
    auto d_gate = detail::zeros<Real>(c.edges.gate.size());
    MatrixView<Real> d_edge;
    if constexpr (says) d_edge = {edge.data(), edges, H, H};
    edge_attention_backward<Real>(c.edges.call(H, K, c.g.matrix()), score(c), c.p.data(), d,
                                  {dg.matrix(), to.data(), from.data(), d_edge}, d_gate.data());
    const auto g_row = [&](Index t) { return c.g.data() + t * W; };
    back(to, rows, att_dst, g_row, &dg, gradient.att_dst);
    back(from, rows, att_src, g_row, &dg, gradient.att_src);
    if constexpr (says) {
      df = Sequence<Real, W>::zeros(edges);
      const auto f = rows_of(c);
      back(edge, edges, att_edge, [&](Index p) { return f.at(p); }, &df, gradient.att_edge);
    }
    detail::edge_rows_backward<C>(*this, c.edges, batch.context, df, d_gate, gradient);
    add_linear_weight_gradient<Real, W, F>(dg, c.x, gradient.lin);
    return linear_input_gradient<Real, W, F>(dg, lin);
  }

 private:
  static constexpr double slope = config.slope;

  /// Σ_c a x of each head and row.
  static Buffer<Real> dots(MatrixView<const Real> x, const Tensor<Real, 1, H, K>& a) {
    constexpr Index block = 256;
    Buffer<Real> result(x.rows * H);
    const double ns = detail::edge_ns * static_cast<double>(x.rows * W);
    parallel_for((x.rows + block - 1) / block, ns, [&](Index i) {
      const Index first = i * block, rows = std::min(block, x.rows - first);
      detail::sum_heads<Real>(rows, H, K, result.data() + first * H,
                              [&](Index t, Index c, auto load) {
                                return load(x.row(first + t) + c) * load(a.data() + c);
                              });
    });
    return result;
  }
  /// dx += d a,  da += Σ d x.  d [rows][H]
  template <class X>
  static void back(const Buffer<Real>& d, Index rows, const Tensor<Real, 1, H, K>& a, X&& x,
                   Sequence<Real, W>* dx, Tensor<Real, 1, H, K>& da) {
    using V = simd::Vec<Real>;
    for (Index t = 0; t < rows; ++t) {
      for (Index h = 0; h < H; ++h) {
        const V by(d[t * H + h]);
        const Real *const row = x(t) + h * K, *const aim = a.data() + h * K;
        Real *const to = dx->row_data(t) + h * K, *const sum = da.data() + h * K;
        simd::for_each<Real>(K, [&](Index c, auto load, auto store) {
          store(to + c, simd::fma(by, load(aim + c), load(to + c)));
          store(sum + c, simd::fma(by, load(row + c), load(sum + c)));
        });
      }
    }
  }

  EdgeRows<Real> rows_of(const Cache& cache) const {
    return detail::edge_rows<C>(*this, cache.edges, cache.f);
  }
  SumScore<Real> score(const Cache& c) const {
    SumScore<Real> s{c.to.data(), c.from.data(), {}, static_cast<Real>(slope)};
    if constexpr (says) s.edges = {{c.edge.data(), c.edge.size() / H, H, H}, c.which};
    return s;
  }

  Sequence<Real, out> run(SequenceView<Real, F> x, const Batch<State>& batch, Cache& c,
                          Buffer<Real>* p) const {
    if (!c.edges.find(batch, x.rows(), C)) return {};
    c.g = linear(x, lin);
    c.to = dots(c.g.matrix(), att_dst);
    c.from = dots(c.g.matrix(), att_src);
    if constexpr (says) {
      detail::fill_edge_rows<C>(*this, c.edges, c.f);
      const auto rows = rows_of(c);
      c.edge = dots(rows.rows, att_edge);
      c.which = rows.which;
    }
    return detail::attend_edges<C, Real>(c.edges.call(H, K, c.g.matrix()), score(c),
                                         data_or_null(bias), p);
  }
};

}  // namespace limen::inline LIMEN_ABI
