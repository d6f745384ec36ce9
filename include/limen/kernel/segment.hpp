#pragma once
/// @file  Numbers of edges, and what they come to at the nodes of a graph.
///
///   segment_softmax     p_e = e^(s_e - m) / Σ e^(s - m)        over the edges to one node, m = max
///   s
///   ... _backward       ds_e = p_e (dp_e - Σ p dp)
///   flow                y_i = Σ_e w_e x_{from(e)}              over the edges to i
///   flow_back           dx_j += Σ_e w_e dy_{to(e)}             over the edges from j
///   edge_dots           dw_e = dy_{to(e)}·x_{from(e)}
///   sum_to, sum_from    y_i = Σ_e v_e                          over the edges to i, or from i
///
/// Numbers of edges are [E][H], by place, H heads side by side; rows of nodes are H heads of C
/// columns. Each sum has one order, given by the graph: the same bits on any number of threads.
///
/// A node without edges, or whose scores are all -inf, has probabilities 0, and 0 flows into it.
/// NaN (and +inf, which has no answer) stays in its node and head.

#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/edge_softmax.hpp>
#include <limen/kernel/graph.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// f(type_identity<V>) with the vectors for heads of C columns: where a head is just as wide as a
/// narrower one, that, and no lane is masked.
template <class Real, class F>
LIMEN_INLINE void with_vectors(Index C, F&& f) {
  constexpr Index lanes = simd::lanes<Real>;
  if constexpr (lanes >= 4) {
    using Half = simd::Sized<Real, lanes / 2>;
    if constexpr (!std::is_void_v<Half>) {
      if (C == lanes / 2) return f(std::type_identity<Half>());
    }
  }
  if constexpr (lanes >= 8) {
    using Quarter = simd::Sized<Real, lanes / 4>;
    if constexpr (!std::is_void_v<Quarter>) {
      if (C == lanes / 4) return f(std::type_identity<Quarter>());
    }
  }
  f(std::type_identity<simd::Vec<Real>>());
}

template <class V, class Real, class F>
LIMEN_INLINE void sum_heads_by(Index edges, Index heads, Index C, Real* out, F&& f) {
  constexpr Index width = static_cast<Index>(V::size);
  constexpr std::size_t together = width < 4 ? V::size : 4;
  V sums[together];
  std::size_t filled = 0;
  for (Index k = 0; k < edges; ++k) {
    for (Index h = 0; h < heads; ++h) {
      V sum(Real(0));
      for (Index c = 0; c < C; c += width) {
        const Index n = C - c;
        sum = sum + f(k, h * C + c, [n](const Real* x) { return simd::load<V>(x, n); });
      }
      sums[filled++] = sum;
      if (filled == together) {
        simd::store(out, simd::reduce_add_each<together>(sums), static_cast<Index>(together));
        out += together;
        filled = 0;
      }
    }
  }
  for (std::size_t i = 0; i < filled; ++i) *out++ = simd::reduce_add(sums[i]);
}

/// out[k][h] = Σ_c f(k, h C + c, load): f gives vectors, 0 where `load` reads past the head.
template <class Real, class F>
LIMEN_INLINE void sum_heads(Index edges, Index heads, Index C, Real* out, F&& f) {
  with_vectors<Real>(
      C, [&]<class V>(std::type_identity<V>) { sum_heads_by<V>(edges, heads, C, out, f); });
}

/// Up to four vectors of columns, none across two heads.
struct Columns {
  Index first[4], lanes[4], head[4];
};

/// f(size, columns) over the columns of H heads of C, `size` (a constant) vectors V at a time.
template <class V, class F>
LIMEN_INLINE void for_columns_by(Index heads, Index C, F&& f) {
  constexpr Index width = static_cast<Index>(V::size);
  Columns at;
  int filled = 0;
  for (Index h = 0; h < heads; ++h) {
    for (Index c = 0; c < C; c += width) {
      at.first[filled] = h * C + c;
      at.lanes[filled] = C - c;
      at.head[filled] = h;
      if (++filled == 4) {
        f(std::integral_constant<int, 4>(), at);
        filled = 0;
      }
    }
  }
  if (filled == 1) f(std::integral_constant<int, 1>(), at);
  if (filled == 2) f(std::integral_constant<int, 2>(), at);
  if (filled == 3) f(std::integral_constant<int, 3>(), at);
}
/// f(type_identity<V>, size, columns), V as with_vectors has it.
template <class Real, class F>
LIMEN_INLINE void for_columns(Index heads, Index C, F&& f) {
  with_vectors<Real>(C, [&]<class V>(std::type_identity<V> v) {
    for_columns_by<V>(heads, C, [&](auto size, const Columns& at) { f(v, size, at); });
  });
}

