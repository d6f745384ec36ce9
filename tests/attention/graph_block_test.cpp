#include <limen/attention/graph_block.hpp>

#include <limits>

#include "graph_model.hpp"

using namespace limen;
using graphs::Kind;
using graphs::noise;
using graphs::on;

namespace {

constexpr GraphBlockConfig least{.d_model = 2, .widening = 1};
constexpr GraphBlockConfig wide{.d_model = 34, .heads = 2, .d_edge = 1, .widening = 1};
constexpr GraphBlockConfig small{.d_model = 6, .heads = 3, .d_edge = 2, .widening = 2};

constexpr Kind plain{};
constexpr Kind with_one{.d_edge = 1, .types = 2, .loops = true};
constexpr Kind with_all{.d_edge = 2, .types = 2, .keep = true, .gate = true};

using Block = GraphBlock<small, double>;

/// In float steps of 1e-2 cross kinks of relu: slopes are left to double.
template <class L, Kind K>
void keeps_the_laws() {
  static_assert(check::names_every_member<L>);
  const auto hold = [](auto scalar) {
    check::Options options{.causal = false};
    if (sizeof(scalar) == 4) options.slope = 1e3;
    Random random(3);
    using On = graphs::OnGraph<typename L::template with_scalar<decltype(scalar)>, K>;
    const auto report = check::laws(On::initialized(random), options);
    INFO(report.text());
    REQUIRE(report.ok());
    REQUIRE(report.checks > 0);
  };
  hold(double());
  hold(float());
}

/// A graph of five nodes, with all that its edges may have.
struct World {
  Graph graph = Graph::make(5, edges()).value();
  std::vector<double> features, gates, d_features, d_gates;
  std::vector<std::uint8_t> keep{1, 1, 0, 1, 1, 1, 0};
  GraphRun run{.graph = &graph, .keep = keep};

  static std::span<const Edge> edges() {
    static constexpr Edge all[] = {{0, 1}, {2, 1}, {3, 1}, {1, 0}, {4, 0}, {4, 0}, {2, 4}};
    return all;
  }
  explicit World(Random& random) : d_features(14), d_gates(7) {
    for (int i = 0; i < 14; ++i) features.push_back(random.normal());
    for (int i = 0; i < 7; ++i) gates.push_back(random.normal());
    run.doubles.features = {features.data(), 7, 2, 2};
    run.doubles.gate = gates.data();
  }
};

}  // namespace

TEST_CASE("GraphBlock keeps the laws of layers", "[attention][graph][laws]") {
  keeps_the_laws<GraphBlock<least>, plain>();
  keeps_the_laws<GraphBlock<wide>, with_one>();
  keeps_the_laws<GraphBlock<small>, with_all>();
}

TEST_CASE("Features and gates of a GraphBlock have their slopes, over snapshots too",
          "[attention][graph]") {
  Random random(1);
  const auto block = Block::initialized(random);
  World w(random);
  const auto x = noise<6>(10, random), r = noise<6>(10, random);  // two snapshots
  w.run.doubles.d_features = {w.d_features.data(), 7, 2, 2};
  w.run.doubles.d_gate = w.d_gates.data();
  Block::Cache cache;
  Block gradient;
  Context context{.graph = &w.run};
  const Index offsets[] = {0, 10};
  block.forward(Sequence<double, 6>(x), from_rest(offsets, &context), cache);
  block.backward(r, from_rest(offsets, &context), cache, gradient);
  const auto loss = [&] {
    const auto y = on(block, x, w.run);
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& values, const std::vector<double>& slopes) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double before = values[i], h = 1e-6;
      values[i] = before + h;
      const double above = loss();
      values[i] = before - h;
      const double below = loss();
      values[i] = before;
      REQUIRE(std::abs((above - below) / (2 * h) - slopes[i]) < 1e-7 * (1 + std::abs(slopes[i])));
    }
  };
  check(w.features, w.d_features);
  check(w.gates, w.d_gates);
  REQUIRE(w.d_gates[2] == 0);  // edges that are not kept
  REQUIRE(w.d_features[12] == 0);
  REQUIRE(w.d_gates[0] != 0);
}

TEST_CASE("A GraphBlock hears nothing along an edge that is not kept", "[attention][graph]") {
  Random random(2);
  const auto block = Block::initialized(random);
  World w(random);
  auto x = noise<6>(5, random);
  x(3, 1) = std::numeric_limits<double>::quiet_NaN();  // its only edge, to node 1, is not kept
  w.features[4] = w.gates[6] = std::numeric_limits<double>::quiet_NaN();
  const auto y = on(block, x, w.run);
  for (Index i = 0; i < 5; ++i) {
    for (Index c = 0; c < 6; ++c) REQUIRE(std::isnan(y(i, c)) == (i == 3));
  }
  // Node 4 has no edge that is kept, node 2 none at all: both hear nothing, and know no graph.
  World none(random);
  std::fill(none.keep.begin(), none.keep.end(), std::uint8_t{0});
  const auto alone = on(block, x, none.run);
  for (const Index i : {2, 4}) {
    for (Index c = 0; c < 6; ++c) REQUIRE(y(i, c) == alone(i, c));
  }
}

TEST_CASE("Two threads give the same bits of a GraphBlock", "[attention][graph]") {
  constexpr GraphBlockConfig c{.d_model = 32, .heads = 4};
  using Large = GraphBlock<c>;
  Random random(3);
  const auto block = Large::initialized(random);
  std::vector<Edge> edges;
  for (int e = 0; e < 6000; ++e) {
    edges.push_back({static_cast<Index>(random.below(600)), static_cast<Index>(random.below(600))});
  }
  const Graph graph = Graph::make(600, edges).value();
  const GraphRun run{.graph = &graph};
  Context context{.graph = &run};
  const Index offsets[] = {0, 600};
  Sequence<float, 32> x(600);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  struct Answer {
    Sequence<float, 32> y, dx;
    Large gradient;
  };
  const auto ask = [&](int threads) {
    const Threads allowed(threads);
    Answer a;
    Large::Cache cache;
    a.y = block.forward(Sequence<float, 32>(x), from_rest(offsets, &context), cache);
    a.dx = block.backward(a.y, from_rest(offsets, &context), cache, a.gradient);
    return a;
  };
  const auto one = ask(1), two = ask(2);
  for (Index i = 0; i < x.size(); ++i) {
    REQUIRE(one.y.data()[i] == two.y.data()[i]);
    REQUIRE(one.dx.data()[i] == two.dx.data()[i]);
  }
  for_each_tensor(
      [](const auto& a, const auto& b) {
        for (Index i = 0; i < a.size; ++i) REQUIRE(a.data()[i] == b.data()[i]);
      },
      one.gradient, two.gradient);
}

TEST_CASE("A GraphBlock says what it lacks", "[attention][graph]") {
  Random random(4);
  const auto block = Block::initialized(random);
  World w(random);
  const auto x = noise<6>(5, random);
  const Index offsets[] = {0, 5};
  REQUIRE_THROWS_WITH(block.forward(x, from_rest(offsets)),
                      "GraphAttention: graph: wanted one in the Context of the run, found none");
  w.run.doubles.features = {};
  REQUIRE_THROWS_WITH(on(block, x, w.run),
                      "GraphAttention: features of edges: wanted [7 x 2], found [0 x 0]");
  STATIC_REQUIRE(Trainable<Block>);
  STATIC_REQUIRE_FALSE(Streaming<Block>);
}
