#pragma once
/// @file  What layers along edges have in common: finding the graph of a run, and what its edges
/// say.
///
/// The graph is in the run's Context (kernel/graph.hpp), so these layers have the faces of any
/// other and stand in Sequential, Residual or Repeat, between layers that see rows alone. What
/// edges say is W_e f_e, of their features, plus a row for their type:
///
///   f_e [d_edge], W_e [H C x d_edge], type row [H C]
///
/// A self loop that was put in has as features the mean of those of the other edges to its node.

#include <cmath>
#include <string>

#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/edge_attention.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct GraphAttentionConfig {
  Index d_in = 0;       ///< F
  Index d_head = 0;     ///< C, columns of a head
  Index heads = 1;      ///< H
  bool concat = true;   ///< heads side by side, H C wide; false: their mean, C wide
  Index d_edge = 0;     ///< features of an edge; 0: none are asked for
  Index relations = 0;  ///< types of edges, each with a row of its own; 0: types are not asked for
  double slope = 0.2;   ///< λ of LeakyReLU below 0
  bool bias = true;

  // Of members that are left out, too, the type has a shape.
  constexpr Index edge_width() const { return d_edge > 0 ? d_edge : 1; }
  constexpr Index relation_rows() const { return relations > 0 ? relations : 1; }
  constexpr Index width() const { return heads * d_head; }
  constexpr Index d_out() const { return concat ? width() : d_head; }
};

namespace detail {

template <GraphAttentionConfig C>
struct GraphAttentionChecks {
  static_assert(C.d_in > 0, "GraphAttention: .d_in must be positive");
  static_assert(C.d_head > 0, "GraphAttention: .d_head must be positive");
  static_assert(C.heads > 0, "GraphAttention: .heads must be positive");
  static_assert(C.d_edge >= 0 && C.relations >= 0,
                "GraphAttention: .d_edge and .relations must not be negative");
  static_assert(C.slope >= 0 && C.slope <= 1, "GraphAttention: .slope must be from 0 to 1");
  static constexpr bool ok = true;
};

/// The edges of a run, by place.
template <class Real>
struct RunEdges {
  const Graph* graph = nullptr;
  Index snapshots = 1;
  Buffer<std::uint8_t> keep;  ///< [E], if not all are kept
  Buffer<Real> gate;          ///< [E], if there is one
  Buffer<Real> features;      ///< [E x d_edge]

  bool kept(Index place) const { return keep.size() == 0 || keep[place] != 0; }

  /// Reports, says no and stays as it was if the run has no graph that fits.
  bool find(const Batch<NoState>& batch, Index rows, const GraphAttentionConfig& c) {
    if (!batch.fits(rows)) return false;
    const GraphRun* const run = batch.context != nullptr ? batch.context->graph : nullptr;
    if (run == nullptr || run->graph == nullptr) {
      return no("graph", "one in the Context of the run", "none");
    }
    const Graph& found = *run->graph;
    const Index nodes = found.nodes();
    if (found.sources() != nodes) {
      return no("graph", "edges among one kind of nodes",
                number(found.sources()) + " sources and " + number(nodes) + " nodes");
    }
    Index times = 1;
    if (rows != nodes) {
      for (Index b = 0; b < batch.count(); ++b) {
        const Index length = batch.end(b, rows) - batch.begin(b);
        if (nodes == 0 || length % nodes != 0) {
          return no("rows of sequence " + number(b), "snapshots of " + number(nodes) + " nodes",
                    number(length));
        }
      }
      times = nodes > 0 ? rows / nodes : 1;
    }
    if (c.relations > 0 && found.types() > c.relations) {
      return no("types of edges", "at most " + number(c.relations), number(found.types()));
    }
    const auto& values = run->template values<Real>();
    const Index given = found.given();
    if (!run->keep.empty() && static_cast<Index>(run->keep.size()) != given) {
      return no("keep", number(given) + " edges", number(static_cast<Index>(run->keep.size())));
    }
    if (c.d_edge > 0 && (values.features.rows != given || values.features.cols != c.d_edge)) {
      return no("features of edges", shape(given, c.d_edge),
                shape(values.features.rows, values.features.cols));
    }
    if (c.d_edge > 0 && values.d_features.data != nullptr &&
        (values.d_features.rows != given || values.d_features.cols != c.d_edge)) {
      return no("gradient of features of edges", shape(given, c.d_edge),
                shape(values.d_features.rows, values.d_features.cols));
    }
    graph = &found;
    snapshots = times;
    sort(*run, values, c.d_edge);
    return true;
  }