/// y [H C] = start + Σ_k w(k)[h] x(k)[h C + c]: w and x give where numbers of edge k lie. `start`
/// may be y, or null.
template <class Real, class W, class X>
LIMEN_INLINE void weighted_rows(Index edges, Index heads, Index C, W&& w, X&& x, Real* y,
                                std::type_identity_t<const Real*> start) {
  for_columns<Real>(heads, C, [&]<class V>(std::type_identity<V>, auto size, const Columns& at) {
    constexpr int N = decltype(size)::value;
    V sum[N];
    LIMEN_UNROLL for (int i = 0; i < N; ++i) {
      sum[i] = start != nullptr ? simd::load<V>(start + at.first[i], at.lanes[i]) : V(Real(0));
    }
    for (Index k = 0; k < edges; ++k) {
      const Real* const weights = w(k);
      const Real* const row = x(k);
      LIMEN_UNROLL for (int i = 0; i < N; ++i) {
        sum[i] = simd::fma(V(weights[at.head[i]]), simd::load<V>(row + at.first[i], at.lanes[i]),
                           sum[i]);
      }
    }
    LIMEN_UNROLL for (int i = 0; i < N; ++i) { simd::store(y + at.first[i], sum[i], at.lanes[i]); }
  });
}

/// Rows of neighbours lie anywhere, and in front of the second-level cache there is room for few:
/// those of the edges `edges_ahead` places on are asked for, f(place) for each of them. f must be
/// always_inline: g++ finds that a function which only asks does nothing, and drops its calls.
inline constexpr Index edges_ahead = 16;

template <class F>
LIMEN_INLINE void for_edges_ahead(Index start, Index edges, Index all, F&& f) {
  const Index end = least(start + edges + edges_ahead, all);
  for (Index place = start + edges_ahead; place < end; ++place) f(place);
}
/// Of a long row its beginning; a machine guesses the rest.
template <class Real>
LIMEN_INLINE void ask_for(const Real* row, Index columns) {
  simd::prefetch(row, least(columns, 1024 / static_cast<Index>(sizeof(Real))));
}

inline constexpr double edge_ns = 0.2;  ///< of a number of an edge, for the choice of threads

}  // namespace detail

/// p = softmax of s over the edges to each node.  s, p [E][H]; `p` may be `s`.
template <class Real>
void segment_softmax(const Graph& graph, Index heads, const Real* s, Real* p) {
  graph.for_pieces(4 * detail::edge_ns * static_cast<double>(heads),
                   [&](Index i, Index end, Index) {
                     Buffer<Real> room(detail::edge_room<Real>(graph.most_edges(), heads));
                     for (; i < end; ++i) {
                       const Index at = graph.starts(i) * heads, n = graph.degree(i);
                       for (Index q = 0; q < n * heads; ++q) room[q] = s[at + q];
                       detail::softmax_edges(room.data(), n, heads, p + at);
                     }
                   });
}

/// ds = p ⊙ (dp - Σ p dp).  p, dp, ds [E][H]; `ds` may be `dp`.
template <class Real>
void segment_softmax_backward(const Graph& graph, Index heads, const Real* p, const Real* dp,
                              Real* ds) {
  graph.for_pieces(
      2 * detail::edge_ns * static_cast<double>(heads), [&](Index i, Index end, Index) {
        for (; i < end; ++i) {
          const Index at = graph.starts(i) * heads;
          detail::softmax_edges_backward(p + at, dp + at, graph.degree(i), heads, ds + at);
        }
      });
}

