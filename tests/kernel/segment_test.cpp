#include <limen/kernel/segment.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

/// Degrees 0, 1, 2, ... to each node, from anywhere, given in no order.
std::vector<Edge> some_edges(Index sources, Index nodes, Random& random) {
  std::vector<Edge> edges;
  for (Index i = 0; i < nodes; ++i) {
    for (Index k = 0; k < i; ++k) {
      const auto from = static_cast<Index>(random.below(static_cast<std::uint64_t>(sources)));
      edges.push_back({from, i, static_cast<Index>(random.below(3))});
    }
  }
  random.shuffle(std::span(edges));
  return edges;
}

template <class Real>
std::vector<Real> noise(Index n, Random& random, double size = 1) {
  std::vector<Real> x(static_cast<std::size_t>(n));
  for (Real& v : x) v = static_cast<Real>(size * random.normal());
  return x;
}

template <class Real>
constexpr Real infinity = std::numeric_limits<Real>::infinity();

}  // namespace

TEST_CASE("Edges are sorted once, by destination, in the order they were given",
          "[kernel][graph]") {
  const Edge edges[] = {{2, 1, 5}, {0, 0}, {1, 1, 1}, {2, 0}, {2, 1}};
  const Graph g = Graph::make(4, edges).value();
  REQUIRE(g.nodes() == 4);
  REQUIRE(g.edges() == 5);
  REQUIRE(g.types() == 6);
  REQUIRE(g.most_edges() == 3);
  const Index starts[] = {0, 2, 5, 5, 5};
  for (Index i = 0; i < 5; ++i) REQUIRE(g.starts(i) == starts[i]);
  const int edge[] = {1, 3, 0, 2, 4}, from[] = {0, 2, 2, 1, 2}, to[] = {0, 0, 1, 1, 1};
  const int out[] = {0, 3, 1, 2, 4};
  for (int p = 0; p < 5; ++p) {
    REQUIRE(g.edge()[p] == edge[p]);
    REQUIRE(g.from()[p] == from[p]);
    REQUIRE(g.to()[p] == to[p]);
    REQUIRE(g.type()[p] == edges[edge[p]].type);
    REQUIRE(g.out()[p] == out[p]);
  }
  REQUIRE(g.out_starts(2) == 2);
  REQUIRE(g.out_starts(4) == 5);
}

TEST_CASE("Self loops are taken out, and one put in behind the others", "[kernel][graph]") {
  const Edge edges[] = {{1, 1}, {0, 1}, {1, 0}, {1, 1}};
  const Graph g = Graph::make(3, edges, {.self_loops = true, .loop_type = 7}).value();
  REQUIRE(g.given() == 4);
  REQUIRE(g.edges() == 5);
  const int edge[] = {2, -1, 1, -1, -1}, from[] = {1, 0, 0, 1, 2};
  for (int p = 0; p < 5; ++p) {
    REQUIRE(g.edge()[p] == edge[p]);
    REQUIRE(g.from()[p] == from[p]);
    REQUIRE(g.type()[p] == (edge[p] < 0 ? 7 : 0));
  }
}

TEST_CASE("An edge from or to nowhere is an error that names both", "[kernel][graph]") {
  const auto message = [](Index nodes, Edge edge) {
    const Edge edges[] = {{0, 0}, edge};
    const auto made = Graph::make(nodes, std::span(edges).last(nodes > 0 ? 2 : 1));
    REQUIRE(!made);
    return made.error().message();
  };
  REQUIRE(message(5, {1, 5}) == "Graph: edge 1, to: wanted a node from 0 to 4, found node 5");
  REQUIRE(message(5, {-1, 4}) == "Graph: edge 1, from: wanted a node from 0 to 4, found node -1");
  REQUIRE(message(5, {1, 4, -2}) == "Graph: edge 1, type: wanted 0 or more, found -2");
  REQUIRE_THAT(message(0, {0, 0}), has_part("there is no node"));
  REQUIRE(!Graph::make(-1, {}));
  REQUIRE(!Graph::make(2, 3, {}, {.self_loops = true}));
  REQUIRE(Graph::make(0, {}).value().edges() == 0);
}