  EdgeAttention<Real> call(Index heads, Index width, MatrixView<const Real> rows) const {
    EdgeAttention<Real> a;
    a.graph = graph;
    a.snapshots = snapshots;
    a.heads = heads;
    a.width = width;
    a.values = rows;
    a.keep = keep.size() > 0 ? keep.data() : nullptr;
    a.gate = gate.size() > 0 ? gate.data() : nullptr;
    return a;
  }

  /// Gradients of features (by place, [E x d_edge]) and gates, to whoever asks in the run.
  void give_back(const Context* context, MatrixView<const Real> d, const Buffer<Real>& dg) const {
    if (context == nullptr || context->graph == nullptr) return;
    const auto& values = context->graph->template values<Real>();
    for (Index i = 0; i < graph->nodes(); ++i) {
      for (Index place = graph->starts(i); place < graph->starts(i + 1); ++place) {
        const Index e = graph->edge()[place];
        if (e >= 0 && values.d_gate != nullptr && dg.size() > 0) values.d_gate[e] += dg[place];
        if (values.d_features.data == nullptr || d.data == nullptr) continue;
        if (e >= 0) {
          add_row(d.row(place), Real(1), values.d_features.row(e), d.cols);
          continue;
        }
        each_other(i, [&](Index other, Real share) {
          add_row(d.row(place), share, values.d_features.row(graph->edge()[other]), d.cols);
        });
      }
    }
  }

 private:
  static std::string number(Index n) { return std::to_string(n); }
  static std::string shape(Index r, Index c) { return "[" + number(r) + " x " + number(c) + "]"; }
  static bool no(const std::string& who, std::string wanted, std::string found) {
    fail({"GraphAttention: " + who, std::move(wanted), std::move(found)});
    return false;
  }
  static void add_row(const Real* x, Real share, Real* y, Index n) {
    for (Index c = 0; c < n; ++c) y[c] += share * x[c];
  }

  /// f(place, 1 / how many) for the edges to node i that were given, and are kept.
  template <class F>
  void each_other(Index i, F&& f) const {
    const auto counts = [&](Index p) { return graph->edge()[p] >= 0 && kept(p); };
    Index count = 0;
    for (Index p = graph->starts(i); p < graph->starts(i + 1); ++p) count += counts(p) ? 1 : 0;
    for (Index p = graph->starts(i); p < graph->starts(i + 1); ++p) {
      if (counts(p)) f(p, Real(1) / static_cast<Real>(count));
    }
  }

