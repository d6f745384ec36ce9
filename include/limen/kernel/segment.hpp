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

#include <limits>
#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/graph.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

constexpr Index least(Index a, Index b) { return a < b ? a : b; }

/// Numbers that `softmax_edges` may touch for so many edges.
template <class Real>
constexpr Index edge_room(Index edges, Index heads) {
  return edges * heads + 2 * simd::lanes<Real>;
}

/// [edges][heads], a vector at a time: the lanes of the vector at q are heads `first`, `first` + 1,
/// ... over and over, `active` of them. Vectors are `stride` apart.
template <class Real>
struct HeadLanes {
  using V = simd::Vec<Real>;
  static constexpr Index width = simd::lanes<Real>;

  Index heads, count;  ///< numbers in all
  bool narrow = heads <= width;
  Index active = narrow ? width - width % heads : width;
  Index stride = narrow ? active : heads;

  HeadLanes(Index edges, Index h) : heads(h), count(edges * h) {}

  /// f(q, lanes) for the vectors of heads `first` and on.
  template <class F>
  LIMEN_INLINE void each(Index first, F&& f) const {
    const Index here = narrow ? active : least(width, heads - first);
    for (Index q = 0; q < count - first; q += stride) f(q, narrow ? least(here, count - q) : here);
  }
  template <class F>
  LIMEN_INLINE void each_group(F&& f) const {
    for (Index first = 0; first < heads; first += narrow ? heads : width) f(first);
  }

  /// Each lane becomes what all lanes of its head come to. The lanes past `active` do not count.
  template <class F>
  LIMEN_INLINE V over_edges(V v, F&& join) const {
    if (!narrow || heads == width) return v;
#if !defined(LIMEN_SCALAR)
    if ((heads & (heads - 1)) == 0) {
      if constexpr (width > 1) {
        if (heads <= 1) v = join(v, simd::detail::rotate<1>(v));
      }
      if constexpr (width > 2) {
        if (heads <= 2) v = join(v, simd::detail::rotate<2>(v));
      }
      if constexpr (width > 4) {
        if (heads <= 4) v = join(v, simd::detail::rotate<4>(v));
      }
      if constexpr (width > 8) v = join(v, simd::detail::rotate<8>(v));
      return v;
    }
#endif
    alignas(64) Real all[V::size];
    simd::store(all, v);
    for (Index l = active - 1; l >= heads; --l) {
      all[l - heads] = join(all[l - heads], all[l]);
    }
    for (Index l = heads; l < width; ++l) all[l] = all[l - heads];
    return simd::load<V>(all);
  }
};

template <class Real>
struct Sum {
  using V = simd::Vec<Real>;
  LIMEN_INLINE V operator()(const V& a, const V& b) const { return a + b; }
  LIMEN_INLINE Real operator()(Real a, Real b) const { return a + b; }
};
template <class Real>
struct Larger {  // NaN is passed over
  using V = simd::Vec<Real>;
  LIMEN_INLINE V operator()(const V& a, const V& b) const { return simd::max(b, a); }
  LIMEN_INLINE Real operator()(Real a, Real b) const { return b > a ? b : a; }
};

/// s [edges][H], with edge_room -> p [edges][H], which may be s. s is overwritten.
template <class Real>
LIMEN_INLINE void softmax_edges(Real* s, Index edges, Index heads, Real* p) {
  using V = simd::Vec<Real>;
  constexpr Real nothing = -std::numeric_limits<Real>::infinity();
  const HeadLanes<Real> lanes(edges, heads);
  simd::store(s + lanes.count, V(nothing));
  simd::store(s + lanes.count + lanes.width, V(nothing));
  lanes.each_group([&](Index first) {
    Real* const x = s + first;
    V most(nothing);
    lanes.each(first, [&](Index q, Index) { most = Larger<Real>()(most, simd::load<V>(x + q)); });
    most = lanes.over_edges(most, Larger<Real>());
    const V shift = simd::select(most == V(nothing), V(Real(0)), most);
    V sum(Real(0));
    lanes.each(first, [&](Index q, Index) {
      const V e = math::exp(simd::load<V>(x + q) - shift);
      simd::store(x + q, e, lanes.narrow ? lanes.active : least(lanes.width, heads - first));
      sum = sum + e;
    });
    sum = lanes.over_edges(sum, Sum<Real>());
    const V scale = simd::select(sum == V(Real(0)), V(Real(0)), V(Real(1)) / sum);
    lanes.each(first, [&](Index q, Index n) {
      simd::store(p + first + q, simd::load<V>(x + q) * scale, n);
    });
  });
}

/// ds = p ⊙ (dp - Σ p dp), all [edges][H].  `ds` may be `dp`.
template <class Real>
LIMEN_INLINE void softmax_edges_backward(const Real* p, const Real* dp, Index edges, Index heads,
                                         Real* ds) {
  using V = simd::Vec<Real>;
  const HeadLanes<Real> lanes(edges, heads);
  lanes.each_group([&](Index first) {
    V dot(Real(0));
    lanes.each(first, [&](Index q, Index n) {
      dot = simd::fma(simd::load<V>(p + first + q, n), simd::load<V>(dp + first + q, n), dot);
    });
    dot = lanes.over_edges(dot, Sum<Real>());
    lanes.each(first, [&](Index q, Index n) {
      const V d = simd::load<V>(p + first + q, n) * (simd::load<V>(dp + first + q, n) - dot);
      simd::store(ds + first + q, d, n);
    });
  });
}

/// out[k][h] = Σ_c f(k, h C + c, load): f gives vectors, 0 where `load` reads past the head.
template <class Real, class F>
LIMEN_INLINE void sum_heads(Index edges, Index heads, Index C, Real* out, F&& f) {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
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

/// Up to four vectors of columns, none across two heads.
struct Columns {
  Index first[4], lanes[4], head[4];
};

/// f(size, columns) over the columns of H heads of C, `size` (a constant) vectors at a time.
template <class Real, class F>
LIMEN_INLINE void for_columns(Index heads, Index C, F&& f) {
  constexpr Index width = simd::lanes<Real>;
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

/// y [H C] = start + Σ_k w(k)[h] x(k)[h C + c]: w and x give where numbers of edge k lie. `start`
/// may be y, or null.
template <class Real, class W, class X>
LIMEN_INLINE void weighted_rows(Index edges, Index heads, Index C, W&& w, X&& x, Real* y,
                                std::type_identity_t<const Real*> start) {
  using V = simd::Vec<Real>;
  for_columns<Real>(heads, C, [&](auto size, const Columns& at) {
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
      const Index start = graph.starts(i);
      detail::weighted_rows<Real>(
          graph.degree(i), heads, x.cols / heads, [&](Index k) { return w + (start + k) * heads; },
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
          const Index start = graph.out_starts(j);
          const std::int32_t* const places = graph.out() + start;
          detail::weighted_rows<Real>(
              graph.out_starts(j + 1) - start, heads, dy.cols / heads,
              [&](Index k) { return w + places[k] * heads; },
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
      const Index start = graph.starts(i);
      const Real* const d = dy.row(i);
      detail::sum_heads<Real>(graph.degree(i), heads, x.cols / heads, dw + start * heads,
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
          const Index start = graph.out_starts(j);
          detail::weighted_rows<Real>(
              graph.out_starts(j + 1) - start, 1, v.cols, [&](Index) { return &one; },
              [&](Index k) { return v.row(graph.out()[start + k]); }, y.row(j), nullptr);
        }
      });
}

}  // namespace limen::inline LIMEN_ABI
