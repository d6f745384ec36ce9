#include <limen/attention/graph.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <limen/attention/graph_attention.hpp>
#include <limen/attention/graph_attention_v2.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

#include "graph_model.hpp"

using namespace limen;
using graphs::Kind;
using graphs::noise;
using graphs::on;

namespace {

constexpr GraphAttentionConfig features{.d_in = 2, .d_head = 3, .heads = 4, .d_edge = 2};
constexpr GraphAttentionConfig types{.d_in = 2, .d_head = 3, .heads = 2, .relations = 4};
constexpr GraphAttentionConfig both{
    .d_in = 2, .d_head = 8, .heads = 2, .concat = false, .d_edge = 3, .relations = 3};

constexpr Kind with_all{.d_edge = 3, .types = 3, .keep = true, .gate = true};

template <class A, class B>
void same(const A& a, const B& b, double tolerance = 1e-12) {
  REQUIRE(a.size() == b.size());
  for (Index i = 0; i < static_cast<Index>(a.size()); ++i) {
    INFO("element " << i);
    REQUIRE(std::abs(a.data()[i] - b.data()[i]) <= tolerance);
  }
}

}  // namespace

namespace {

/// What RunEdges finds on a graph of as many rows as it has nodes.
struct Found {
  Context context;
  detail::RunEdges<double> edges;

  Found(const GraphRun& run, const GraphAttentionConfig& c) {
    context.graph = &run;
    const Index offsets[] = {0, run.graph->nodes()};
    REQUIRE(edges.find(from_rest(offsets, &context), run.graph->nodes(), c));
  }
  Index loop_of(Index i) const { return edges.graph->starts(i + 1) - 1; }
};

}  // namespace

TEST_CASE("A self loop has the mean features of the edges to its node that are kept",
          "[attention][graph]") {
  // The loop that was given is taken out, with its features; node 2 has no edges.
  const Edge list[] = {{1, 0}, {0, 0}, {2, 0}, {0, 1}, {2, 0}};
  const Graph graph = Graph::make(3, list, {.self_loops = true}).value();
  const double nan = std::nan(""), f[] = {1, 2, 50, 50, 3, 8, 7, 7, nan, nan};
  const std::uint8_t keep[] = {1, 1, 1, 1, 0};
  GraphRun run{.graph = &graph, .keep = keep};
  run.doubles.features = {f, 5, 2, 2};
  std::vector<double> d_f(10);
  run.doubles.d_features = {d_f.data(), 5, 2, 2};
  const Found found(run, features);
  const auto row = [&](Index place) {
    const double* const at = found.edges.features.data() + 2 * place;
    return std::vector<double>{at[0], at[1]};
  };
  REQUIRE(row(found.loop_of(0)) == std::vector<double>{2, 5});
  REQUIRE(row(found.loop_of(1)) == std::vector<double>{7, 7});
  REQUIRE(row(found.loop_of(2)) == std::vector<double>{0, 0});
  for (Index i = 0; i < 3; ++i) REQUIRE(found.edges.kept(found.loop_of(i)));
  for (Index p = 0; p < graph.edges(); ++p) {
    REQUIRE(found.edges.kept(p) == (graph.edge()[p] != 4));
    if (const auto e = graph.edge()[p]; e >= 0 && e != 4) {
      REQUIRE(row(p) == std::vector<double>{f[2 * e], f[2 * e + 1]});
    }
  }

  // The way back: its gradient is shared out again; nothing goes to what did not count.
  Sequence<double, 2> d(graph.edges());
  for (Index p = 0; p < d.rows(); ++p) d(p, 0) = d(p, 1) = graph.edge()[p] == 4 ? 0 : 1;
  d(found.loop_of(0), 1) = 10;
  found.edges.give_back(&found.context, std::as_const(d).matrix(), {});
  REQUIRE(d_f == std::vector<double>{1.5, 6, 0, 0, 1.5, 6, 2, 2, 0, 0});
  found.edges.give_back(&found.context, std::as_const(d).matrix(), {});
  REQUIRE(d_f[1] == 12);  // added to
  found.edges.give_back(nullptr, std::as_const(d).matrix(), {});
  REQUIRE(d_f[1] == 12);
}

TEST_CASE("Gates of edges are found by place, self loops have 1", "[attention][graph]") {
  const Edge list[] = {{1, 1}, {2, 0}, {0, 1}, {1, 0}};
  const Graph graph = Graph::make(3, list, {.self_loops = true}).value();
  const double gates[] = {9, 0.5, 0.25, 2};
  std::vector<double> d_gates(4);
  GraphRun run{.graph = &graph};
  run.doubles.gate = gates;
  run.doubles.d_gate = d_gates.data();
  const Found found(run, types);
  Buffer<double> d(graph.edges());
  for (Index p = 0; p < graph.edges(); ++p) {
    const auto e = graph.edge()[p];
    REQUIRE(found.edges.gate[p] == (e < 0 ? 1 : gates[e]));
    d[p] = e < 0 ? 100 : 10 * e;
  }
  found.edges.give_back(&found.context, {}, d);
  REQUIRE(d_gates == std::vector<double>{0, 10, 20, 30});
  REQUIRE(found.edges.features.size() == 0);
  REQUIRE(found.edges.keep.size() == 0);
}

