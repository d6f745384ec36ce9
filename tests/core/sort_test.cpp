#include <limen/core/sort.hpp>

#include <cstddef>
#include <limits>
#include <vector>

#include "../catch.hpp"

namespace {

TEST_CASE("The highest key comes first, equal ones in their order, NaN last", "[core][sort]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> key{1, nan, 3, 1, 7, nan, 3};
  std::vector<int> order{0, 1, 2, 3, 4, 5, 6};
  limen::sort_by_highest(order, [&](int i) { return key[static_cast<std::size_t>(i)]; });
  REQUIRE(order == std::vector<int>{4, 2, 6, 0, 3, 1, 5});
}

TEST_CASE("A thousand keys of which most are NaN are sorted without harm", "[core][sort]") {
  std::vector<long> order(1000);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<long>(i);
  const auto key = [](long i) {
    return i % 3 == 0 ? static_cast<float>(i) : std::numeric_limits<float>::quiet_NaN();
  };
  limen::sort_by_highest(order, key);
  REQUIRE(order[0] == 999);
  REQUIRE(order[333] == 0);
  REQUIRE(order[334] == 1);
  REQUIRE(order[999] == 998);
}

}  // namespace
