#include <limen/attention/gate_layouts.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("Gates inside q_proj are taken apart and put together", "[attention][gate]") {
  constexpr Index H = 6, K = 2, d = 2;
  for (const auto layout :
       {GateLayout::by_head, GateLayout::by_group, GateLayout::by_group_headwise}) {
    const Index rows = gated_rows(layout, H, d);
    std::vector<double> stored, q(H * d), gate(static_cast<std::size_t>(rows - H * d));
    for (Index i = 0; i < rows; ++i) stored.push_back(static_cast<double>(i));
    auto back = stored;
    REQUIRE(split_gated_queries<double>(layout, H, K, d, 1, stored, q.data(), gate.data()));
    join_gated_queries(layout, H, K, d, 1, q.data(), gate.data(), back.data());
    REQUIRE(back == stored);
    for (Index h = 0; h < H; ++h) {  // head 4 is head r = 1 of group k = 1, and so on
      const Index k = h / 3, r = h % 3, at = h * d + 1;
      const bool headwise = layout == GateLayout::by_group_headwise;
      const double row = q[static_cast<std::size_t>(at)];
      const double z = gate[static_cast<std::size_t>(headwise ? h : at)];
      if (layout == GateLayout::by_head) {
        REQUIRE(row == static_cast<double>(2 * h * d + 1));
        REQUIRE(z == static_cast<double>(2 * h * d + d + 1));
      } else if (headwise) {
        REQUIRE(row == static_cast<double>(k * 3 * (d + 1) + r * d + 1));
        REQUIRE(z == static_cast<double>(k * 3 * (d + 1) + 3 * d + r));
      } else {
        REQUIRE(row == static_cast<double>(2 * k * 3 * d + r * d + 1));
        REQUIRE(z == static_cast<double>(2 * k * 3 * d + 3 * d + r * d + 1));
      }
    }
    stored.pop_back();
    const auto status =
        split_gated_queries<double>(layout, H, K, d, 1, stored, q.data(), gate.data());
    REQUIRE_FALSE(status);
  }
}

TEST_CASE("Rows of a gate inside q_proj keep their columns", "[attention][gate]") {
  // Two heads of one key head, two channels, rows of three.
  constexpr Index H = 2, K = 1, d = 2, width = 3;
  std::vector<float> stored;
  for (Index row = 0; row < gated_rows(GateLayout::by_group_headwise, H, d); ++row) {
    for (Index c = 0; c < width; ++c) stored.push_back(static_cast<float>(10 * row + c));
  }
  float queries[H * d * width], gate[H * width];
  REQUIRE(split_gated_queries<float>(GateLayout::by_group_headwise, H, K, d, width, stored, queries,
                                     gate));
  const float expected[] = {0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32};
  for (std::size_t i = 0; i < std::size(expected); ++i) REQUIRE(queries[i] == expected[i]);
  const float of_gate[] = {40, 41, 42, 50, 51, 52};
  for (std::size_t i = 0; i < std::size(of_gate); ++i) REQUIRE(gate[i] == of_gate[i]);
}

TEST_CASE("A q_proj that has no room for a gate is an error that says what was wanted",
          "[attention][gate]") {
  const std::vector<float> stored(4 * 3);
  float queries[4 * 3], gate[4 * 3];
  const auto status =
      split_gated_queries<float>(GateLayout::by_head, 2, 1, 2, 3, stored, queries, gate);
  REQUIRE_FALSE(status);
  REQUIRE(status.error().message() == "q_proj with a gate: wanted 8 rows of 3, found 12 numbers");
}
