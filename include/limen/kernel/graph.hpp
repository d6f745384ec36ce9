#pragma once
/// @file  Graph: edges, sorted once.
///
///     const auto roads = Graph::make(nodes, edges, {.self_loops = true}).value();
///
/// Edges are given in any order and sorted here, once, by the node they lead to; edges to one node
/// keep their order. That is compressed sparse row form: the edges to node i stand at places
/// starts(i) to starts(i + 1), next to each other, so that what flows into a node is summed by one
/// loop, in one order. The places by source, for gradients, which flow the other way, are worked
/// out at the same time. A graph does not change; share it, also between threads.
///
/// Several edges between the same two nodes all count. A node without edges is no error.

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/parallel.hpp>

namespace limen::inline LIMEN_ABI {

struct Edge {
  Index from = 0, to = 0;
  Index type = 0;  ///< which relation
};

struct GraphOptions {
  bool self_loops = false;  ///< edges from a node to itself are taken out, and one put in for each
  Index loop_type = 0;      ///< relation of those put in
};

class Graph {
 public:
  Graph() = default;

  /// Edges between `nodes` nodes.
  static Result<Graph> make(Index nodes, std::span<const Edge> edges, GraphOptions options = {}) {
    return make(nodes, nodes, edges, options);
  }

  /// Edges from `sources` nodes to `nodes` others.
  static Result<Graph> make(Index sources, Index nodes, std::span<const Edge> edges,
                            GraphOptions options = {}) {
    Graph g;
    if (auto fault = fault_in(sources, nodes, edges, options)) return *std::move(fault);
    g.sort(sources, nodes, edges, options);
    return g;
  }

  Index nodes() const { return static_cast<Index>(starts_.size()) - 1; }
  Index sources() const { return static_cast<Index>(out_starts_.size()) - 1; }
  Index edges() const { return static_cast<Index>(from_.size()); }  ///< E, with those put in
  Index given() const { return given_; }                            ///< edges that were given
  Index degree(Index i) const { return starts(i + 1) - starts(i); }
  Index most_edges() const { return most_; }  ///< to one node
  Index types() const { return types_; }      ///< one more than the largest type

  /// Edges to node i stand at places starts(i) to starts(i + 1).
  Index starts(Index i) const { return starts_[static_cast<std::size_t>(i)]; }
  /// Numbers in out() from out_starts(j) to out_starts(j + 1) are places of edges from node j.
  Index out_starts(Index j) const { return out_starts_[static_cast<std::size_t>(j)]; }

  // By place:
  const std::int32_t* from() const { return from_.data(); }
  const std::int32_t* to() const { return to_.data(); }
  const std::int32_t* type() const { return type_.data(); }
  /// Number of the edge as it was given; -1: put in.
  const std::int32_t* edge() const { return edge_.data(); }
  /// Places in the order of their sources; those of one source ascend.
  const std::int32_t* out() const { return out_.data(); }

  /// f(first, last, piece) over pieces of the nodes with about as many edges each, on the threads
  /// allowed. The pieces depend on the graph alone. `ns`: what an edge takes.
  template <class F>
  void for_pieces(double ns, F&& f) const {
    each_piece(cuts_, ns, f);
  }
  /// The same over sources.
  template <class F>
  void for_source_pieces(double ns, F&& f) const {
    each_piece(out_cuts_, ns, f);
  }
  Index pieces() const { return static_cast<Index>(cuts_.size()) - 1; }

 private:
  static std::optional<Error> fault_in(Index sources, Index nodes, std::span<const Edge> edges,
                                       const GraphOptions& options) {
    constexpr Index most = std::numeric_limits<std::int32_t>::max();
    const auto wrong = [](const char* who, std::string wanted, Index found) {
      return Error{who, std::move(wanted), std::to_string(found)};
    };
    if (nodes < 0 || nodes >= most) return wrong("Graph: nodes", "0 to 2^31 - 2", nodes);
    if (sources < 0 || sources >= most) return wrong("Graph: sources", "0 to 2^31 - 2", sources);
    const auto count = static_cast<Index>(edges.size());
    if (count >= most - nodes) return wrong("Graph: edges", "less than 2^31 - 1 - nodes", count);
    if (options.self_loops && sources != nodes) {
      return Error{"Graph: self loops", "as many sources as nodes",
                   std::to_string(sources) + " and " + std::to_string(nodes)};
    }
    if (options.loop_type < 0 || options.loop_type >= most) {
      return wrong("Graph: type of self loops", "0 or more", options.loop_type);
    }
    for (Index e = 0; e < count; ++e) {
      const Edge& edge = edges[static_cast<std::size_t>(e)];
      const auto bad = [&](const char* end, Index below, Index found) {
        return Error{"Graph: edge " + std::to_string(e) + end,
                     below > 0 ? "a node from 0 to " + std::to_string(below - 1)
                               : "no edge, as "
                                 "there is no node",
                     "node " + std::to_string(found)};
      };
      if (edge.from < 0 || edge.from >= sources) return bad(", from", sources, edge.from);
      if (edge.to < 0 || edge.to >= nodes) return bad(", to", nodes, edge.to);
      if (edge.type < 0 || edge.type >= most) {
        return Error{"Graph: edge " + std::to_string(e) + ", type", "0 or more",
                     std::to_string(edge.type)};
      }
    }
    return {};
  }

