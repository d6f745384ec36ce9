#include <limen/core/parallel.hpp>

#include <cstdlib>
#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("Every index is visited once, whatever the threads", "[core][parallel]") {
  for (const int threads : {1, 2, 3}) {
    const Threads allowed(threads);
    std::vector<int> visits(101, 0);
    parallel_for(101, 1e9, [&](Index i) { ++visits[static_cast<std::size_t>(i)]; });
    for (const int v : visits) REQUIRE(v == 1);
  }
}

TEST_CASE("The number of threads is that of the scope", "[core][parallel]") {
  REQUIRE(Threads::allowed() == 1);
  {
    const Threads two(2);
    REQUIRE(Threads::allowed() == 2);
    const Threads none(0);
    REQUIRE(Threads::allowed() == 1);
  }
  REQUIRE(Threads::allowed() == 1);
}

TEST_CASE("Helpers flush denormals as the caller would", "[core][parallel]") {
  const FlushDenormals guard;
  const Threads two(2);
  std::vector<char> flushed(8, 0);
  parallel_for(8, 1e9, [&](Index i) {
    flushed[static_cast<std::size_t>(i)] = FlushDenormals::active() ? 1 : 0;
  });
#if defined(__SSE2__) || defined(__aarch64__)
  for (const char f : flushed) REQUIRE(f == 1);
#endif
}

TEST_CASE("Taken from both ends, growing tasks come to as much in either half",
          "[core][parallel]") {
  for (const Index count : {1, 2, 3, 7, 22, 64}) {
    std::vector<int> visits(static_cast<std::size_t>(count), 0);
    Index first = 0, second = 0;
    for (Index i = 0; i < count; ++i) {
      const Index task = from_both_ends(i, count);
      REQUIRE((task >= 0 && task < count));
      ++visits[static_cast<std::size_t>(task)];
      (2 * i < count ? first : second) += task;
    }
    for (const int v : visits) REQUIRE(v == 1);
    REQUIRE(std::abs(first - second) <= count);
  }
}