TEMPLATE_TEST_CASE("Nodes without edges, and graphs without any, give the bias",
                   "[attention][graph]", (GraphAttention<both, double>),
                   (GraphAttentionV2<both, double>)) {
  Random random(3);
  auto layer = TestType::initialized(random);
  for (Index c = 0; c < TestType::out; ++c) layer.bias[c] = static_cast<double>(c + 1);
  const double f[] = {1, 2, 3};
  const auto gives = [&](std::span<const Edge> edges, Index rows, Index first) {
    const Graph graph = Graph::make(4, edges).value();
    GraphRun run{.graph = &graph};
    run.doubles.features = {f, static_cast<Index>(edges.size()), 3, 3};
    Context c{.graph = &run};
    const Index offsets[] = {0, rows};
    typename TestType::Cache cache;
    TestType gradient;
    const auto x = noise<2>(rows, random);
    const auto y = layer.forward(Sequence(x), from_rest(offsets, &c), cache);
    REQUIRE(y.rows() == rows);
    const auto dy = noise<TestType::out>(rows, random);
    const auto dx = layer.backward(dy, from_rest(offsets, &c), cache, gradient);
    for (Index t = 0; t < rows; ++t) {
      const bool alone = t % 4 >= first;
      bool is_bias = true;
      for (Index k = 0; k < TestType::out; ++k) is_bias = is_bias && y(t, k) == layer.bias[k];
      REQUIRE(is_bias == alone);
      if (t % 4 > 1 || edges.empty()) REQUIRE((dx(t, 0) == 0 && dx(t, 1) == 0));
    }
  };
  const Edge one[] = {{1, 0}};
  gives(one, 4, 1);
  gives(one, 8, 1);
  gives({}, 4, 0);
  gives({}, 0, 0);
  const Graph nobody = Graph::make(0, {}).value();
  GraphRun run{.graph = &nobody};
  run.doubles.features = {f, 0, 3, 3};
  REQUIRE(on(layer, Sequence<double, 2>(0), run).rows() == 0);
  REQUIRE_THROWS_WITH(on(layer, noise<2>(2, random), run),
                      has_part("rows of sequence 0: wanted snapshots of 0 nodes, found 2"));
}

TEMPLATE_TEST_CASE("An edge that is not kept is as if it were not there", "[attention][graph]",
                   (GraphAttention<both, double>), (GraphAttentionV2<both, double>)) {
  Random random(4);
  const auto layer = TestType::initialized(random);
  auto x = noise<2>(6, random);
  std::vector<Edge> all, some;
  std::vector<double> f, f_some;
  std::vector<std::uint8_t> keep;
  for (Index e = 0; e < 20; ++e) {
    // Node 5 is not a number; no edge from it or to it is kept.
    const bool bad = e % 3 == 1;
    const Index from = bad && e % 2 == 0 ? 5 : e % 5,
                to = bad && e % 2 == 1 ? 5 : (3 * e + e / 5) % 5;
    all.push_back({from, to, e % 2});
    keep.push_back(!bad);
    if (!bad) some.push_back(all.back());
    for (Index c = 0; c < 3; ++c) {
      f.push_back(bad ? std::nan("") : random.normal());
      if (!bad) f_some.push_back(f.back());
    }
  }
  for (Index c = 0; c < 2; ++c) x(5, c) = std::nan("");
  const GraphOptions loops{.self_loops = true, .loop_type = 2};
  const Graph graph = Graph::make(6, all, loops).value(),
              less = Graph::make(6, some, loops).value();
  GraphRun masked{.graph = &graph, .keep = keep}, fewer{.graph = &less};
  masked.doubles.features = {f.data(), 20, 3, 3};
  fewer.doubles.features = {f_some.data(), static_cast<Index>(some.size()), 3, 3};
  const auto y = on(layer, x, masked), expected = on(layer, x, fewer);
  for (Index i = 0; i < 5; ++i) {
    for (Index c = 0; c < TestType::out; ++c) {
      REQUIRE(std::isfinite(y(i, c)));
      REQUIRE(std::abs(y(i, c) - expected(i, c)) < 1e-12);
    }
  }
  Context c{.graph = &masked};
  const Index offsets[] = {0, 6};
  typename TestType::Cache cache;
  TestType gradient;
  layer.forward(Sequence<double, 2>(x), from_rest(offsets, &c), cache);
  auto dy = noise<TestType::out>(6, random);
  for (Index k = 0; k < TestType::out; ++k) dy(5, k) = 0;
  const auto dx = layer.backward(dy, from_rest(offsets, &c), cache, gradient);
  for (Index i = 0; i < 5; ++i) REQUIRE((std::isfinite(dx(i, 0)) && std::isfinite(dx(i, 1))));
}

