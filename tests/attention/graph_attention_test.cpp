#include <limen/attention/graph_attention.hpp>
#include <limen/attention/graph_attention_v2.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

#include <cstring>
#include <limits>

#include "../catch.hpp"
#include "graph_model.hpp"

using namespace limen;
using graphs::Kind;

namespace {

constexpr GraphAttentionConfig least{.d_in = 1, .d_head = 1};
constexpr GraphAttentionConfig features{.d_in = 2, .d_head = 3, .heads = 4, .d_edge = 2};
constexpr GraphAttentionConfig types{.d_in = 2, .d_head = 3, .heads = 2, .relations = 4};
constexpr GraphAttentionConfig both{
    .d_in = 2, .d_head = 8, .heads = 2, .concat = false, .d_edge = 3, .relations = 3};

constexpr Kind with_all{.d_edge = 3, .types = 3, .keep = true, .gate = true};

template <Index D>
Sequence<double, D> noise(Index rows, Random& random) {
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

template <class L>
Sequence<double, L::out> on(const L& layer, SequenceView<double, L::in> x, const GraphRun& run) {
  Context c{.graph = &run};
  const Index offsets[] = {0, x.rows()};
  return layer.forward(x, from_rest(offsets, &c));
}

template <class A, class B>
void same(const A& a, const B& b, double tolerance = 1e-12) {
  REQUIRE(a.size() == b.size());
  for (Index i = 0; i < static_cast<Index>(a.size()); ++i) {
    INFO("element " << i);
    REQUIRE(std::abs(a.data()[i] - b.data()[i]) <= tolerance);
  }
}

}  // namespace

TEST_CASE("GraphAttention of three nodes, by hand", "[attention][graph]") {
  GraphAttention<least, double> layer;
  layer.lin[0] = layer.att_src[0] = layer.att_dst[0] = 1;
  layer.bias[0] = 0.25;
  const Edge edges[] = {{1, 0}, {2, 0}};
  const Graph graph = Graph::make(3, edges).value();
  const GraphRun run{.graph = &graph};
  const auto y = on(layer, Sequence<double, 1>{{1}, {2}, {-1}}, run);
  // Scores 1 + 2 and 1 - 1; p = e^3 / (e^3 + 1) = 0.952574.
  REQUIRE(y(0, 0) == Approx(0.25 + 1.857722).epsilon(1e-6));
  REQUIRE(y(1, 0) == 0.25);  // nobody to listen to
  REQUIRE(y(2, 0) == 0.25);
}

TEST_CASE("GraphAttentionV2 of three nodes, by hand", "[attention][graph]") {
  GraphAttentionV2<least, double> layer;
  layer.lin_l[0] = 1;
  layer.lin_r[0] = -2;
  layer.att[0] = 1;
  const Edge edges[] = {{1, 0}, {2, 0}};
  const Graph graph = Graph::make(3, edges).value();
  const GraphRun run{.graph = &graph};
  const auto y = on(layer, Sequence<double, 1>{{1}, {5}, {1}}, run);
  // Scores 5 - 2 = 3 and 0.2 (1 - 2) = -0.2; p = 1 / (1 + e^-3.2) = 0.960834.
  REQUIRE(y(0, 0) == Approx(5 * 0.960834 + 0.039166).epsilon(1e-5));
  REQUIRE(y(1, 0) == 0);
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

TEST_CASE("A type of edge is a feature of its own", "[attention][graph]") {
  constexpr GraphAttentionConfig typed{.d_in = 2, .d_head = 3, .heads = 2, .relations = 3};
  constexpr GraphAttentionConfig hot{.d_in = 2, .d_head = 3, .heads = 2, .d_edge = 3};
  Random random(7);
  const auto layer = GraphAttentionV2<typed, double>::initialized(random);
  GraphAttentionV2<hot, double> other;
  other.lin_l = layer.lin_l;
  other.lin_r = layer.lin_r;
  other.att = layer.att;
  for (Index t = 0; t < 3; ++t) {
    for (Index c = 0; c < 6; ++c) other.lin_edge(c, t) = layer.relation(t, c);
  }
  std::vector<Edge> edges;
  std::vector<double> f;
  for (Index e = 0; e < 25; ++e) {
    edges.push_back({e % 7, e * e % 5, e % 3});
    for (Index t = 0; t < 3; ++t) f.push_back(e % 3 == t);
  }
  const Graph graph = Graph::make(7, edges).value();
  GraphRun run{.graph = &graph};
  run.doubles.features = {f.data(), 25, 3, 3};
  const auto x = noise<2>(7, random);
  same(on(layer, x, run), on(other, x, run));
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
  run.doubles.features = {f, 2, 2, 2};
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

TEST_CASE("Two threads give the same bits along edges", "[attention][graph]") {
  constexpr GraphAttentionConfig c{.d_in = 16, .d_head = 8, .heads = 4, .d_edge = 3};
  Random random(10);
  const auto layer = GraphAttentionV2<c>::initialized(random);
  const Index nodes = 400, count = 4000, offsets[] = {0, nodes};
  std::vector<Edge> edges;
  std::vector<float> f;
  for (Index e = 0; e < count; ++e) {
    edges.push_back({static_cast<Index>(random.below(400)), static_cast<Index>(random.below(400))});
    for (int k = 0; k < 3; ++k) f.push_back(static_cast<float>(random.normal()));
  }
  const Graph graph = Graph::make(nodes, edges, {.self_loops = true}).value();
  GraphRun run{.graph = &graph};
  run.floats.features = {f.data(), count, 3, 3};
  Context context{.graph = &run};
  Sequence<float, 16> x(nodes);
  Sequence<float, 32> dy(nodes);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = static_cast<float>(random.normal());
  const auto all = [&](int threads) {
    const Threads allowed(threads);
    GraphAttentionV2<c>::Cache cache;
    GraphAttentionV2<c> gradient;
    auto y = layer.forward(Sequence<float, 16>(x), from_rest(offsets, &context), cache);
    const auto dx = layer.backward(dy, from_rest(offsets, &context), cache, gradient);
    std::vector<float> numbers(y.data(), y.data() + y.size());
    numbers.insert(numbers.end(), dx.data(), dx.data() + dx.size());
    for_each_tensor(
        [&](const auto& t) { numbers.insert(numbers.end(), t.data(), t.data() + t.size); },
        gradient);
    return numbers;
  };
  const auto one = all(1), two = all(2);
  REQUIRE(std::memcmp(one.data(), two.data(), sizeof(float) * one.size()) == 0);
}

static_assert(Trainable<GraphAttention<both>> && Trainable<GraphAttentionV2<both>>);
static_assert(!Streaming<GraphAttention<both>> && !Streaming<GraphAttentionV2<both>>,
              "a node listens to others: no step");
static_assert(Runs<GraphAttentionV2<both, Prepared<float>>> &&
              !Trainable<GraphAttentionV2<both, Prepared<float>>>);
