#include <limen/core/batch.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {
struct Two {
  double a = 0;
  float b = 0;
};
}  // namespace

TEST_CASE("One state is a batch of one that covers all rows", "[core][batch]") {
  Two state;
  const Batch<Two> batch = state;
  REQUIRE(batch.count() == 1);
  REQUIRE(batch.begin(0) == 0);
  REQUIRE(batch.end(0, 9) == 9);
  REQUIRE(batch.fits(9));
  batch[0].a = 3;
  REQUIRE(state.a == 3);
}

TEST_CASE("A batch knows its sequences and their states", "[core][batch]") {
  std::vector<Two> states(3);
  const std::vector<Index> offsets{0, 2, 2, 5};
  const Batch<Two> batch(states, offsets);
  REQUIRE(batch.count() == 3);
  REQUIRE(batch.begin(2) == 2);
  REQUIRE(batch.end(2, 5) == 5);
  REQUIRE(batch.fits(5));
  const auto part = batch.part([](Two& s) -> float& { return s.b; });
  part[2] = 4;
  REQUIRE(states[2].b == 4);
  REQUIRE(part.count() == 3);
  REQUIRE(part.end(0, 5) == 2);
}

TEST_CASE("A batch from rest carries no states, nor do its parts", "[core][batch]") {
  const std::vector<Index> offsets{0, 1};
  const Batch<Two> batch = from_rest(offsets);
  REQUIRE(!batch.carries());
  REQUIRE(!batch.part([](Two& s) -> double& { return s.a; }).carries());
}

TEST_CASE("Offsets that do not fit are an error that says wanted and found", "[core][batch]") {
  std::vector<Two> states(2);
  const std::vector<Index> descending{0, 3, 2}, late{1, 2, 3}, good{0, 2, 3}, many{0, 1, 2, 3};
  REQUIRE_THROWS_WITH(Batch<Two>(states, descending),
                      "offsets of the batch: wanted ascending numbers from 0, found 2 after 3 at "
                      "position 2");
  REQUIRE_THROWS_AS(Batch<Two>(states, late), Exception);
  REQUIRE_THROWS_WITH(Batch<Two>(states, many), "states of the batch: wanted 3, found 2");
  REQUIRE_THROWS_WITH(Batch<Two>(states, good).fits(4),
                      "rows of the batch: wanted 3 as the offsets end, found 4");
  REQUIRE_THROWS_AS(Batch<Two>(std::span<const Index>{}), Exception);
}
