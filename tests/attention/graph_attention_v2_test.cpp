#include <limen/attention/graph_attention_v2.hpp>

#include <cstring>

#include "graph_model.hpp"

using namespace limen;
using namespace graphs;

namespace {

constexpr GraphAttentionConfig heads{.d_in = 3, .d_head = 17, .heads = 3};

}  // namespace

TEST_CASE("GraphAttentionV2 keeps the laws of layers", "[attention][graph][laws]") {
  keeps_the_laws<GraphAttentionV2<least>, plain>();
  keeps_the_laws<GraphAttentionV2<heads>, plain>();
  keeps_the_laws<GraphAttentionV2<features>, with_features>();
  keeps_the_laws<GraphAttentionV2<types>, with_types>();
  keeps_the_laws<GraphAttentionV2<both>, with_all>();
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
  const auto y = on(layer, x, run), expected = on(other, x, run);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(y.data()[i] - expected.data()[i]) < 1e-12);
  }
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

static_assert(Trainable<GraphAttentionV2<both>> && !Streaming<GraphAttentionV2<both>>,
              "a node listens to others: no step");
static_assert(Runs<GraphAttentionV2<both, Prepared<float>>> &&
              !Trainable<GraphAttentionV2<both, Prepared<float>>>);
