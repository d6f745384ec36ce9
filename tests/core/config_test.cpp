#include <limen/core/config.hpp>

#include <string>

#include "../catch.hpp"

TEST_CASE("The version is one number, in macros and in text", "[core][config]") {
  const std::string text = std::to_string(LIMEN_VERSION_MAJOR) + '.' +
                           std::to_string(LIMEN_VERSION_MINOR) + '.' +
                           std::to_string(LIMEN_VERSION_PATCH);
  REQUIRE(text == limen::version);
}

TEST_CASE("The instruction set has a name", "[core][config]") {
  REQUIRE(!std::string(limen::isa).empty());
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(LIMEN_SCALAR)
  REQUIRE(std::string(limen::isa).substr(0, 4) == "avx2");
#endif
}
