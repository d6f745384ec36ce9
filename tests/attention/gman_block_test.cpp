#include <limen/attention/gman_block.hpp>

#include "gman_model.hpp"

using namespace limen;
using steps::noise;

namespace {

constexpr GmanConfig block{.nodes = 3, .heads = 2, .d_head = 3, .horizon = 2, .slots = 8};
constexpr GmanConfig causal{
    .nodes = 3, .heads = 2, .d_head = 3, .horizon = 2, .slots = 8, .causal = true};
constexpr GmanConfig one{.nodes = 1, .heads = 1, .d_head = 1, .horizon = 1, .slots = 1};
using Block = GmanBlock<block, double>;

}  // namespace

TEST_CASE("GmanBlock keeps the laws of layers", "[attention][gman][laws]") {
  static_assert(check::names_every_member<GmanBlock<block>>);
  steps::keeps_the_laws<steps::InSteps<GmanBlock<block>, 3>>();
}

TEST_CASE("The gate of GmanBlock weighs nodes against time, by hand", "[attention][gman]") {
  GmanBlock<one, double> layer;
  // Heads of one row give relu(v); make v 1 over nodes and 3 over time.
  layer.spatial.qkv_bias[2] = 1;
  layer.temporal.qkv_bias[2] = 3;
  for (auto* two : {&layer.spatial.output, &layer.temporal.output, &layer.output}) {
    get<0>(two->layers).weight[0] = get<2>(two->layers).weight[0] = 1;
  }
  layer.fusion_s[0] = 0.5;
  layer.fusion_t[0] = -0.5;
  const auto y = forward(layer, Sequence<double, 2>{{10, 0}});
  // z = 1 / (1 + e) = 0.268941, h = z + 3 (1 - z) = 2.462117.
  REQUIRE(y(0, 0) == Approx(10 + 2.462117).epsilon(1e-7));
}

TEST_CASE("A GmanBlock that has learned nothing passes x on, and not e", "[attention][gman]") {
  Random random(2);
  const auto x = noise<2 * Block::D>(6, random);
  const auto y = forward(Block(), x);
  for (Index t = 0; t < 6; ++t) {
    for (Index c = 0; c < Block::D; ++c) REQUIRE(y(t, c) == x(t, c));
  }
}

TEST_CASE("A shut gate of GmanBlock is attention over time, an open one over nodes",
          "[attention][gman]") {
  Random random(3);
  auto layer = Block::initialized(random);
  const Index offsets[] = {0, 9, 9, 15};
  const auto batch = from_rest(offsets);
  const auto x = noise<2 * Block::D>(15, random);
  const auto check = [&](double bias, const auto& heads) {
    fill(layer.fusion_bias, bias);
    auto expected = layer.output.forward(heads.forward(x, batch), {});
    const auto y = layer.forward(x, batch);
    double most = 0;
    for (Index t = 0; t < 15; ++t) {
      for (Index c = 0; c < Block::D; ++c) {
        most = std::max(most, std::abs(y(t, c) - x(t, c) - expected(t, c)));
      }
    }
    return most;
  };
  REQUIRE(check(1000, layer.spatial) < 1e-12);
  REQUIRE(check(-1000, layer.temporal) < 1e-12);
  REQUIRE(check(-1000, layer.spatial) > 1e-3);
}

TEST_CASE("A causal GmanBlock sees no later steps, any other does", "[attention][gman]") {
  const auto moves = [](auto layer) {
    using L = decltype(layer);
    Random random(4);
    layer = L::initialized(random);
    auto x = noise<L::in>(12, random);  // 4 steps of 3 nodes
    const auto before = forward(layer, x);
    for (Index i = 9 * L::in; i < x.size(); ++i) x.data()[i] += 1;
    const auto after = forward(layer, x);
    double most = 0;
    for (Index i = 0; i < 9 * L::out; ++i) {
      most = std::max(most, std::abs(before.data()[i] - after.data()[i]));
    }
    return most;
  };
  REQUIRE(moves(GmanBlock<causal, double>()) == 0);
  REQUIRE(moves(Block()) > 1e-3);
}

TEST_CASE("GmanBlock refuses a sequence that ends amid a step, and keeps its cache",
          "[attention][gman]") {
  Random random(5);
  const auto layer = Block::initialized(random);
  Block::Cache cache;
  Block first, second;
  forward(layer, noise<2 * Block::D>(6, random), cache);
  const auto dy = noise<Block::D>(6, random);
  const auto dx = backward(layer, dy, cache, first);
  const std::string wanted = "rows of sequence 0: wanted time steps of 3 nodes, found 7";
  REQUIRE_THROWS_WITH(forward(layer, noise<2 * Block::D>(7, random)), has_part(wanted));
  REQUIRE_THROWS_WITH(forward(layer, noise<2 * Block::D>(7, random), cache), has_part(wanted));
  const auto again = backward(layer, dy, cache, second);
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(dx.data()[i] == again.data()[i]);
}

static_assert(Trainable<GmanBlock<block>> && !Streaming<GmanBlock<block>>);
