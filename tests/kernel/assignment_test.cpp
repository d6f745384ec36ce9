#include <limen/kernel/assignment.hpp>

#include <limen/core/random.hpp>

#include <algorithm>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

struct Found {
  double total;
  std::vector<Index> expert;
};

Found solve(const std::vector<double>& a, Index experts) {
  const Index rows = static_cast<Index>(a.size()) / experts;
  const BalancedAssignment best({a.data(), rows, experts, experts});
  Found found{0, {}};
  for (Index t = 0; t < rows; ++t) {
    found.expert.push_back(best.expert(t));
    found.total += a[static_cast<std::size_t>(t * experts + best.expert(t))];
  }
  return found;
}

/// Every order of (0, 0, .., 1, 1, ..), lowest first; the first of the best stays.
Found try_all(const std::vector<double>& a, Index experts) {
  const Index rows = static_cast<Index>(a.size()) / experts;
  std::vector<Index> e;
  for (Index t = 0; t < rows; ++t) e.push_back(t * experts / rows);
  Found best{-1e300, {}};
  do {
    double total = 0;
    for (Index t = 0; t < rows; ++t) {
      total += a[static_cast<std::size_t>(t * experts + e[static_cast<std::size_t>(t)])];
    }
    if (total > best.total + 1e-9) best = {total, e};
  } while (std::next_permutation(e.begin(), e.end()));
  return best;
}

}  // namespace

TEST_CASE("A balanced assignment is the best of all, and of equals the first",
          "[kernel][assignment]") {
  Random random(5);
  for (const auto& [rows, experts] : {std::pair<Index, Index>{2, 2},
                                      {3, 3},
                                      {4, 2},
                                      {6, 3},
                                      {8, 2},
                                      {6, 6},
                                      {8, 4},
                                      {9, 3},
                                      {5, 1}}) {
    for (int draw = 0; draw < 30; ++draw) {
      std::vector<double> a;
      const bool whole = draw % 2 == 1;  // many ties
      for (Index i = 0; i < rows * experts; ++i) {
        a.push_back(whole ? static_cast<double>(random.below(3)) : random.normal());
      }
      const Found found = solve(a, experts), best = try_all(a, experts);
      REQUIRE(found.total == Approx(best.total).margin(1e-9));
      REQUIRE(found.expert == best.expert);
    }
  }
}

TEST_CASE("Rows that are all alike go to experts in order", "[kernel][assignment]") {
  const std::vector<double> a(36, 0.7);
  REQUIRE(solve(a, 3).expert == std::vector<Index>{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2});
  REQUIRE(solve({}, 3).expert.empty());
}

TEST_CASE("A large assignment can not be improved by an exchange", "[kernel][assignment]") {
  Random random(6);
  const Index rows = 512, experts = 64;
  std::vector<double> a;
  for (Index i = 0; i < rows * experts; ++i) a.push_back(random.normal());
  const Found found = solve(a, experts);
  const auto of = [&](Index t, Index e) { return a[static_cast<std::size_t>(t * experts + e)]; };
  std::vector<int> load(static_cast<std::size_t>(experts));
  for (const Index e : found.expert) ++load[static_cast<std::size_t>(e)];
  for (const int l : load) REQUIRE(l == rows / experts);
  double most = 0;
  for (Index t = 0; t < rows; ++t) {
    for (Index u = 0; u < t; ++u) {
      const Index e = found.expert[static_cast<std::size_t>(t)],
                  f = found.expert[static_cast<std::size_t>(u)];
      most = std::max(most, of(t, f) + of(u, e) - of(t, e) - of(u, f));
    }
  }
  REQUIRE(most <= 1e-9);
}
