#include <limen/kernel/dispatch.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <cstring>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

std::vector<Index> list(const Index* from, Index count) { return {from, from + count}; }
using Rows = std::vector<Index>;

/// T rows, K slots, E experts, of which the last takes nothing; some slots are not used.
std::vector<std::int32_t> random_ids(Index rows, Index slots, Index experts, Random& random) {
  std::vector<std::int32_t> ids;
  for (Index i = 0; i < rows * slots; ++i) {
    const auto e = random.below(static_cast<std::uint64_t>(experts));
    ids.push_back(static_cast<std::int32_t>(e) == experts - 1 ? -1 : static_cast<std::int32_t>(e));
  }
  return ids;
}

}  // namespace

TEST_CASE("Rows are sorted by expert and stay in order", "[kernel][dispatch]") {
  const std::int32_t ids[] = {2, 0, 0, 1, 2, 1};
  const Dispatch plan(ids, 3, 2, 4);
  REQUIRE(plan.fault() == -1);
  REQUIRE(plan.places() == 6);
  REQUIRE(list(plan.rows_of(0), plan.count(0)) == Rows{0, 1});
  REQUIRE(list(plan.rows_of(1), plan.count(1)) == Rows{1, 2});
  REQUIRE(list(plan.rows_of(2), plan.count(2)) == Rows{0, 2});
  REQUIRE(plan.count(3) == 0);
  REQUIRE(list(plan.places_of(0), plan.count_of(0)) == Rows{0, 4});
  REQUIRE(list(plan.places_of(1), plan.count_of(1)) == Rows{1, 2});
  REQUIRE(list(plan.places_of(2), plan.count_of(2)) == Rows{3, 5});
  REQUIRE(list(plan.slots_of_places(), 6) == Rows{1, 2, 3, 5, 0, 4});
}

TEST_CASE("An expert knows where each sequence starts among its rows", "[kernel][dispatch]") {
  const std::int32_t ids[] = {0, 1, 1, -1, 1, 0};
  const Index offsets[] = {0, 2, 2, 6};
  const Dispatch plan(ids, 6, 1, 2, offsets, 3);
  REQUIRE(list(plan.offsets(0), 4) == Rows{0, 1, 1, 2});
  REQUIRE(list(plan.offsets(1), 4) == Rows{0, 1, 1, 3});
  REQUIRE(plan.count_of(3) == 0);
}

TEST_CASE("An expert that there is not is found", "[kernel][dispatch]") {
  const std::int32_t high[] = {0, 1, 2, 0}, low[] = {0, -2};
  REQUIRE(Dispatch(high, 2, 2, 2).fault() == 2);
  REQUIRE(Dispatch(low, 1, 2, 2).fault() == 1);
  REQUIRE(Dispatch(high, 0, 2, 2).places() == 0);
}

TEST_CASE("An expert with every row is known", "[kernel][dispatch]") {
  const std::int32_t all[] = {0, 1, 1, 0}, twice[] = {0, 0, 1, -1};
  REQUIRE(Dispatch(all, 2, 2, 2).takes_all(0));
  REQUIRE(!Dispatch(twice, 2, 2, 2).takes_all(0));
}

TEMPLATE_TEST_CASE("Rows there and back are a plain loop, with the same bits on two threads",
                   "[kernel][dispatch]", float, double) {
  using Real = TestType;
  Random random(5);
  const double tolerance = sizeof(Real) == 8 ? 1e-14 : 2e-6;
  for (const Index d : {1, 3, 16, 17, 40}) {
    const Index rows = 50, slots = 3, experts = 7;
    const auto ids = random_ids(rows, slots, experts, random);
    const Dispatch plan(ids.data(), rows, slots, experts);
    REQUIRE(plan.count(experts - 1) == 0);
    const auto noise = [&](Index n) {
      std::vector<Real> x(static_cast<std::size_t>(n));
      for (Real& v : x) v = static_cast<Real>(random.normal());
      return x;
    };
    const auto o = noise(plan.places() * d), w = noise(rows * slots), dy = noise(rows * d);
    std::vector<const Real*> from;
    for (Index p = 0; p < plan.places(); ++p) from.push_back(o.data() + p * d);
    const auto view = [&](const std::vector<Real>& x, Index cols) {
      return MatrixView<const Real>{x.data(), static_cast<Index>(x.size()) / cols, cols, cols};
    };

    std::vector<double> y(static_cast<std::size_t>(rows * d)), dots(w.size());
    for (Index e = 0; e < experts; ++e) {
      for (Index i = 0; i < plan.count(e); ++i) {
        const Index p = plan.begin(e) + i, t = plan.rows_of(e)[i], s = plan.slots_of_places()[p];
        REQUIRE(s / slots == t);
        REQUIRE(ids[static_cast<std::size_t>(s)] == e);
        for (Index c = 0; c < d; ++c) {
          const double value = o[static_cast<std::size_t>(p * d + c)];
          y[static_cast<std::size_t>(t * d + c)] += w[static_cast<std::size_t>(s)] * value;
          dots[static_cast<std::size_t>(s)] += dy[static_cast<std::size_t>(t * d + c)] * value;
        }
      }
    }
    std::vector<Real> got(y.size()), again(y.size(), Real(9)), got_dots(w.size(), Real(9));
    combine(plan, from.data(), w.data(), MatrixView<Real>{got.data(), rows, d, d});
    {
      const Threads two(2);
      combine(plan, from.data(), w.data(), MatrixView<Real>{again.data(), rows, d, d});
    }
    REQUIRE(std::memcmp(got.data(), again.data(), got.size() * sizeof(Real)) == 0);
    pairwise_dots(plan, from.data(), view(dy, d),
                  MatrixView<Real>{got_dots.data(), rows, slots, slots});
    for (std::size_t i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(static_cast<double>(got[i]) - y[i]) <= tolerance * (1 + std::abs(y[i])));
    }
    for (std::size_t i = 0; i < dots.size(); ++i) {
      REQUIRE(std::abs(static_cast<double>(got_dots[i]) - dots[i]) <=
              10 * tolerance * (1 + std::abs(dots[i])));
    }
    for (Index e = 0; e < experts; ++e) {
      std::vector<Real> mine(static_cast<std::size_t>(plan.count(e) * d));
      gather_weighted(plan, e, view(dy, d), w.data(),
                      MatrixView<Real>{mine.data(), plan.count(e), d, d});
      for (Index i = 0; i < plan.count(e); ++i) {
        const auto s = static_cast<std::size_t>(plan.slots_of_places()[plan.begin(e) + i]);
        for (Index c = 0; c < d; ++c) {
          REQUIRE(mine[static_cast<std::size_t>(i * d + c)] ==
                  w[s] * dy[static_cast<std::size_t>(plan.rows_of(e)[i] * d + c)]);
        }
      }
    }
    combine(plan, from.data(), w.data(), MatrixView<Real>{got.data(), rows, d, d}, true);
    for (std::size_t i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(static_cast<double>(got[i]) - 2 * y[i]) <=
              4 * tolerance * (1 + std::abs(y[i])));
    }
  }
}