/// y_i = Σ_e w_e x_{from(e)}        w [E][H], x [sources x H C], y [nodes x H C]
template <class Real>
void flow(const Graph& graph, Index heads, const Real* w,
          std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> y) {
  graph.for_pieces(detail::edge_ns * static_cast<double>(x.cols), [&](Index i, Index end, Index) {
    for (; i < end; ++i) {
      const Index start = graph.starts(i), edges = graph.degree(i);
      detail::for_edges_ahead(start, edges, graph.edges(),
                              [&](Index place) __attribute__((always_inline)) {
                                detail::ask_for(x.row(graph.from()[place]), x.cols);
                              });
      detail::weighted_rows<Real>(
          edges, heads, x.cols / heads, [&](Index k) { return w + (start + k) * heads; },
          [&](Index k) { return x.row(graph.from()[start + k]); }, y.row(i), nullptr);
    }
  });
}

/// dx_j += Σ_e w_e dy_{to(e)}       w [E][H], dy [nodes x H C], dx [sources x H C]
template <class Real>
void flow_back(const Graph& graph, Index heads, const Real* w,
               std::type_identity_t<MatrixView<const Real>> dy, MatrixView<Real> dx) {
  graph.for_source_pieces(
      detail::edge_ns * static_cast<double>(dy.cols), [&](Index j, Index end, Index) {
        for (; j < end; ++j) {
          const Index start = graph.out_starts(j), edges = graph.out_starts(j + 1) - start;
          const std::int32_t* const places = graph.out() + start;
          detail::for_edges_ahead(start, edges, graph.edges(),
                                  [&](Index k) __attribute__((always_inline)) {
                                    detail::ask_for(dy.row(graph.to()[graph.out()[k]]), dy.cols);
                                  });
          detail::weighted_rows<Real>(
              edges, heads, dy.cols / heads, [&](Index k) { return w + places[k] * heads; },
              [&](Index k) { return dy.row(graph.to()[places[k]]); }, dx.row(j), dx.row(j));
        }
      });
}

/// dw_e = dy_{to(e)}·x_{from(e)} for each head.        dy [nodes x H C], x [sources x H C], dw
/// [E][H]
template <class Real>
void edge_dots(const Graph& graph, Index heads, std::type_identity_t<MatrixView<const Real>> dy,
               std::type_identity_t<MatrixView<const Real>> x, Real* dw) {
  graph.for_pieces(detail::edge_ns * static_cast<double>(x.cols), [&](Index i, Index end, Index) {
    for (; i < end; ++i) {
      const Index start = graph.starts(i), edges = graph.degree(i);
      const Real* const d = dy.row(i);
      detail::for_edges_ahead(start, edges, graph.edges(),
                              [&](Index place) __attribute__((always_inline)) {
                                detail::ask_for(x.row(graph.from()[place]), x.cols);
                              });
      detail::sum_heads<Real>(edges, heads, x.cols / heads, dw + start * heads,
                              [&](Index k, Index c, auto load) {
                                return load(d + c) * load(x.row(graph.from()[start + k]) + c);
                              });
    }
  });
}

/// y_i = Σ_e v_e over the edges to i.        v [E x D], by place, y [nodes x D]
template <class Real>
void sum_to(const Graph& graph, std::type_identity_t<MatrixView<const Real>> v,
            MatrixView<Real> y) {
  const Real one = 1;
  graph.for_pieces(detail::edge_ns * static_cast<double>(v.cols), [&](Index i, Index end, Index) {
    for (; i < end; ++i) {
      detail::weighted_rows<Real>(
          graph.degree(i), 1, v.cols, [&](Index) { return &one; },
          [&](Index k) { return v.row(graph.starts(i) + k); }, y.row(i), nullptr);
    }
  });
}

/// y_j = Σ_e v_e over the edges from j.        v [E x D], by place, y [sources x D]
template <class Real>
void sum_from(const Graph& graph, std::type_identity_t<MatrixView<const Real>> v,
              MatrixView<Real> y) {
  const Real one = 1;
  graph.for_source_pieces(
      detail::edge_ns * static_cast<double>(v.cols), [&](Index j, Index end, Index) {
        for (; j < end; ++j) {
          const Index start = graph.out_starts(j), edges = graph.out_starts(j + 1) - start;
          detail::for_edges_ahead(start, edges, graph.edges(),
                                  [&](Index k) __attribute__((always_inline)) {
                                    detail::ask_for(v.row(graph.out()[k]), v.cols);
                                  });
          detail::weighted_rows<Real>(
              edges, 1, v.cols, [&](Index) { return &one; },
              [&](Index k) { return v.row(graph.out()[start + k]); }, y.row(j), nullptr);
        }
      });
}

}  // namespace limen::inline LIMEN_ABI