TEMPLATE_TEST_CASE("Snapshots of a graph are as good as many graphs", "[attention][graph]",
                   (GraphAttention<both, double>), (GraphAttentionV2<both, double>)) {
  Random random(5);
  const auto layer = TestType::initialized(random);
  const Index offsets[] = {0, 9}, six[] = {0, 18, 18, 54}, one[] = {0, 54};
  const auto w = graphs::world<double>(Batch<NoState>(offsets), 9, graphs::with_self(with_all));
  const auto x = noise<2>(54, random);
  const auto dy = noise<TestType::out>(54, random);
  std::vector<double> d_features(w->features.size()), d_gate(w->gates.size());
  std::vector<double> sum_features(d_features), sum_gate(d_gate);
  const auto ask = [&](std::vector<double>& f, std::vector<double>& g) {
    w->run.doubles.d_features = {f.data(), static_cast<Index>(g.size()), 3, 3};
    w->run.doubles.d_gate = g.data();
  };
  ask(d_features, d_gate);
  Context c{.graph = &w->run};
  TestType gradient, sum;
  typename TestType::Cache cache;
  const auto y = layer.forward(Sequence<double, 2>(x), from_rest(six, &c), cache);
  const auto dx = layer.backward(dy, from_rest(six, &c), cache, gradient);
  same(layer.forward(x, from_rest(one, &c)), y);
  ask(sum_features, sum_gate);
  for (Index s = 0; s < 6; ++s) {
    const auto part = middle_rows(x, 9 * s, 9);
    typename TestType::Cache alone;
    const auto y_s = layer.forward(part.copy(), from_rest(offsets, &c), alone);
    const auto dx_s = layer.backward(middle_rows(dy, 9 * s, 9), from_rest(offsets, &c), alone, sum);
    same(y_s, middle_rows(y, 9 * s, 9).copy());
    same(dx_s, middle_rows(dx, 9 * s, 9).copy());
  }
  for_each_tensor([](const auto& a, const auto& b) { same(a.flat(), b.flat(), 1e-10); }, gradient,
                  sum);
  for (std::size_t k = 0; k < d_gate.size(); ++k)
    REQUIRE(std::abs(d_gate[k] - sum_gate[k]) < 1e-10);
  for (std::size_t k = 0; k < d_features.size(); ++k) {
    REQUIRE(std::abs(d_features[k] - sum_features[k]) < 1e-10);
  }
}

TEMPLATE_TEST_CASE("Features and gates of edges have their slopes", "[attention][graph]",
                   (GraphAttention<both, double>), (GraphAttentionV2<both, double>)) {
  Random random(6);
  const auto layer = TestType::initialized(random);
  const Index offsets[] = {0, 7};
  const auto w = graphs::world<double>(Batch<NoState>(offsets), 7, graphs::with_self(with_all));
  const auto x = noise<2>(7, random);
  const auto r = noise<TestType::out>(7, random);
  std::vector<double> d_features(w->features.size()), d_gate(w->gates.size());
  w->run.doubles.d_features = {d_features.data(), static_cast<Index>(d_gate.size()), 3, 3};
  w->run.doubles.d_gate = d_gate.data();
  Context c{.graph = &w->run};
  TestType gradient;
  typename TestType::Cache cache;
  layer.forward(Sequence<double, 2>(x), from_rest(offsets, &c), cache);
  layer.backward(r, from_rest(offsets, &c), cache, gradient);
  const auto loss = [&] {
    const auto y = layer.forward(x, from_rest(offsets, &c));
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& values, const std::vector<double>& slopes) {
    double size = 0;
    for (std::size_t k = 0; k < values.size(); ++k) {
      const double before = values[k], h = 1e-6;
      values[k] = before + h;
      const double above = loss();
      values[k] = before - h;
      const double below = loss();
      values[k] = before;
      INFO("number " << k);
      REQUIRE(std::abs(slopes[k] - (above - below) / (2 * h)) < 1e-7);
      size += std::abs(slopes[k]);
    }
    REQUIRE(size > 0);
  };
  check(w->features, d_features);
  check(w->gates, d_gate);
}