  void sort(const GraphRun& run, const EdgeValues<Real>& values, Index d) {
    const Index edges = graph->edges();
    const std::int32_t* const edge = graph->edge();
    keep = Buffer<std::uint8_t>(run.keep.empty() ? 0 : edges);
    gate = Buffer<Real>(values.gate == nullptr ? 0 : edges);
    features = Buffer<Real>(edges * d);
    for (Index p = 0; p < keep.size(); ++p) {
      keep[p] = edge[p] < 0 ? 1 : run.keep[static_cast<std::size_t>(edge[p])];
    }
    for (Index p = 0; p < gate.size(); ++p) gate[p] = edge[p] < 0 ? 1 : values.gate[edge[p]];
    for (Index i = 0; d > 0 && i < graph->nodes(); ++i) {
      for (Index p = graph->starts(i); p < graph->starts(i + 1); ++p) {
        Real* const to = features.data() + p * d;
        for (Index c = 0; c < d; ++c) to[c] = edge[p] < 0 ? 0 : values.features(edge[p], c);
        if (edge[p] >= 0) continue;
        each_other(i, [&](Index other, Real share) {
          add_row(values.features.row(edge[other]), share, to, d);
        });
      }
    }
  }
};

/// Works out what edges with features say: f_e W_eᵀ + row of the type, [E x H C] by place.
template <GraphAttentionConfig C, class L, class Real>
void fill_edge_rows(const L& layer, const RunEdges<Real>& edges, Sequence<Real, C.width()>& said) {
  if constexpr (C.d_edge > 0) {
    const Index count = edges.graph->edges();
    said = linear(SequenceView<Real, C.d_edge>(edges.features.data(), count), layer.lin_edge);
    for (Index p = 0; C.relations > 0 && p < count; ++p) {
      const Real* const row = data_or_null(layer.relation) + edges.graph->type()[p] * C.width();
      Real* const to = said.row_data(p);
      simd::for_each<Real>(C.width(), [&](Index c, auto load, auto store) {
        store(to + c, load(to + c) + load(row + c));
      });
    }
  }
}

/// What edges say: what was worked out, or the rows of their types.
template <GraphAttentionConfig C, class L, class Real>
EdgeRows<Real> edge_rows(const L& layer, const RunEdges<Real>& edges,
                         const Sequence<Real, C.width()>& said) {
  EdgeRows<Real> rows;
  if constexpr (C.d_edge > 0) {
    rows.rows = said.matrix();
  } else if constexpr (C.relations > 0) {
    rows.rows = {layer.relation.data(), C.relations, C.width(), C.width()};
    rows.which = edges.graph->type();
  }
  return rows;
}

/// dW_e, drelation and the gradient of the features, from d [E x H C]; and of the gates.
template <GraphAttentionConfig C, class L, class Real>
void edge_rows_backward(const L& layer, const RunEdges<Real>& edges, const Context* context,
                        const Sequence<Real, C.width()>& d, const Buffer<Real>& d_gate,
                        L& gradient) {
  MatrixView<const Real> d_features{};
  Sequence<Real, C.edge_width()> df;
  if constexpr (C.relations > 0) {
    for (Index p = 0; p < d.rows(); ++p) {
      const Real* const from = d.data() + p * C.width();
      Real* const to = gradient.relation.data() + edges.graph->type()[p] * C.width();
      simd::for_each<Real>(C.width(), [&](Index c, auto load, auto store) {
        store(to + c, load(to + c) + load(from + c));
      });
    }
  }
  if constexpr (C.d_edge > 0) {
    const SequenceView<Real, C.d_edge> f(edges.features.data(), d.rows());
    add_linear_weight_gradient<Real, C.width(), C.d_edge>(d, f, gradient.lin_edge);
    df = linear_input_gradient<Real, C.width(), C.d_edge>(d, layer.lin_edge);
    d_features = std::as_const(df).matrix();
  }
  edges.give_back(context, d_features, d_gate);
}

/// The mean of the heads, plus b.
template <GraphAttentionConfig C, class Real>
Sequence<Real, C.d_head> mean_of_heads(const Sequence<Real, C.width()>& heads, const Real* bias) {
  Sequence<Real, C.d_head> y(heads.rows());
  const simd::Vec<Real> share(Real(1) / Real(C.heads));
  for (Index t = 0; t < y.rows(); ++t) {
    const Real* const row = heads.data() + t * C.width();
    Real* const to = y.row_data(t);
    simd::for_each<Real>(C.d_head, [&](Index c, auto load, auto store) {
      auto sum = load(row + c);
      for (Index h = 1; h < C.heads; ++h) sum = sum + load(row + h * C.d_head + c);
      store(to + c, bias != nullptr ? simd::fma(sum, share, load(bias + c)) : sum * share);
    });
  }
  return y;
}

/// The gradient of each head: dy, or its share, in `room`.
template <GraphAttentionConfig C, class Real>
MatrixView<const Real> gradient_of_heads(SequenceView<Real, C.d_out()> dy,
                                         Sequence<Real, C.width()>& room) {
  if constexpr (C.concat) {
    return dy.matrix();
  } else {
    room = Sequence<Real, C.width()>(dy.rows());
    for (Index t = 0; t < dy.rows(); ++t) {
      for (Index c = 0; c < C.width(); ++c) room(t, c) = dy(t, c % C.d_head) / Real(C.heads);
    }
    return std::as_const(room).matrix();
  }
}

/// All heads of all nodes, and what becomes of them.
template <GraphAttentionConfig C, class Real, class Score>
Sequence<Real, C.d_out()> attend_edges(EdgeAttention<Real> call, const Score& score,
                                       const Real* bias, Buffer<Real>* p) {
  if (p != nullptr) *p = Buffer<Real>(call.snapshots * call.graph->edges() * C.heads);
  Sequence<Real, C.width()> heads(call.values.rows);
  if constexpr (C.concat) call.start = bias;
  edge_attention<Real>(call, score, p != nullptr ? p->data() : nullptr, heads.matrix());
  if constexpr (C.concat) {
    return heads;
  } else {
    return mean_of_heads<C, Real>(heads, bias);
  }
}

/// Uniform with limit sqrt(6 / (rows + columns)) (Glorot and Bengio, 2010).
template <class T>
void fill_glorot(T& tensor, Index fans, Random& random) {
  fill_uniform(tensor, std::sqrt(6 / static_cast<double>(fans)), random);
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