TEST_CASE("Pieces cover each node once, in order", "[kernel][graph]") {
  Random random(1);
  for (const Index nodes : {0, 1, 2, 63, 64, 200}) {
    const Graph g = Graph::make(nodes, some_edges(nodes, nodes, random)).value();
    Index next = 0, pieces = 0;
    g.for_pieces(0, [&](Index first, Index end, Index piece) {
      REQUIRE(first == next);
      REQUIRE(end > first);
      REQUIRE(piece == pieces++);
      next = end;
    });
    REQUIRE(next == nodes);
    REQUIRE(pieces == g.pieces());
  }
}

TEMPLATE_TEST_CASE("Segment softmax is that of each node and head", "[kernel][segment]", float,
                   double) {
  using Real = TestType;
  Random random(2);
  const double tolerance = sizeof(Real) == 4 ? 2e-6 : 1e-14;
  const Index nodes = 40;
  const Graph g = Graph::make(nodes, some_edges(nodes, nodes, random)).value();
  for (const Index H : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33}) {
    const Index n = g.edges() * H;
    auto s = noise<Real>(n, random, 30);
    for (Index h = 0; h < H; ++h)
      s[static_cast<std::size_t>(g.starts(9) * H + h)] = -infinity<Real>;
    for (Index q = g.starts(5) * H; q < g.starts(6) * H; ++q) {
      s[static_cast<std::size_t>(q)] = -infinity<Real>;  // nothing to share out
    }
    for (Index q = g.starts(7) * H; q < g.starts(8) * H; ++q) {
      s[static_cast<std::size_t>(q)] -= Real(1e4);  // far from 0
    }
    const auto dp = noise<Real>(n, random);
    std::vector<Real> p(static_cast<std::size_t>(n)), ds(p);
    segment_softmax(g, H, s.data(), p.data());
    segment_softmax_backward(g, H, p.data(), dp.data(), ds.data());
    for (Index i = 0; i < nodes; ++i) {
      for (Index h = 0; h < H; ++h) {
        const auto at = [&](Index k) {
          return static_cast<std::size_t>((g.starts(i) + k) * H + h);
        };
        double most = -1e300, sum = 0, dot = 0;
        for (Index k = 0; k < i; ++k) most = std::max(most, double(s[at(k)]));
        for (Index k = 0; k < i; ++k) sum += std::exp(double(s[at(k)]) - most);
        for (Index k = 0; k < i; ++k) dot += double(p[at(k)]) * double(dp[at(k)]);
        for (Index k = 0; k < i; ++k) {
          const double expected = i == 5 ? 0 : std::exp(double(s[at(k)]) - most) / sum;
          INFO("H " << H << ", node " << i << ", edge " << k << ", head " << h);
          REQUIRE(std::abs(double(p[at(k)]) - expected) <= tolerance);
          const double slope = double(p[at(k)]) * (double(dp[at(k)]) - dot);
          REQUIRE(std::abs(double(ds[at(k)]) - slope) <= 10 * tolerance);
        }
      }
    }
    const auto kept = p;
    segment_softmax(g, H, s.data(), s.data());  // in place
    REQUIRE(std::memcmp(s.data(), kept.data(), sizeof(Real) * kept.size()) == 0);
  }
}

TEST_CASE("A NaN among scores stays in its node and head", "[kernel][segment]") {
  Random random(3);
  const Graph g = Graph::make(20, some_edges(20, 20, random)).value();
  for (const Index H : {1, 3, 4, 17}) {
    const Index n = g.edges() * H;
    auto s = noise<float>(n, random);
    s[static_cast<std::size_t>((g.starts(12) + 5) * H + H / 2)] =
        std::numeric_limits<float>::quiet_NaN();
    std::vector<float> p(static_cast<std::size_t>(n));
    segment_softmax(g, H, s.data(), p.data());
    for (Index q = 0; q < n; ++q) {
      const bool there = q / H >= g.starts(12) && q / H < g.starts(13) && q % H == H / 2;
      REQUIRE(std::isnan(p[static_cast<std::size_t>(q)]) == there);
    }
  }
}