TEST_CASE("Layers along edges stand among others", "[attention][graph]") {
  constexpr GraphAttentionConfig c{.d_in = 6, .d_head = 3, .heads = 2};
  using Model = Sequential<Linear<LinearConfig{.d_in = 2, .d_out = 6}, double>,
                           Residual<GraphAttentionV2<c, double>>, GraphAttention<c, double>>;
  static_assert(Trainable<Model>);
  Random random(8);
  const auto model = Model::initialized(random);
  const Edge edges[] = {{0, 1}, {1, 2}, {2, 0}, {2, 1}};
  const Graph graph = Graph::make(3, edges).value();
  const GraphRun run{.graph = &graph};
  const auto x = noise<2>(3, random);
  const auto h = forward(get<0>(model.layers), x);
  auto middle = on(get<1>(model.layers).inner, h, run);
  for (Index i = 0; i < h.size(); ++i) middle.data()[i] += h.data()[i];
  same(on(model, x, run), on(get<2>(model.layers), middle, run));
  same(on(prepare(model), x, run), on(model, x, run));
}

TEST_CASE("What does not fit the graph is an error", "[attention][graph]") {
  Random random(9);
  const auto layer = GraphAttentionV2<features, double>::initialized(random);
  const auto message = [&](Index rows, const GraphRun* run) -> std::string {
    Context c{.graph = run};
    const Index offsets[] = {0, rows};
    try {
      layer.forward(noise<2>(rows, random), from_rest(offsets, &c));
    } catch (const Exception& e) {
      return e.what();
    }
    return "none";
  };
  const Edge edges[] = {{0, 1, 1}, {2, 1}};
  const Graph graph = Graph::make(3, edges).value(), wide = Graph::make(4, 3, edges).value();
  const double f[6] = {};
  const std::uint8_t keep[3] = {1, 1, 1};
  GraphRun run{.graph = &graph};
  REQUIRE_THAT(message(3, nullptr), has_part("wanted one in the Context of the run, found none"));
  REQUIRE_THAT(message(3, &run), has_part("features of edges: wanted [2 x 2], found [0 x 0]"));
  run.doubles.features = {f, 2, 3, 3};
  REQUIRE_THAT(message(3, &run), has_part("features of edges: wanted [2 x 2], found [2 x 3]"));
  run.doubles.features = {f, 3, 2, 2};
  REQUIRE_THAT(message(3, &run), has_part("features of edges: wanted [2 x 2], found [3 x 2]"));
  run.doubles.features = {f, 2, 2, 2};
  double d[6] = {};
  run.doubles.d_features = {d, 3, 2, 2};
  REQUIRE_THAT(message(3, &run),
               has_part("gradient of features of edges: wanted [2 x 2], found [3 x 2]"));
  run.doubles.d_features = {};
  REQUIRE(message(3, &run) == "none");
  REQUIRE(message(0, &run) == "none");
  REQUIRE_THAT(message(4, &run), has_part("wanted snapshots of 3 nodes, found 4"));
  run.keep = keep;
  REQUIRE_THAT(message(3, &run), has_part("keep: wanted 2 edges, found 3"));
  run.keep = {};
  run.graph = &wide;
  REQUIRE_THAT(message(3, &run), has_part("found 4 sources and 3 nodes"));
  run.graph = &graph;
  const auto typed = GraphAttention<types, double>::initialized(random);
  const Edge high[] = {{0, 1, 4}};
  const Graph many = Graph::make(3, high).value();
  run.graph = &many;
  REQUIRE_THROWS_WITH(on(typed, noise<2>(3, random), run),
                      has_part("types of edges: wanted at most 4, found 5"));
}

TEMPLATE_TEST_CASE("After an error a cache is that of the forward before", "[attention][graph]",
                   (GraphAttention<types, double>), (GraphAttentionV2<types, double>)) {
  Random random(11);
  const auto layer = TestType::initialized(random);
  const Edge edges[] = {{0, 1, 1}, {2, 1}, {1, 2}}, high[] = {{0, 1, 4}};
  const Graph graph = Graph::make(3, edges).value(), many = Graph::make(5, high).value();
  GraphRun run{.graph = &graph}, wrong{.graph = &many};
  Context c{.graph = &run}, refused{.graph = &wrong};
  const Index offsets[] = {0, 6}, five[] = {0, 5};
  typename TestType::Cache cache;
  TestType first, second;
  layer.forward(noise<2>(6, random), from_rest(offsets, &c), cache);
  const auto dy = noise<TestType::out>(6, random);
  const auto dx = layer.backward(dy, from_rest(offsets, &c), cache, first);
  REQUIRE_THROWS_WITH(layer.forward(noise<2>(5, random), from_rest(five, &refused), cache),
                      has_part("types of edges: wanted at most 4, found 5"));
  same(layer.backward(dy, from_rest(offsets, &c), cache, second), dx, 0);
}
