#include <limen/core/error.hpp>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("An error says who, wanted and found in one line", "[core][error]") {
  const Error e{"blocks.3.weight", "[2 x 3] float32", "[3 x 2] float16"};
  REQUIRE(e.message() == "blocks.3.weight: wanted [2 x 3] float32, found [3 x 2] float16");
  REQUIRE(Error{"file", "", "no such file"}.message() == "file: no such file");
}

TEST_CASE("A result is a value or an error", "[core][error]") {
  Result<int> good = 3, bad = Error{"x", "1", "2"};
  REQUIRE(good);
  REQUIRE(*good == 3);
  REQUIRE(!bad);
  REQUIRE(bad.error().found == "2");
  REQUIRE_THROWS_AS(std::move(bad).value(), Exception);
}

TEST_CASE("A status is success or an error", "[core][error]") {
  const Status good, bad = Error{"disk", "", "full"};
  REQUIRE(good);
  good.value();
  REQUIRE(!bad);
  REQUIRE_THROWS_WITH(bad.value(), "disk: full");
}