TEMPLATE_TEST_CASE("What flows along edges is the plain sum", "[kernel][segment]", float, double) {
  using Real = TestType;
  Random random(4);
  const double tolerance = sizeof(Real) == 4 ? 5e-5 : 1e-12;
  const Index sources = 13, nodes = 24;
  const Graph g = Graph::make(sources, nodes, some_edges(sources, nodes, random)).value();
  const Index E = g.edges();
  for (const Index H : {1, 2, 3, 5}) {
    for (const Index C : {1, 2, 3, 4, 8, 16, 17, 40}) {
      const Index D = H * C;
      const auto w = noise<Real>(E * H, random), x = noise<Real>(sources * D, random);
      const auto dy = noise<Real>(nodes * D, random), v = noise<Real>(E * D, random);
      auto dx = noise<Real>(sources * D, random);
      const auto before = dx;
      std::vector<Real> y(dy.size()), dw(w.size()), to(dy.size()), from(x.size());
      const MatrixView<const Real> x_rows{x.data(), sources, D, D}, d_rows{dy.data(), nodes, D, D};
      const MatrixView<const Real> v_rows{v.data(), E, D, D};
      const auto rows = [D](std::vector<Real>& m) {
        return MatrixView<Real>{m.data(), static_cast<Index>(m.size()) / D, D, D};
      };
      flow<Real>(g, H, w.data(), x_rows, rows(y));
      flow_back<Real>(g, H, w.data(), d_rows, rows(dx));
      edge_dots<Real>(g, H, d_rows, x_rows, dw.data());
      sum_to<Real>(g, v_rows, rows(to));
      sum_from<Real>(g, v_rows, rows(from));
      std::vector<double> y2(y.size()), dx2(before.begin(), before.end()), dw2(w.size()),
          to2(to.size()), from2(from.size());
      for (Index p = 0; p < E; ++p) {
        const Index j = g.from()[p], i = g.to()[p];
        for (Index c = 0; c < D; ++c) {
          const auto a = static_cast<std::size_t>(i * D + c),
                     b = static_cast<std::size_t>(j * D + c);
          const auto q = static_cast<std::size_t>(p * H + c / C);
          y2[a] += double(w[q]) * double(x[b]);
          dx2[b] += double(w[q]) * double(dy[a]);
          dw2[q] += double(dy[a]) * double(x[b]);
          to2[a] += double(v[static_cast<std::size_t>(p * D + c)]);
          from2[b] += double(v[static_cast<std::size_t>(p * D + c)]);
        }
      }
      const auto same = [&](const char* what, const auto& got, const auto& expected) {
        for (std::size_t k = 0; k < expected.size(); ++k) {
          INFO(what << " of " << H << " heads of " << C << ", element " << k);
          REQUIRE(std::abs(double(got[k]) - expected[k]) <= tolerance);
        }
      };
      same("y", y, y2);
      same("dx", dx, dx2);
      same("dw", dw, dw2);
      same("sum_to", to, to2);
      same("sum_from", from, from2);
    }
  }
}

TEST_CASE("Two threads sum along edges to the same bits", "[kernel][segment]") {
  Random random(5);
  const Index nodes = 300, H = 3, D = 48;
  const Graph g = Graph::make(nodes, some_edges(nodes, nodes, random)).value();
  const auto w = noise<float>(g.edges() * H, random), x = noise<float>(nodes * D, random);
  const MatrixView<const float> rows{x.data(), nodes, D, D};
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    std::vector<float> p(w.size()), y(x.size() * 2);
    segment_softmax(g, H, w.data(), p.data());
    flow<float>(g, H, p.data(), rows, {y.data(), nodes, D, D});
    flow_back<float>(g, H, p.data(), rows, {y.data() + nodes * D, nodes, D, D});
    return y;
  };
  const auto one = run(1), two = run(2);
  REQUIRE(std::memcmp(one.data(), two.data(), sizeof(float) * one.size()) == 0);
}
