#include <limen/kernel/top_k.hpp>

#include <limen/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
struct Choice {
  std::vector<std::int32_t> ids;
  bool sound;
};

template <class Real>
Choice<Real> choose(const std::vector<Real>& x, Index k) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(k));
  std::vector<Real> best(static_cast<std::size_t>(k));
  const bool sound = top_k(x.data(), static_cast<Index>(x.size()), k, ids.data(), best.data());
  return {ids, sound};
}

using Ids = std::vector<std::int32_t>;
constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("The best come first, of equal ones the lower index", "[kernel][top_k]") {
  REQUIRE(choose<double>({1, 3, 2, 3}, 2).ids == Ids{1, 3});
  REQUIRE(choose<double>({2, 0, 1, -1}, 2).ids == Ids{0, 2});
  REQUIRE(choose<double>({1, 1, 1, 1}, 2).ids == Ids{0, 1});
  REQUIRE(choose<double>({0.5, 0.9, 0.9, 0.9, 0.1}, 2).ids == Ids{1, 2});
  REQUIRE(choose<double>({-0.0, 0.0}, 2).ids == Ids{0, 1});
  REQUIRE(choose<double>({7}, 1).ids == Ids{0});
}

TEST_CASE("NaN and -inf are never preferred, and said", "[kernel][top_k]") {
  const auto some = choose<double>({not_a_number, 1, -inf, 2}, 2);
  REQUIRE(some.ids == Ids{3, 1});
  REQUIRE(!some.sound);
  REQUIRE(choose<double>({-inf, 1, -inf, 2}, 2).sound);
  REQUIRE(!choose<double>({-inf, 1, -inf, -inf}, 2).sound);
  const auto none = choose<double>({not_a_number, not_a_number, not_a_number}, 2);
  REQUIRE(none.ids == Ids{0, 1});
  REQUIRE(!none.sound);
  REQUIRE(choose<double>({1, inf, 2}, 2).ids == Ids{1, 2});
}

TEMPLATE_TEST_CASE("A choice is a stable sort, cut off", "[kernel][top_k]", float, double) {
  Random random(3);
  for (const std::size_t n : {1u, 2u, 5u, 8u, 33u, 64u, 257u}) {
    for (std::size_t k = 1; k <= n; k += 1 + k / 3) {
      std::vector<TestType> x(n);
      for (auto& v : x) v = static_cast<TestType>(random.below(n));  // many are equal
      Ids sorted(n);
      std::iota(sorted.begin(), sorted.end(), 0);
      std::stable_sort(sorted.begin(), sorted.end(), [&](std::int32_t a, std::int32_t b) {
        return x[static_cast<std::size_t>(a)] > x[static_cast<std::size_t>(b)];
      });
      sorted.resize(k);
      const auto got = choose(x, static_cast<Index>(k));
      REQUIRE(got.ids == sorted);
      REQUIRE(got.sound);
    }
  }
}

TEST_CASE("Groups are as good as their best", "[kernel][top_k]") {
  std::int32_t ids[2];
  double best[2], sums[3];
  std::vector<double> x{5, 0, 3, 3, 4, -inf};
  auto by_one = x, by_two = x;
  keep_top_groups(by_one.data(), 6, 3, 2, 1, ids, best, sums);
  REQUIRE(by_one == std::vector<double>{5, 0, -inf, -inf, 4, -inf});
  keep_top_groups(by_two.data(), 6, 3, 2, 2, ids, best, sums);
  REQUIRE(by_two == std::vector<double>{5, 0, 3, 3, -inf, -inf});
  std::vector<double> equal{1, 1, 1, 1};
  keep_top_groups(equal.data(), 4, 2, 1, 2, ids, best, sums);
  REQUIRE(equal == std::vector<double>{1, 1, -inf, -inf});
}
