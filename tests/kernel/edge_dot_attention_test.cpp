#include <limen/kernel/edge_dot_attention.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

using Numbers = std::vector<double>;

Numbers noise(Index n, Random& random) {
  Numbers x(static_cast<std::size_t>(n));
  for (double& v : x) v = random.normal();
  return x;
}

/// Two snapshots of a graph from 4 nodes to 5 others, with everything that an edge may have.
struct Case {
  static constexpr Index sources = 4, nodes = 5, snapshots = 2;
  Index H, C, W = H * C;
  Graph graph;
  Numbers q, k, v, edge_k, edge_v, gate;
  std::vector<std::uint8_t> keep{};
  double scale = 0.7;

  Case(Index heads, Index width, Random& random) : H(heads), C(width) {
    // Node 2 has no edges, node 4 one that is not kept, 0 and 1 several from one source.
    const Edge given[] = {{0, 3}, {1, 0}, {3, 1}, {1, 0}, {2, 3}, {0, 4}, {3, 0}, {3, 1}, {0, 1}};
    graph = Graph::make(sources, nodes, given).value();
    q = noise(snapshots * nodes * W, random);
    k = noise(snapshots * sources * W, random);
    v = noise(snapshots * sources * W, random);
    edge_k = noise(graph.edges() * W, random);
    edge_v = noise(graph.edges() * W, random);
    gate = noise(graph.edges(), random);
    for (Index p = 0; p < graph.edges(); ++p) keep.push_back(graph.to()[p] != 4 && p != 1);
  }
  MatrixView<double> rows_of(Numbers& x) const {
    return {x.data(), static_cast<Index>(x.size()) / W, W, W};
  }
  EdgeDotAttention<double> call() {
    return {&graph,          snapshots,   H,          scale,
            rows_of(q),      rows_of(k),  rows_of(v), rows_of(edge_k),
            rows_of(edge_v), keep.data(), gate.data()};
  }

  /// The definition, edge by edge.
  Numbers plainly() const {
    const auto at = [](const Numbers& x, Index i) { return x[static_cast<std::size_t>(i)]; };
    Numbers y(static_cast<std::size_t>(snapshots * nodes * W));
    for (Index s = 0; s < snapshots; ++s) {
      for (Index i = 0; i < nodes; ++i) {
        for (Index h = 0; h < H; ++h) {
          const Index to = (s * nodes + i) * W;
          const auto from = [&](Index p) { return (s * sources + graph.from()[p]) * W; };
          const auto there = [&](Index p) {
            return graph.to()[p] == i && keep[static_cast<std::size_t>(p)] != 0;
          };
          const auto weight = [&](Index p) {
            double sum = 0;
            for (Index c = h * C; c < (h + 1) * C; ++c) {
              sum += at(q, to + c) * (at(k, from(p) + c) + at(edge_k, p * W + c));
            }
            return std::exp(scale * sum);
          };
          double all = 0;
          for (Index p = 0; p < graph.edges(); ++p) all += there(p) ? weight(p) : 0;
          for (Index p = 0; p < graph.edges(); ++p) {
            for (Index c = h * C; there(p) && c < (h + 1) * C; ++c) {
              y[static_cast<std::size_t>(to + c)] +=
                  weight(p) / all * at(gate, p) * (at(v, from(p) + c) + at(edge_v, p * W + c));
            }
          }
        }
      }
    }
    return y;
  }

  void check(const char* name, Numbers& input, const Numbers& slopes, const Numbers& dy) {
    REQUIRE(input.size() == slopes.size());
    const auto loss = [&] {
      const Numbers y = plainly();
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    for (std::size_t i = 0; i < input.size(); ++i) {
      const double before = input[i], h = 1e-6;
      input[i] = before + h;
      const double above = loss();
      input[i] = before - h;
      const double below = loss();
      input[i] = before;
      INFO(name << " " << i);
      REQUIRE(std::abs((above - below) / (2 * h) - slopes[i]) < 1e-7 * (1 + std::abs(slopes[i])));
    }
  }
};

}  // namespace

