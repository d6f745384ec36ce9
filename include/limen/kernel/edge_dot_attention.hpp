#pragma once
/// @file  Attention along edges by dot products, where edges have keys and values of their own.
///
///   s_ij = scale q_i·(k_j + a_ij),  p = softmax over the edges j -> i,
///   y_i  = Σ_j p_ij g_ij (v_j + b_ij)                                for each head
///
///   q, y [snapshots nodes x H C]   k, v [snapshots sources x H C]   a, b [E x H C], by place, or
///   none p [snapshots][E][H]   g a number for each edge, or 1
///
/// A node without edges gets 0. An edge that is not kept is as if it were not there, whatever its
/// nodes hold. Sums have one order, given by the graph (kernel/segment.hpp).

#include <algorithm>
#include <limits>

#include <limen/kernel/segment.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
struct EdgeDotAttention {
  const Graph* graph;
  Index snapshots, heads;
  Real scale;
  MatrixView<const Real> q, k, v;
  MatrixView<const Real> edge_k = {}, edge_v = {};  ///< a and b
  const std::uint8_t* keep = nullptr;               ///< [E] by place, 0: not there; null: all are
  const Real* gate = nullptr;                       ///< g [E] by place, or null

  bool kept(Index place) const { return keep == nullptr || keep[place] != 0; }
  double ns() const { return 3 * detail::edge_ns * static_cast<double>(q.cols); }
};

/// dq, dk, dv are written, the others added to.
template <class Real>
struct EdgeDotGradient {
  MatrixView<Real> q, k, v;
  MatrixView<Real> edge_k = {}, edge_v = {};
  Real* gate = nullptr;  ///< [E] by place, or null
};

namespace detail {

/// Rows of one snapshot; zeros for edges that are not kept.
template <class Real>
struct DotRows {
  const EdgeDotAttention<Real>& a;
  const Real* zeros;
  Index snapshot;

  Index columns() const { return a.q.cols / a.heads; }
  const Real* to(MatrixView<const Real> x, Index i) const {
    return x.row(snapshot * a.graph->nodes() + i);
  }
  const Real* from(MatrixView<const Real> x, Index place) const {
    return a.kept(place) ? x.row(snapshot * a.graph->sources() + a.graph->from()[place]) : zeros;
  }
  const Real* of_edge(MatrixView<const Real> x, Index place) const {
    return a.kept(place) ? x.row(place) : zeros;
  }

  /// Asks for what edges after those to node i will read.
  void ask(Index i) const {
    for_edges_ahead(a.graph->starts(i), a.graph->degree(i), a.graph->edges(),
                    [&](Index place) __attribute__((always_inline)) {
                      const Index j = snapshot * a.graph->sources() + a.graph->from()[place];
                      ask_for(a.k.row(j), a.k.cols);
                      ask_for(a.v.row(j), a.v.cols);
                    });
  }
  /// out[k][h] = x·(from_j + e_ij) over the edges to node i; e may be none.
  void dots(Index i, const Real* x, MatrixView<const Real> nodes, MatrixView<const Real> edges,
            Real* out) const {
    const Index start = a.graph->starts(i), n = a.graph->degree(i), C = columns();
    if (edges.data == nullptr) {
      sum_heads<Real>(n, a.heads, C, out, [&](Index k, Index c, auto load) {
        return load(x + c) * load(from(nodes, start + k) + c);
      });
    } else {
      sum_heads<Real>(n, a.heads, C, out, [&](Index k, Index c, auto load) {
        return load(x + c) *
               (load(from(nodes, start + k) + c) + load(of_edge(edges, start + k) + c));
      });
    }
  }
  /// y = Σ w_ij (from_j + e_ij) over the edges to node i; w [edges][H].
  void sums(Index i, const Real* w, MatrixView<const Real> nodes, MatrixView<const Real> edges,
            Real* y) const {
    const Index start = a.graph->starts(i), n = a.graph->degree(i), C = columns();
    const auto weights = [&](Index k) { return w + k * a.heads; };
    weighted_rows<Real>(
        n, a.heads, C, weights, [&](Index k) { return from(nodes, start + k); }, y, nullptr);
    if (edges.data == nullptr) return;
    weighted_rows<Real>(
        n, a.heads, C, weights, [&](Index k) { return of_edge(edges, start + k); }, y, y);
  }
  /// w [edges][H] = p g
  void weights(Index start, Index n, const Real* p, Real* w) const {
    for (Index k = 0; k < n; ++k) {
      const Real g = a.gate != nullptr ? a.gate[start + k] : Real(1);
      for (Index h = 0; h < a.heads; ++h) w[k * a.heads + h] = p[k * a.heads + h] * g;
    }
    hush(start, n, w);
  }
  /// x [edges][H] becomes 0 at edges that are not kept, whatever it was.
  void hush(Index start, Index n, Real* x) const {
    for (Index k = 0; a.keep != nullptr && k < n; ++k) {
      if (!a.kept(start + k)) std::fill_n(x + k * a.heads, a.heads, Real(0));
    }
  }
  /// y += w x for each head.
  void add_weighted(const Real* w, const Real* x, Real* y) const {
    for (Index h = 0; h < a.heads; ++h) {
      const simd::Vec<Real> by(w[h]);
      const Index first = h * columns();
      simd::for_each<Real>(columns(), [&](Index c, auto load, auto store) {
        store(y + first + c, simd::fma(by, load(x + first + c), load(y + first + c)));
      });
    }
  }
};

}  // namespace detail

