#include <limen/train/sequences.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

std::vector<int> list(const Buffer<int>& b) { return {b.begin(), b.end()}; }

}  // namespace

TEST_CASE("Sequences keep ragged rows back to back", "[train][sequences]") {
  Sequences<float, 2> data;
  REQUIRE(data.size() == 0);
  data.add(Sequence<float, 2>{{1, 2}, {3, 4}});
  data.add(Sequence<float, 2>());
  data.add(Sequence<float, 2>{{5, 6}});
  REQUIRE(data.size() == 3);
  REQUIRE(data.rows() == 3);
  REQUIRE(data[0](1, 0) == 3);
  REQUIRE(data[1].rows() == 0);
  REQUIRE(data[2](0, 1) == 6);
  const std::vector<Index> offsets(data.offsets().begin(), data.offsets().end());
  REQUIRE(offsets == std::vector<Index>{0, 2, 2, 3});
}

TEST_CASE("Rows are cut into sequences of one length", "[train][sequences]") {
  const Sequence<float, 1> rows{{0}, {1}, {2}, {3}, {4}};
  const Sequences<float, 1> data(rows, 2);
  REQUIRE(data.size() == 2);
  REQUIRE(data[1](0, 0) == 2);
#if LIMEN_EXCEPTIONS
  using Rows = Sequences<float, 1>;
  REQUIRE_THROWS_AS(Rows(rows, 0), Exception);
#endif
}

TEST_CASE("A shard finds the targets of its rows", "[train][sequences]") {
  const std::vector<Index> items{2, 0, 1}, offsets{0, 2, 2, 3};  // the second has no rows here
  const Shard shard{items, offsets, 1};
  const std::vector<int> labels{7, 8, 9};
  REQUIRE(shard.rows() == 3);
  REQUIRE(list(shard.at_last_row(labels)) == std::vector<int>{-1, 9, 8});
  REQUIRE(list(shard.at_every_row(labels)) == std::vector<int>{9, 9, 8});
  // Rows 1, 2 of sequence 2 and row 1 of sequence 1, of data with 1, 2 and 3 rows.
  const std::vector<Index> of_data{0, 1, 3, 6};
  const std::vector<int> each{10, 11, 12, 13, 14, 15};
  REQUIRE(list(shard.of_rows(each, of_data)) == std::vector<int>{14, 15, 12});
  Sequences<float, 1> targets;
  targets.add(Sequence<float, 1>{{10}});
  targets.add(Sequence<float, 1>{{11}, {12}});
  targets.add(Sequence<float, 1>{{13}, {14}, {15}});
  const auto rows = shard.of_rows(targets);
  REQUIRE(rows.rows() == 3);
  REQUIRE(rows(0, 0) == 14);
  REQUIRE(rows(2, 0) == 12);
#if LIMEN_EXCEPTIONS
  REQUIRE_THROWS_AS(shard.at_last_row(std::vector<int>{7, 8}), Exception);
  REQUIRE_THROWS_AS(shard.at_every_row(std::vector<int>{7, 8}), Exception);
  REQUIRE_THROWS_AS(shard.of_rows(std::vector<int>{10, 11, 12, 13, 14}, of_data), Exception);
  REQUIRE_THROWS_AS(shard.of_rows(each, std::vector<Index>{0, 1}), Exception);
  REQUIRE_THROWS_AS((Shard{items, offsets, 2}.of_rows(targets)), Exception);
#endif
}