TEST_CASE("Dot products along edges are their definition, with its slopes", "[kernel][graph]") {
  Random random(1);
  for (const auto& [H, C] : {std::pair<Index, Index>{1, 1}, {3, 5}, {2, 8}, {1, 17}}) {
    INFO(H << " heads of " << C);
    Case c(H, C, random);
    const Numbers dy = noise(Case::snapshots * Case::nodes * c.W, random);
    Numbers y(dy.size(), 9), without_p = y, down = dy;
    Numbers p(static_cast<std::size_t>(Case::snapshots * c.graph.edges() * H));
    edge_dot_attention<double>(c.call(), p.data(), c.rows_of(y));
    edge_dot_attention<double>(c.call(), nullptr, c.rows_of(without_p));
    REQUIRE(y == without_p);
    const Numbers expected = c.plainly();
    for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::abs(y[i] - expected[i]) < 1e-12);

    Numbers dq(c.q.size(), 9), dk(c.k.size(), 9), dv(c.v.size(), 9), d_edge_k(c.edge_k.size()),
        d_edge_v(c.edge_v.size()), d_gate(c.gate.size());
    edge_dot_attention_backward<double>(c.call(), p.data(), c.rows_of(down),
                                        {c.rows_of(dq), c.rows_of(dk), c.rows_of(dv),
                                         c.rows_of(d_edge_k), c.rows_of(d_edge_v), d_gate.data()});
    c.check("q", c.q, dq, dy);
    c.check("k", c.k, dk, dy);
    c.check("v", c.v, dv, dy);
    c.check("edge_k", c.edge_k, d_edge_k, dy);
    c.check("edge_v", c.edge_v, d_edge_v, dy);
    c.check("gate", c.gate, d_gate, dy);
  }
}

TEST_CASE("Not even a NaN has a dot product along an edge that is not kept", "[kernel][graph]") {
  Random random(2);
  Case c(2, 3, random);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Numbers expected = c.plainly();
  for (Index p = 0; p < c.graph.edges(); ++p) {  // what edges that are not kept say
    if (c.keep[static_cast<std::size_t>(p)] != 0) continue;
    c.edge_k[static_cast<std::size_t>(p * c.W)] = nan;
    c.edge_v[static_cast<std::size_t>(p * c.W)] = nan;
    c.gate[static_cast<std::size_t>(p)] = nan;
  }
  Numbers y(expected.size()), down(expected.size(), 1);
  Numbers p(static_cast<std::size_t>(Case::snapshots * c.graph.edges() * c.H));
  edge_dot_attention<double>(c.call(), p.data(), c.rows_of(y));
  for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::abs(y[i] - expected[i]) < 1e-12);
  Numbers dq(c.q.size()), dk(c.k.size()), dv(c.v.size());
  edge_dot_attention_backward<double>(c.call(), p.data(), c.rows_of(down),
                                      {c.rows_of(dq), c.rows_of(dk), c.rows_of(dv)});
  for (const auto* x : {&dq, &dk, &dv}) {
    for (const double value : *x) REQUIRE(std::isfinite(value));
  }
}

TEST_CASE("A NaN is no gradient of an edge that is not kept", "[kernel][graph]") {
  Random random(3);
  Case c(2, 3, random);
  // Of the edges to node 0 those from node 1 are not kept; the one from node 3 brings a NaN.
  const Index start = c.graph.starts(0);
  REQUIRE(c.graph.degree(0) == 3);
  for (Index p = start; p < start + 3; ++p) {
    c.keep[static_cast<std::size_t>(p)] = c.graph.from()[p] == 3;
  }
  c.k[static_cast<std::size_t>(3 * c.W)] = std::numeric_limits<double>::quiet_NaN();
  const auto size = static_cast<std::size_t>(Case::snapshots * Case::nodes * c.W);
  Numbers y(size), down(size, 1);
  Numbers p(static_cast<std::size_t>(Case::snapshots * c.graph.edges() * c.H));
  edge_dot_attention<double>(c.call(), p.data(), c.rows_of(y));
  REQUIRE(std::isnan(y[0]));
  Numbers dq(c.q.size()), dk(c.k.size()), dv(c.v.size()), d_edge_k(c.edge_k.size()),
      d_edge_v(c.edge_v.size()), d_gate(c.gate.size());
  edge_dot_attention_backward<double>(c.call(), p.data(), c.rows_of(down),
                                      {c.rows_of(dq), c.rows_of(dk), c.rows_of(dv),
                                       c.rows_of(d_edge_k), c.rows_of(d_edge_v), d_gate.data()});
  for (const auto* x : {&dk, &dv}) {  // of node 1, in the same snapshot
    for (Index i = c.W; i < 2 * c.W; ++i) REQUIRE((*x)[static_cast<std::size_t>(i)] == 0);
  }
  for (Index q = start; q < start + 3; ++q) {
    if (c.keep[static_cast<std::size_t>(q)] != 0) continue;
    REQUIRE(d_gate[static_cast<std::size_t>(q)] == 0);
    REQUIRE(d_edge_k[static_cast<std::size_t>(q * c.W)] == 0);
    REQUIRE(d_edge_v[static_cast<std::size_t>(q * c.W)] == 0);
  }
}
