#include <limen/kernel/pool.hpp>

#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("A gradient through a maximum does not touch its neighbours", "[kernel][pool]") {
  const Window2d s{{1, 3}, 1, {1, 2}, {1, 1}, {0, 0}, {1, 1}};
  const float image[] = {1, 3, 2}, dy[] = {10, 100};
  float y[2], d[] = {0, 0, 0};
  max_pool(s, image, y);
  add_max_pool_gradient(s, image, dy, d);
  REQUIRE(y[0] == 3);
  REQUIRE(y[1] == 3);
  REQUIRE(d[0] == 0);
  REQUIRE(d[1] == 110);
  REQUIRE(d[2] == 0);
}

TEST_CASE("Pools of windows at the edge of an image", "[kernel][pool]") {
  // One pixel of padding on each side of 1 x 3; windows of 3.
  const Window2d s{{1, 3}, 1, {1, 3}, {1, 1}, {0, 1}, {1, 1}};
  const float image[] = {3, 6, 9}, dy[] = {6, 6, 6};
  float y[3];
  max_pool(s, image, y);
  REQUIRE(std::vector<float>(y, y + 3) == std::vector<float>{6, 9, 9});
  average_pool(s, true, image, y);
  REQUIRE(std::vector<float>(y, y + 3) == std::vector<float>{3, 6, 5});
  average_pool(s, false, image, y);
  REQUIRE(std::vector<float>(y, y + 3) == std::vector<float>{4.5f, 6, 7.5f});
  float d[3] = {};
  add_average_pool_gradient(s, true, dy, d);
  REQUIRE(std::vector<float>(d, d + 3) == std::vector<float>{4, 6, 4});
  float e[3] = {};
  add_average_pool_gradient(s, false, dy, e);
  REQUIRE(std::vector<float>(e, e + 3) == std::vector<float>{5, 8, 5});
}

TEST_CASE("NaN is larger than any number in a pool", "[kernel][pool]") {
  const Window2d s{{1, 3}, 1, {1, 2}, {1, 1}, {0, 0}, {1, 1}};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float image[] = {1, nan, 2};
  float y[2];
  max_pool(s, image, y);
  REQUIRE((y[0] != y[0] && y[1] != y[1]));
}
