#pragma once
/// @file  Scores of edges, and their gradients: edge_attention.hpp.
///
///   AdditiveScore   s_e = a·φ(r_{to(e)} + l_{from(e)} + f_e),  v = l           GATv2
///   SumScore        s_e = φ(t_{to(e)} + u_{from(e)} + f_e)                     GAT
///
/// φ is LeakyReLU of slope λ. An edge that is not kept does not count, and not even a NaN passes
/// along it.

#include <cstdint>
#include <type_traits>

#include <limen/kernel/segment.hpp>

namespace limen::inline LIMEN_ABI {

/// Who listens to whom, and where the values are.
template <class Real>
struct EdgeAttention {
  const Graph* graph;
  Index snapshots = 1;
  Index heads = 1, width = 1;          ///< H, C
  MatrixView<const Real> values = {};  ///< v [snapshots sources x H C]
  const std::uint8_t* keep = nullptr;  ///< [E] by place; null: all
  const Real* gate = nullptr;          ///< g [E] by place; null: 1
  const Real* start = nullptr;         ///< [H C], added to y; null: 0

  Index row_to(Index s, Index i) const { return s * graph->nodes() + i; }
  Index row_from(Index s, Index j) const { return s * graph->sources() + j; }
  /// Where numbers of the edge at a place are.
  Index at(Index s, Index place) const { return (s * graph->edges() + place) * heads; }
  bool kept(Index place) const { return keep == nullptr || keep[place] != 0; }
  double ns() const { return detail::edge_ns * static_cast<double>(snapshots * heads * width); }
};

/// A row of numbers for each edge, by place, or for each type of edge.
template <class Real>
struct EdgeRows {
  MatrixView<const Real> rows = {};
  const std::int32_t* which = nullptr;  ///< [E]: rows are types; null: rows are places

  const Real* at(Index place) const { return rows.row(which != nullptr ? which[place] : place); }
  bool given() const { return rows.data != nullptr; }
};

template <class Real>
struct AdditiveScore {
  MatrixView<const Real> to;  ///< r [snapshots nodes x H C]; l are the values
  const Real* a;              ///< [H][C]
  EdgeRows<Real> edges = {};  ///< f [H C]
  Real slope = Real(0.2);     ///< λ, 0 to 1

  struct Gradient {
    MatrixView<Real> values;      ///< dl, written
    MatrixView<Real> to;          ///< dr, written
    Real* a;                      ///< added
    MatrixView<Real> edges = {};  ///< [E x H C] by place, added; or nobody asks
  };
};

template <class Real>
struct SumScore {
  const Real* to;             ///< t [snapshots nodes][H]
  const Real* from;           ///< u [snapshots sources][H]
  EdgeRows<Real> edges = {};  ///< f [H]
  Real slope = Real(0.2);     ///< λ, 0 to 1

  struct Gradient {
    MatrixView<Real> values;      ///< dv, written
    Real* to;                     ///< dt, written
    Real* from;                   ///< du, written
    MatrixView<Real> edges = {};  ///< [E x H] by place, added; or nobody asks
  };
};

namespace detail {

template <class V>
LIMEN_INLINE V leaky(const V& u, const V& slope) {
  return simd::max(u * slope, u);  // in this order NaN stays
}

/// Rows of an attention, with zeros for edges that are not kept.
template <class Real>
struct Gathered {
  const EdgeAttention<Real>& call;
  const Real* zeros;
  Index snapshot;

