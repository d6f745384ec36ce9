#include <limen/probe/names.hpp>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("The distance of two names is the letters to change", "[probe][names]") {
  REQUIRE(edit_distance("", "") == 0);
  REQUIRE(edit_distance("kitten", "sitting") == 3);
  REQUIRE(edit_distance("sitting", "kitten") == 3);
  REQUIRE(edit_distance("mixr", "mixer") == 1);
  REQUIRE(edit_distance("", "abc") == 3);
  REQUIRE(edit_distance("flaw", "lawn") == 2);
}

TEST_CASE("A star stands for one part of a name", "[probe][names]") {
  REQUIRE(fits("blocks.*.mixer", "blocks.3.mixer"));
  REQUIRE(fits("*", "blocks"));
  REQUIRE_FALSE(fits("*", "blocks.3"));
  REQUIRE_FALSE(fits("blocks.*", "blocks"));
  REQUIRE_FALSE(fits("blocks.*.mixer", "blocks.3.mixer.out"));
  REQUIRE_FALSE(fits("blocks.*.mixer", "blocks.3.1.mixer"));
  REQUIRE_FALSE(fits("mixer", "mixers"));
}

TEST_CASE("Close names come nearest first, and far ones not at all", "[probe][names]") {
  const std::vector<std::string> names{"blocks.0.mixer", "blocks.1.mixer", "embed", "embed"};
  REQUIRE(closest("blocks.1.mixr", names) ==
          std::vector<std::string>{"blocks.1.mixer", "blocks.0.mixer"});
  REQUIRE(closest("embad", names) == std::vector<std::string>{"embed"});
  REQUIRE(closest("xyz", names).empty());
  REQUIRE(closest("blocks.1.mixr", names, 1).size() == 1);
}

TEST_CASE("A name that there is not is told with close ones", "[probe][names]") {
  const std::vector<std::string> names{"blocks.0.mixer", "blocks.1.mixer", "embed"};
  REQUIRE(no_such_tap("blocks.1.mixr", names).message() ==
          "tap blocks.1.mixr: wanted blocks.1.mixer or blocks.0.mixer, found no tap of that name");
  REQUIRE(no_such_tap("attention", names).message() ==
          "tap attention: wanted one like blocks.0.mixer, found no tap of that name");
  REQUIRE(no_such_tap("embed", {}).message() ==
          "tap embed: wanted a model with taps, found no tap of that name");
}
