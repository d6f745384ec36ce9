#include <limen/core/memory.hpp>

#include <thread>
#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("Size classes hold what is asked and waste a quarter at most", "[core][memory]") {
  for (std::size_t bytes = 1; bytes < (std::size_t{1} << 34); bytes += bytes / 9 + 1) {
    const auto c = limen::detail::size_class(bytes);
    REQUIRE(c.bytes >= bytes);
    REQUIRE(c.index < limen::detail::Pool::classes);
    REQUIRE(limen::detail::size_class(c.bytes).index == c.index);
    if (bytes > 256) REQUIRE(c.bytes <= bytes + bytes / 4 + 64);
  }
}

TEST_CASE("A buffer comes back to whoever asks next", "[core][memory]") {
  {
    Buffer<float> warm(1000);
  }
  const std::size_t before = pool_allocations();
  for (int i = 0; i < 10; ++i) {
    Buffer<float> a(1000);
    a[999] = 1;
    Buffer<float> b = std::move(a);
    REQUIRE(b[999] == 1);
    REQUIRE(a.data() == nullptr);  // NOLINT: a moved-from buffer is empty
  }
  REQUIRE(pool_allocations() == before);
}

TEST_CASE("Buffers are aligned and may be empty", "[core][memory]") {
  std::vector<Buffer<double>> many;
  for (Index n = 0; n < 200; n += 7) {
    many.emplace_back(n);
    REQUIRE(reinterpret_cast<std::uintptr_t>(many.back().data()) % alignment == 0);
  }
}

TEST_CASE("Large buffers lie in large pages, and come back like others", "[core][memory]") {
  const auto address = [](const auto& b) { return reinterpret_cast<std::uintptr_t>(b.data()); };
  constexpr Index n = Index{limen::detail::large_page};
  for (const Index size : {n, n + 1, 3 * n / 2, 5 * n}) {
    REQUIRE(address(Buffer<char>(size)) % limen::detail::large_page == 0);
    const std::size_t before = pool_allocations();
    Buffer<char> again(size);
    REQUIRE(pool_allocations() == before);
    again[0] = again[size - 1] = 1;
    std::thread([b = std::move(again)]() mutable { b[0] = 2; }).join();  // freed as its thread ends
  }
  release_pool();
}

TEST_CASE("A buffer may die in another thread", "[core][memory]") {
  Buffer<float> a(5000);
  a[0] = 3;
  std::thread([b = std::move(a)]() mutable { b[0] = 4; }).join();
  release_pool();
}

namespace {
Buffer<float> lives_longer_than_the_pool(300);
}

TEST_CASE("A buffer may outlive the thread's pool", "[core][memory]") {
  lives_longer_than_the_pool = Buffer<float>(400);  // freed after main has ended
  REQUIRE(lives_longer_than_the_pool.size() == 400);
}