  using Numbers = std::vector<std::int32_t>;
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  static std::int32_t narrow(Index i) { return static_cast<std::int32_t>(i); }

  /// Counting sorts, stable: by destination, then the places by source.
  void sort(Index sources, Index nodes, std::span<const Edge> edges, const GraphOptions& options) {
    given_ = static_cast<Index>(edges.size());
    const auto stays = [&](const Edge& e) { return !options.self_loops || e.from != e.to; };
    starts_.assign(at(nodes + 1), 0);
    for (const Edge& e : edges) {
      if (stays(e)) ++starts_[at(e.to + 1)];
    }
    for (Index i = 0; i < nodes; ++i) {
      auto& here = starts_[at(i + 1)];
      if (options.self_loops) ++here;
      most_ = here > most_ ? here : most_;
      here += starts_[at(i)];
    }
    const auto total = at(starts_[at(nodes)]);
    for (Numbers* list : {&from_, &to_, &type_, &edge_, &out_}) list->resize(total);
    Numbers next(starts_.begin(), starts_.end() - 1);
    const auto put = [&](const Edge& e, Index number) {
      const auto place = at(next[at(e.to)]++);
      from_[place] = narrow(e.from);
      to_[place] = narrow(e.to);
      type_[place] = narrow(e.type);
      edge_[place] = narrow(number);
      types_ = e.type >= types_ ? e.type + 1 : types_;
    };
    for (Index e = 0; e < given_; ++e) {
      if (stays(edges[at(e)])) put(edges[at(e)], e);
    }
    for (Index i = 0; options.self_loops && i < nodes; ++i) put({i, i, options.loop_type}, -1);

    out_starts_.assign(at(sources + 1), 0);
    for (const auto j : from_) ++out_starts_[at(j + 1)];
    for (Index j = 0; j < sources; ++j) out_starts_[at(j + 1)] += out_starts_[at(j)];
    next.assign(out_starts_.begin(), out_starts_.end() - 1);
    for (std::size_t p = 0; p < total; ++p) {
      out_[at(next[at(from_[p])]++)] = narrow(static_cast<Index>(p));
    }
    cuts_ = cut(starts_);
    out_cuts_ = cut(out_starts_);
  }

  /// Where pieces begin: each node counts as one edge more.
  static Numbers cut(const Numbers& starts) {
    const Index nodes = static_cast<Index>(starts.size()) - 1, work = starts.back() + nodes;
    const Index most = nodes < 64 ? nodes : 64, wanted = work / 128 + 1;
    const Index count = wanted < most ? wanted : most;
    Numbers cuts{0};
    for (Index i = 0; i < nodes; ++i) {
      const auto done = static_cast<Index>(cuts.size());
      if (starts[at(i)] + i >= work * done / count && i > cuts.back()) cuts.push_back(narrow(i));
    }
    if (nodes > 0) cuts.push_back(narrow(nodes));
    return cuts;
  }

  template <class F>
  void each_piece(const Numbers& cuts, double ns, F& f) const {
    parallel_for(static_cast<Index>(cuts.size()) - 1, ns * static_cast<double>(edges()),
                 [&](Index piece) { f(cuts[at(piece)], cuts[at(piece + 1)], piece); });
  }

  Index given_ = 0, types_ = 0;
  std::int32_t most_ = 0;
  Numbers starts_{0}, from_, to_, type_, edge_;
  Numbers out_starts_{0}, out_;
  Numbers cuts_{0}, out_cuts_{0};
};

/// Numbers of edges, in the order in which the edges were given.
template <class Real>
struct EdgeValues {
  MatrixView<const Real> features = {};  ///< [E x d_edge], for layers that ask for them
  const Real* gate = nullptr;            ///< [E], multiplies what flows along an edge

  // Where backward adds their gradients; null: nobody asks.
  MatrixView<Real> d_features = {};
  Real* d_gate = nullptr;
};

/// The graph of a run, as layers along edges find it in their Context:
///
///     GraphRun on{.graph = &roads};
///     Context run{.graph = &on};
///     y = layer.forward(x, from_rest(offsets, &run));
///
/// Rows of x are its nodes: either all rows of the batch together, or, again and again, snapshots
/// of the same nodes, in each sequence any number of them.
struct GraphRun {
  const Graph* graph = nullptr;
  std::span<const std::uint8_t> keep = {};  ///< [E]; an edge with 0 is as if it were not there
  EdgeValues<float> floats = {};            ///< for layers that compute in float
  EdgeValues<double> doubles = {};          ///< in double

  template <class Real>
  const EdgeValues<Real>& values() const {
    if constexpr (sizeof(Real) == 4) {
      return floats;
    } else {
      return doubles;
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