/// p may be null.
template <class Real>
void edge_dot_attention(const EdgeDotAttention<Real>& a, Real* p, MatrixView<Real> y) {
  const Graph& graph = *a.graph;
  const Index H = a.heads, most = graph.most_edges();
  Buffer<Real> zeros(a.q.cols);
  std::fill(zeros.begin(), zeros.end(), Real(0));
  for (Index s = 0; s < a.snapshots; ++s) {
    const detail::DotRows<Real> rows{a, zeros.data(), s};
    graph.for_pieces(a.ns(), [&](Index i, Index end, Index) {
      Buffer<Real> scores(detail::edge_room<Real>(most, H)), own(p == nullptr ? most * H : 0),
          w(most * H);
      for (; i < end; ++i) {
        const Index start = graph.starts(i), n = graph.degree(i);
        rows.ask(i);
        rows.dots(i, rows.to(a.q, i), a.k, a.edge_k, scores.data());
        for (Index q = 0; q < n * H; ++q) {
          scores[q] =
              a.kept(start + q / H) ? scores[q] * a.scale : -std::numeric_limits<Real>::infinity();
        }
        Real* const here = p != nullptr ? p + (s * graph.edges() + start) * H : own.data();
        detail::softmax_edges(scores.data(), n, H, here);
        rows.hush(start, n, here);
        rows.weights(start, n, here, w.data());
        rows.sums(i, w.data(), a.v, a.edge_v, y.row(s * graph.nodes() + i));
      }
    });
  }
}

/// With w = p g:  dw_ij = dy_i·(v_j + b_ij),  ds = p (g dw - Σ p g dw) scale,  dg_ij = Σ_h p dw,
///   dq_i = Σ_j ds (k_j + a_ij),  da_ij = ds q_i,  db_ij = w dy_i,
///   dk_j = Σ_i ds q_i,  dv_j = Σ_i w dy_i
template <class Real>
void edge_dot_attention_backward(const EdgeDotAttention<Real>& a, const Real* p,
                                 std::type_identity_t<MatrixView<const Real>> dy,
                                 const EdgeDotGradient<Real>& d) {
  const Graph& graph = *a.graph;
  const Index H = a.heads, nodes = graph.nodes();
  Buffer<Real> zeros(a.q.cols), all_ds(graph.edges() * H), all_w(graph.edges() * H);
  std::fill(zeros.begin(), zeros.end(), Real(0));
  for (Index s = 0; s < a.snapshots; ++s) {
    const detail::DotRows<Real> rows{a, zeros.data(), s};
    graph.for_pieces(2 * a.ns(), [&](Index i, Index end, Index) {
      for (; i < end; ++i) {
        const Index start = graph.starts(i), n = graph.degree(i);
        const Real *const down = rows.to(dy, i), *const q = rows.to(a.q, i),
                          *const here = p + (s * graph.edges() + start) * H;
        Real *const ds = all_ds.data() + start * H, *const w = all_w.data() + start * H;
        rows.ask(i);
        rows.dots(i, down, a.v, a.edge_v, ds);
        rows.weights(start, n, here, w);
        for (Index k = 0; a.gate != nullptr && k < n; ++k) {
          Real sum = 0;
          for (Index h = 0; h < H; ++h) sum += here[k * H + h] * ds[k * H + h];
          if (d.gate != nullptr && a.kept(start + k)) d.gate[start + k] += sum;
          for (Index h = 0; h < H; ++h) ds[k * H + h] *= a.gate[start + k];
        }
        rows.hush(start, n, ds);
        detail::softmax_edges_backward(here, ds, n, H, ds);
        for (Index k = 0; k < n * H; ++k) ds[k] *= a.scale;
        rows.hush(start, n, ds);  // not NaN, if that is the sum
        rows.sums(i, ds, a.k, a.edge_k, d.q.row(s * nodes + i));
        for (Index k = 0; d.edge_k.data != nullptr && k < n; ++k) {
          if (!a.kept(start + k)) continue;
          rows.add_weighted(ds + k * H, q, d.edge_k.row(start + k));
          rows.add_weighted(w + k * H, down, d.edge_v.row(start + k));
        }
      }
    });
    graph.for_source_pieces(a.ns(), [&](Index j, Index end, Index) {
      for (; j < end; ++j) {
        const Index start = graph.out_starts(j), n = graph.out_starts(j + 1) - start;
        const std::int32_t* const places = graph.out() + start;
        const auto ask = [&](Index k) __attribute__((always_inline)) {
          const Index place = graph.out()[k], i = graph.to()[place];
          detail::ask_for(rows.to(a.q, i), a.q.cols);
          detail::ask_for(rows.to(dy, i), dy.cols);
          detail::ask_for(all_ds.data() + place * H, H);
          detail::ask_for(all_w.data() + place * H, H);
        };
        detail::for_edges_ahead(start, n, graph.edges(), ask);
        const auto back = [&](const Real* w, MatrixView<const Real> x, Real* to) {
          detail::weighted_rows<Real>(
              n, H, rows.columns(), [&](Index k) { return w + places[k] * H; },
              [&](Index k) {
                return a.kept(places[k]) ? rows.to(x, graph.to()[places[k]]) : zeros.data();
              },
              to, nullptr);
        };
        back(all_ds.data(), a.q, d.k.row(s * graph.sources() + j));
        back(all_w.data(), dy, d.v.row(s * graph.sources() + j));
      }
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