  const Real* from(MatrixView<const Real> x, Index place) const {
    if (!call.kept(place)) return zeros;
    return x.row(call.row_from(snapshot, call.graph->from()[place]));
  }
  const Real* to(MatrixView<const Real> x, Index place) const {
    if (!call.kept(place)) return zeros;
    return x.row(call.row_to(snapshot, call.graph->to()[place]));
  }
  const Real* edge(const EdgeRows<Real>& f, Index place) const {
    return call.kept(place) ? f.at(place) : zeros;
  }
};

template <class Real>
LIMEN_INLINE void scores_of(const AdditiveScore<Real>& score, const Gathered<Real>& rows, Index i,
                            Real* s) {
  const auto& call = rows.call;
  const Index start = call.graph->starts(i), edges = call.graph->degree(i);
  const Real* const r = score.to.row(call.row_to(rows.snapshot, i));
  const auto run = [&](auto with_edges) {
    sum_heads<Real>(edges, call.heads, call.width, s, [&](Index k, Index c, auto load) {
      auto u = load(r + c) + load(rows.from(call.values, start + k) + c);
      if constexpr (with_edges) u = u + load(rows.edge(score.edges, start + k) + c);
      return load(score.a + c) * leaky(u, decltype(u)(score.slope));
    });
  };
  score.edges.given() ? run(std::true_type()) : run(std::false_type());
}

template <class Real>
LIMEN_INLINE void scores_of(const SumScore<Real>& score, const Gathered<Real>& rows, Index i,
                            Real* s) {
  using V = simd::Vec<Real>;
  const auto& call = rows.call;
  const Index H = call.heads, start = call.graph->starts(i), edges = call.graph->degree(i);
  const Real* const t = score.to + call.row_to(rows.snapshot, i) * H;
  const V slope(score.slope);
  for (Index k = 0; k < edges; ++k) {
    const Real* const u = rows.from({score.from, 0, H, H}, start + k);
    const Real* const f = score.edges.given() ? rows.edge(score.edges, start + k) : nullptr;
    simd::for_each<Real>(H, [&](Index h, auto load, auto store) {
      V sum = load(t + h) + load(u + h);
      if (f != nullptr) sum = sum + load(f + h);
      store(s + k * H + h, leaky(sum, slope));
    });
  }
}

/// dr, da and df of the edges to node i.
template <class Real>
LIMEN_INLINE void back_to(const AdditiveScore<Real>& score, const Gathered<Real>& rows, Index i,
                          const Real* ds, const typename AdditiveScore<Real>::Gradient& d,
                          Real* da) {
  const auto& call = rows.call;
  const Index H = call.heads, start = call.graph->starts(i), edges = call.graph->degree(i);
  const Index row = call.row_to(rows.snapshot, i);
  const Real* const r_row = score.to.row(row);
  Real* const dr_row = d.to.row(row);
  const auto run = [&](auto with_edges) {
    for_columns<Real>(H, call.width,
                      [&]<class V>(std::type_identity<V>, auto size, const Columns& at) {
                        constexpr int N = decltype(size)::value;
                        const V slope(score.slope);
                        V r[N], a[N], dr[N], sum[N];
                        LIMEN_UNROLL for (int n = 0; n < N; ++n) {
                          r[n] = simd::load<V>(r_row + at.first[n], at.lanes[n]);
                          a[n] = simd::load<V>(score.a + at.first[n], at.lanes[n]);
                          sum[n] = simd::load<V>(da + at.first[n], at.lanes[n]);
                          dr[n] = V(Real(0));
                        }
                        for (Index k = 0; k < edges; ++k) {
                          const Real* const l = rows.from(call.values, start + k);
                          const Real* f = nullptr;
                          Real* df = nullptr;
                          if constexpr (with_edges) {
                            f = rows.edge(score.edges, start + k);
                            if (d.edges.data != nullptr) df = d.edges.row(start + k);
                          }
                          LIMEN_UNROLL for (int n = 0; n < N; ++n) {
                            const Index c = at.first[n], lanes = at.lanes[n];
                            V u = r[n] + simd::load<V>(l + c, lanes);
                            if constexpr (with_edges) u = u + simd::load<V>(f + c, lanes);
                            const V e(ds[k * H + at.head[n]]), t = e * a[n];
                            const V du = simd::select(u > V(Real(0)), t, t * slope);
                            sum[n] = simd::fma(e, leaky(u, slope), sum[n]);
                            dr[n] = dr[n] + du;
                            if constexpr (with_edges) {
                              if (df != nullptr)
                                simd::store(df + c, simd::load<V>(df + c, lanes) + du, lanes);
                            }
                          }
                        }
                        LIMEN_UNROLL for (int n = 0; n < N; ++n) {
                          simd::store(dr_row + at.first[n], dr[n], at.lanes[n]);
                          simd::store(da + at.first[n], sum[n], at.lanes[n]);
                        }
                      });
  };
  score.edges.given() ? run(std::true_type()) : run(std::false_type());
}

/// dt and df of the edges to node i; `ds` becomes the gradient in front of φ.
template <class Real>
LIMEN_INLINE void back_to(const SumScore<Real>& score, const Gathered<Real>& rows, Index i,
                          Real* ds, const typename SumScore<Real>::Gradient& d, Real*) {
  using V = simd::Vec<Real>;
  const auto& call = rows.call;
  const Index H = call.heads, start = call.graph->starts(i), edges = call.graph->degree(i);
  const Index row = call.row_to(rows.snapshot, i) * H;
  const Real* const t = score.to + row;
  Real* const dt = d.to + row;
  const V slope(score.slope);
  simd::for_each<Real>(H, [&](Index h, auto load, auto store) {
    const V listens = load(t + h);
    V all(Real(0));
    for (Index k = 0; k < edges; ++k) {
      V sum = listens + load(rows.from({score.from, 0, H, H}, start + k) + h);
      if (score.edges.given()) sum = sum + load(rows.edge(score.edges, start + k) + h);
      const V e = load(ds + k * H + h);
      const V de = simd::select(sum > V(Real(0)), e, e * slope);
      store(ds + k * H + h, de);
      all = all + de;
      if (d.edges.data != nullptr) {
        Real* const df = d.edges.row(start + k) + h;
        store(df, load(df) + de);
      }
    }
    store(dt + h, all);
  });
}

/// dl of node j, as value and in the scores.
template <class Real>
LIMEN_INLINE void back_from(const AdditiveScore<Real>& score, const Gathered<Real>& rows, Index j,
                            const Real* w, const Real* ds, MatrixView<const Real> dy,
                            const typename AdditiveScore<Real>::Gradient& d) {
  const auto& call = rows.call;
  const Index H = call.heads, start = call.graph->out_starts(j);
  const Index edges = call.graph->out_starts(j + 1) - start, row = call.row_from(rows.snapshot, j);
  const std::int32_t* const places = call.graph->out() + start;
  const auto run = [&](auto with_edges) {
    for_columns<Real>(
        H, call.width, [&]<class V>(std::type_identity<V>, auto size, const Columns& at) {
          constexpr int N = decltype(size)::value;
          const V slope(score.slope);
          V l[N], a[N], sum[N];
          LIMEN_UNROLL for (int n = 0; n < N; ++n) {
            l[n] = simd::load<V>(call.values.row(row) + at.first[n], at.lanes[n]);
            a[n] = simd::load<V>(score.a + at.first[n], at.lanes[n]);
            sum[n] = V(Real(0));
          }
          for (Index k = 0; k < edges; ++k) {
            const Index place = places[k], e = call.at(rows.snapshot, place);
            const Real* const r = rows.to(score.to, place);
            const Real* const dy_row = rows.to(dy, place);
            const Real* f = nullptr;
            if constexpr (with_edges) f = rows.edge(score.edges, place);
            LIMEN_UNROLL for (int n = 0; n < N; ++n) {
              const Index c = at.first[n], lanes = at.lanes[n];
              V u = simd::load<V>(r + c, lanes) + l[n];
              if constexpr (with_edges) u = u + simd::load<V>(f + c, lanes);
              const V t = V(ds[e + at.head[n]]) * a[n];
              sum[n] = simd::fma(V(w[e + at.head[n]]), simd::load<V>(dy_row + c, lanes),
                                 sum[n] + simd::select(u > V(Real(0)), t, t * slope));
            }
          }
          LIMEN_UNROLL for (int n = 0; n < N; ++n) {
            simd::store(d.values.row(row) + at.first[n], sum[n], at.lanes[n]);
          }
        });
  };
  score.edges.given() ? run(std::true_type()) : run(std::false_type());
}

/// dv and du of node j.
template <class Real>
LIMEN_INLINE void back_from(const SumScore<Real>&, const Gathered<Real>& rows, Index j,
                            const Real* w, const Real* ds, MatrixView<const Real> dy,
                            const typename SumScore<Real>::Gradient& d) {
  const auto& call = rows.call;
  const Index H = call.heads, start = call.graph->out_starts(j);
  const Index edges = call.graph->out_starts(j + 1) - start, row = call.row_from(rows.snapshot, j);
  const std::int32_t* const places = call.graph->out() + start;
  const auto at = [&](Index k) { return call.at(rows.snapshot, places[k]); };
  weighted_rows<Real>(
      edges, H, call.width, [&](Index k) { return w + at(k); },
      [&](Index k) { return rows.to(dy, places[k]); }, d.values.row(row), nullptr);
  Real* const du = d.from + row * H;
  simd::for_each<Real>(H, [&](Index h, auto load, auto store) {
    simd::Vec<Real> sum(Real(0));
    for (Index k = 0; k < edges; ++k) sum = sum + load(ds + at(k) + h);
    store(du + h, sum);
  });
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
