#pragma once
/// @file  Attention along the edges of a graph.
///
///   s_e = score of edge e, p = softmax of s over the edges to a node        for each head
///   y_i = Σ_e p_e g_e v_{from(e)} [+ start]             g: a gate for each edge, or 1
///
/// Two scores, both LeakyReLU φ of slope λ:
///
///   AdditiveScore   s_e = a·φ(r_{to(e)} + l_{from(e)} + f_e),  v = l           GATv2
///   SumScore        s_e = φ(t_{to(e)} + u_{from(e)} + f_e)                     GAT
///
/// Nothing of the size [E x H C] is written: each node gathers the rows it needs, once for scores
/// and values, and backward works scores out again. An edge that is not kept does not count, and
/// not even a NaN passes along it. Rows of nodes may hold several snapshots of the graph; numbers
/// of edges are then [snapshots][E][H], what is given for edges serves all of them.

#include <limits>

#include <limen/kernel/edge_scores.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// x [edges][H] of those edges that are not kept, from place `start` on.
template <class Real>
LIMEN_INLINE void fill_missing(const EdgeAttention<Real>& call, Index start, Index edges, Real* x,
                               std::type_identity_t<Real> value) {
  if (call.keep == nullptr) return;
  for (Index k = 0; k < edges; ++k) {
    if (call.kept(start + k)) continue;
    for (Index h = 0; h < call.heads; ++h) x[k * call.heads + h] = value;
  }
}

template <class Real>
LIMEN_INLINE void ask_for_sources(const EdgeAttention<Real>& call, Index snapshot, Index start,
                                  Index edges) {
  for_edges_ahead(start, edges, call.graph->edges(),
                  [&](Index place) __attribute__((always_inline)) {
                    ask_for(call.values.row(call.row_from(snapshot, call.graph->from()[place])),
                            call.values.cols);
                  });
}

template <class Real>
Buffer<Real> zeros(Index count) {
  Buffer<Real> all(count);
  for (Real& z : all) z = 0;
  return all;
}

}  // namespace detail

/// y [snapshots nodes x H C]; p [snapshots][E][H], or null if it is not asked for.
template <class Real, class Score>
void edge_attention(const EdgeAttention<Real>& call, const Score& score, Real* p,
                    MatrixView<Real> y) {
  const Graph& graph = *call.graph;
  const Index H = call.heads, room = detail::edge_room<Real>(graph.most_edges(), H);
  const auto nothing = detail::zeros<Real>(H * call.width);
  graph.for_pieces(2 * call.ns(), [&](Index first, Index end, Index) {
    Buffer<Real> scores(room), gated(call.gate != nullptr ? room : 0);
    for (Index s = 0; s < call.snapshots; ++s) {
      const detail::Gathered<Real> rows{call, nothing.data(), s};
      for (Index i = first; i < end; ++i) {
        const Index start = graph.starts(i), edges = graph.degree(i);
        detail::ask_for_sources(call, s, start, edges);
        detail::scores_of(score, rows, i, scores.data());
        detail::fill_missing(call, start, edges, scores.data(),
                             -std::numeric_limits<Real>::infinity());
        Real* const to = p != nullptr ? p + call.at(s, start) : scores.data();
        detail::softmax_edges(scores.data(), edges, H, to);
        detail::fill_missing(call, start, edges, to, Real(0));  // not NaN, if that is the sum
        const Real* w = to;
        if (call.gate != nullptr) {
          for (Index q = 0; q < edges * H; ++q) gated[q] = to[q] * call.gate[start + q / H];
          w = gated.data();
        }
        detail::weighted_rows<Real>(
            edges, H, call.width, [&](Index k) { return w + k * H; },
            [&](Index k) { return rows.from(call.values, start + k); }, y.row(call.row_to(s, i)),
            call.start);
      }
    }
  });
}

/// From dy [snapshots nodes x H C] and the p of forward. `d_gate` [E] by place is added to, or
/// null.
template <class Real, class Score>
void edge_attention_backward(const EdgeAttention<Real>& call, const Score& score, const Real* p,
                             std::type_identity_t<MatrixView<const Real>> dy,
                             const typename Score::Gradient& d, Real* d_gate = nullptr) {
  const Graph& graph = *call.graph;
  const Index H = call.heads, numbers = call.snapshots * graph.edges() * H;
  const Index room = detail::edge_room<Real>(graph.most_edges(), H);
  constexpr bool additive = requires { score.a; };
  const Index columns = H * call.width;
  const auto nothing = detail::zeros<Real>(columns);
  // Each piece sums da alone; the pieces are then added in turn.
  auto da = detail::zeros<Real>(additive ? graph.pieces() * columns : 0);
  Buffer<Real> ds(numbers), gated(call.gate != nullptr ? numbers : 0);
  graph.for_pieces(3 * call.ns(), [&](Index first, Index end, Index piece) {
    Buffer<Real> dp(room);
    for (Index s = 0; s < call.snapshots; ++s) {
      const detail::Gathered<Real> rows{call, nothing.data(), s};
      for (Index i = first; i < end; ++i) {
        const Index start = graph.starts(i), edges = graph.degree(i), at = call.at(s, start);
        const Real* const dy_row = dy.row(call.row_to(s, i));
        detail::ask_for_sources(call, s, start, edges);
        detail::sum_heads<Real>(edges, H, call.width, dp.data(), [&](Index k, Index c, auto load) {
          return load(dy_row + c) * load(rows.from(call.values, start + k) + c);
        });
        for (Index q = 0; call.gate != nullptr && q < edges * H; ++q) {
          const Index place = start + q / H;
          gated[at + q] = p[at + q] * call.gate[place];
          if (d_gate != nullptr) d_gate[place] += p[at + q] * dp[q];
          dp[q] *= call.gate[place];
        }
        detail::softmax_edges_backward(p + at, dp.data(), edges, H, ds.data() + at);
        detail::fill_missing(call, start, edges, ds.data() + at, Real(0));
        detail::back_to(score, rows, i, ds.data() + at, d,
                        additive ? da.data() + piece * columns : nullptr);
      }
    }
  });
  if constexpr (additive) {
    for (Index piece = 0; piece < graph.pieces(); ++piece) {
      for (Index c = 0; c < columns; ++c) d.a[c] += da[piece * columns + c];
    }
  }
  const Real* const w = call.gate != nullptr ? gated.data() : p;
  graph.for_source_pieces(3 * call.ns(), [&](Index first, Index end, Index) {
    for (Index s = 0; s < call.snapshots; ++s) {
      const detail::Gathered<Real> rows{call, nothing.data(), s};
      for (Index j = first; j < end; ++j) {
        const Index start = graph.out_starts(j);
        const auto ask_for_edge = [&](Index k) __attribute__((always_inline)) {
          const Index place = graph.out()[k], row = call.row_to(s, graph.to()[place]);
          detail::ask_for(dy.row(row), columns);
          detail::ask_for(w + call.at(s, place), H);
          detail::ask_for(ds.data() + call.at(s, place), H);
          if constexpr (additive) {
            detail::ask_for(score.to.row(row), columns);
            if (score.edges.given()) detail::ask_for(score.edges.at(place), columns);
          }
        };
        detail::for_edges_ahead(start, graph.out_starts(j + 1) - start, graph.edges(),
                                ask_for_edge);
        detail::back_from(score, rows, j, w, ds.data(), dy, d);
      }
    }
  });
}

}  // namespace limen::inline LIMEN_ABI
