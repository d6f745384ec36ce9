#include <limen/attention/attention_config.hpp>

#include <cmath>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr AttentionConfig plain{.d_model = 48, .n_heads = 6, .capacity = 20};
constexpr AttentionConfig grouped{
    .d_model = 50, .n_heads = 6, .n_kv_heads = 2, .d_head = 7, .window = 5, .rollback = 3};

constexpr AttentionConfig gated(GatePosition at, bool headwise = false) {
  AttentionConfig c = grouped;
  c.gate.position = at;
  c.gate.headwise = headwise;
  return c;
}

}  // namespace

TEST_CASE("Heads and their widths follow from what is given", "[attention][attention_config]") {
  STATIC_REQUIRE(plain.kv_heads() == 6);
  STATIC_REQUIRE(plain.head_width() == 8);
  STATIC_REQUIRE(grouped.kv_heads() == 2);
  STATIC_REQUIRE(grouped.head_width() == 7);
}

TEST_CASE("A window makes the state a ring, without one it grows",
          "[attention][attention_config]") {
  constexpr KvCacheConfig grows = plain.cache(), turns = grouped.cache();
  STATIC_REQUIRE((grows.heads == 6 && grows.d_key == 8 && grows.d_value == 8));
  STATIC_REQUIRE((grows.capacity == 20 && grows.window == 0 && grows.rollback == 0));
  STATIC_REQUIRE((turns.heads == 2 && turns.d_key == 7 && turns.capacity == 0));
  STATIC_REQUIRE((turns.window == 5 && turns.rollback == 3 && turns.sinks == 0));
}

TEST_CASE("A gate is as wide as what it is applied to", "[attention][attention_config]") {
  using enum GatePosition;
  STATIC_REQUIRE(gated(G1).gate_width() == 42);
  STATIC_REQUIRE(gated(G2).gate_width() == 14);
  STATIC_REQUIRE(gated(G3).gate_width() == 14);
  STATIC_REQUIRE(gated(G4).gate_width() == 42);
  STATIC_REQUIRE(gated(G5).gate_width() == 50);
  STATIC_REQUIRE(gated(G1, true).gate_width() == 6);
  STATIC_REQUIRE(gated(G3, true).gate_width() == 2);
}

TEST_CASE("Slopes of ALiBi are those of its paper", "[attention][attention_config]") {
  const auto& eight = detail::alibi_slopes<double, 8>;
  for (int h = 0; h < 8; ++h) {
    REQUIRE(eight[static_cast<std::size_t>(h)] == std::exp2(-(h + 1.0)));
  }
  // Of six heads, those of four, then every second of those of eight.
  const auto& six = detail::alibi_slopes<double, 6>;
  const double expected[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  for (std::size_t h = 0; h < 6; ++h) REQUIRE(six[h] == expected[h]);
}
