#include <limen/attention/graph_attention.hpp>

#include "graph_model.hpp"

using namespace limen;
using namespace graphs;

TEST_CASE("GraphAttention keeps the laws of layers", "[attention][graph][laws]") {
  keeps_the_laws<GraphAttention<least>, plain>();
  keeps_the_laws<GraphAttention<features>, with_features>();
  keeps_the_laws<GraphAttention<types>, with_types>();
  keeps_the_laws<GraphAttention<both>, with_all>();
}

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

static_assert(Trainable<GraphAttention<both>> && !Streaming<GraphAttention<both>>,
              "a node listens to others: no step");
static_assert(Runs<GraphAttention<both, Prepared<float>>> &&
              !Trainable<GraphAttention<both, Prepared<float>>>);
