#include <limen/core/denormals.hpp>

#include <limits>

#include "../catch.hpp"

using namespace limen;

#if defined(__SSE2__) || defined(__aarch64__)
TEST_CASE("A guard flushes denormals and gives the caller's mode back", "[core][denormals]") {
  volatile float tiny = std::numeric_limits<float>::min();
  volatile float half = 0.5f;
  REQUIRE(!FlushDenormals::active());
  REQUIRE(tiny * half > 0);
  {
    const FlushDenormals guard;
    REQUIRE(FlushDenormals::active());
    REQUIRE(tiny * half == 0);
    {
      const FlushDenormals inner;
      REQUIRE(FlushDenormals::active());
    }
    REQUIRE(FlushDenormals::active());
  }
  REQUIRE(!FlushDenormals::active());
  REQUIRE(tiny * half > 0);
}
#endif
