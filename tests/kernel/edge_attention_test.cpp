#include <limen/kernel/edge_attention.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <cstring>
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
MatrixView<double> rows_of(Numbers& x, Index cols) {
  return {x.data(), static_cast<Index>(x.size()) / cols, cols, cols};
}
double leaky(double u, double slope) { return u > 0 ? u : slope * u; }

/// Two snapshots of a graph from 4 nodes to 5 others, with everything that an edge may have.
struct Case {
  static constexpr Index sources = 4, nodes = 5, snapshots = 2;
  Index H, C;
  bool additive;
  Graph graph;
  Numbers values, to, from, a, edges, gate, start;
  std::vector<std::uint8_t> keep;

  Case(Index heads, Index width, bool is_additive, Random& random)
      : H(heads), C(width), additive(is_additive) {
    // Node 2 has no edges, node 4 one that is not kept, 0 and 1 several from one source.
    const Edge given[] = {{0, 3}, {1, 0}, {3, 1}, {1, 0}, {2, 3}, {0, 4}, {3, 0}, {3, 1}, {0, 1}};
    graph = Graph::make(sources, nodes, given).value();
    values = noise(snapshots * sources * H * C, random);
    to = noise(snapshots * nodes * row(), random);
    from = noise(snapshots * sources * H, random);
    a = noise(H * C, random);
    edges = noise(graph.edges() * row(), random);
    gate = noise(graph.edges(), random);
    start = noise(H * C, random);
    for (Index p = 0; p < graph.edges(); ++p) keep.push_back(graph.to()[p] != 4 && p != 1);
  }
  Index row() const { return additive ? H * C : H; }

  EdgeAttention<double> call() {
    return {&graph,      snapshots,   H,           C, rows_of(values, H * C),
            keep.data(), gate.data(), start.data()};
  }
  AdditiveScore<double> additive_score() {
    return {rows_of(to, H * C), a.data(), {rows_of(edges, H * C)}, 0.3};
  }
  SumScore<double> sum_score() { return {to.data(), from.data(), {rows_of(edges, H)}, 0.3}; }

  Numbers run() {
    Numbers y(static_cast<std::size_t>(snapshots * nodes * H * C), 9);
    if (additive) {
      edge_attention<double>(call(), additive_score(), nullptr, rows_of(y, H * C));
    } else {
      edge_attention<double>(call(), sum_score(), nullptr, rows_of(y, H * C));
    }
    return y;
  }

  /// The definition, edge by edge.
  Numbers plainly() const {
    const auto at = [](const Numbers& x, Index i) { return x[static_cast<std::size_t>(i)]; };
    Numbers y(static_cast<std::size_t>(snapshots * nodes * H * C));
    for (Index s = 0; s < snapshots; ++s) {
      for (Index i = 0; i < nodes; ++i) {
        for (Index h = 0; h < H; ++h) {
          const auto score = [&](Index p) {
            const Index r = s * nodes + i, l = s * sources + graph.from()[p];
            if (!additive) {
              return leaky(at(to, r * H + h) + at(from, l * H + h) + at(edges, p * H + h), 0.3);
            }
            double sum = 0;
            for (Index c = h * C; c < (h + 1) * C; ++c) {
              sum += at(a, c) * leaky(at(to, r * H * C + c) + at(values, l * H * C + c) +
                                          at(edges, p * H * C + c),
                                      0.3);
            }
            return sum;
          };
          double all = 0;
          for (Index p = 0; p < graph.edges(); ++p) {
            if (graph.to()[p] == i && keep[static_cast<std::size_t>(p)]) all += std::exp(score(p));
          }
          for (Index c = h * C; c < (h + 1) * C; ++c) {
            double sum = at(start, c);
            for (Index p = 0; p < graph.edges(); ++p) {
              if (graph.to()[p] != i || !keep[static_cast<std::size_t>(p)]) continue;
              sum += std::exp(score(p)) / all * at(gate, p) *
                     at(values, (s * sources + graph.from()[p]) * H * C + c);
            }
            y[static_cast<std::size_t>((s * nodes + i) * H * C + c)] = sum;
          }
        }
      }
    }
    return y;
  }

  /// What backward gives for dy, each beside its input.
  void check_slopes(const Numbers& dy) {
    Numbers d_values(values.size()), d_to(to.size()), d_from(from.size()), d_a(a.size()),
        d_edges(edges.size()), d_gate(gate.size()), y(dy.size());
    Numbers p(static_cast<std::size_t>(snapshots * graph.edges() * H));
    const Index D = H * C;
    Numbers down = dy;
    if (additive) {
      edge_attention<double>(call(), additive_score(), p.data(), rows_of(y, D));
      edge_attention_backward<double>(
          call(), additive_score(), p.data(), rows_of(down, D),
          {rows_of(d_values, D), rows_of(d_to, D), d_a.data(), rows_of(d_edges, D)}, d_gate.data());
      check(a, d_a, dy, "a");
    } else {
      edge_attention<double>(call(), sum_score(), p.data(), rows_of(y, D));
      edge_attention_backward<double>(
          call(), sum_score(), p.data(), rows_of(down, D),
          {rows_of(d_values, D), d_to.data(), d_from.data(), rows_of(d_edges, H)}, d_gate.data());
      check(from, d_from, dy, "from");
    }
    check(values, d_values, dy, "values");
    check(to, d_to, dy, "to");
    check(edges, d_edges, dy, "edges");
    check(gate, d_gate, dy, "gate");
  }

  void check(Numbers& input, const Numbers& slopes, const Numbers& dy, const char* name) {
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

TEST_CASE("Attention along edges is its definition, with its slopes", "[kernel][graph]") {
  Random random(1);
  for (const bool additive : {false, true}) {
    for (const auto& [H, C] :
         {std::pair<Index, Index>{1, 1}, {2, 3}, {3, 1}, {3, 2}, {2, 4}, {3, 8}, {1, 9}, {5, 17}}) {
      INFO("additive " << additive << ", H " << H << ", C " << C);
      Case c(H, C, additive, random);
      const Numbers y = c.run(), expected = c.plainly();
      for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::abs(y[i] - expected[i]) < 1e-12);
      if (H * C < 30) c.check_slopes(noise(static_cast<Index>(y.size()), random));
    }
  }
}

TEST_CASE("Scores far from 0 along edges have probabilities all the same", "[kernel][graph]") {
  Random random(2);
  for (const bool additive : {false, true}) {
    Case c(2, 3, additive, random), far = c;
    if (additive) {
      // A large bias of the edges on the positive side of φ moves all scores of a head alike.
      for (double& x : c.edges) x += 100;
      for (double& x : far.edges) x += 1e5;
    } else {
      for (double& x : c.to) x += 100;
      for (double& x : far.to) x += 1e5;
    }
    const Numbers y = c.run(), y_far = far.run();
    for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::abs(y[i] - y_far[i]) < 1e-8);
  }
}

TEST_CASE("Not even a NaN passes along an edge that is not kept", "[kernel][graph]") {
  Random random(3);
  for (const bool additive : {false, true}) {
    Case c(2, 3, additive, random);
    const Numbers before = c.run();
    const auto nan = std::numeric_limits<double>::quiet_NaN();
    for (Index p = 0; p < c.graph.edges(); ++p) {
      if (c.keep[static_cast<std::size_t>(p)]) continue;
      for (Index i = 0; i < c.row(); ++i) c.edges[static_cast<std::size_t>(p * c.row() + i)] = nan;
    }
    const Numbers y = c.run();
    REQUIRE(std::memcmp(y.data(), before.data(), y.size() * sizeof(double)) == 0);
  }
}
