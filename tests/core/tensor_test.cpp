#include <limen/core/tensor.hpp>

#include <cstdint>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("A tensor starts at zero, aligned, with its shape in the type", "[core][tensor]") {
  Tensor<float, 3, 5, 2> t;
  STATIC_REQUIRE(t.size == 30);
  STATIC_REQUIRE(t.shape == std::array<Index, 3>{3, 5, 2});
  for (const float x : t.flat()) REQUIRE(x == 0);
  REQUIRE(reinterpret_cast<std::uintptr_t>(t.data()) % alignment == 0);
  REQUIRE(t.matrix().rows == 3);
  REQUIRE(t.matrix().cols == 10);
  t(1, 2) = 7;
  REQUIRE(t[12] == 7);
}

TEST_CASE("Copying a tensor copies the numbers, nothing is shared", "[core][tensor]") {
  Tensor<double, 4> a;
  a[2] = 5;
  Tensor<double, 4> b = a;
  REQUIRE(a == b);
  b[2] = 6;
  REQUIRE(a[2] == 5);
  a = b;
  REQUIRE(a[2] == 6);
}

TEST_CASE("A tensor that was moved from is still whole", "[core][tensor]") {
  Tensor<double, 4> a;
  a[0] = 1;
  Tensor<double, 4> b = std::move(a);
  REQUIRE(b[0] == 1);
  a[3] = 2;  // NOLINT: this is the point
  REQUIRE(a[3] == 2);
  a = std::move(b);
  REQUIRE(a[0] == 1);
}

TEST_CASE("What a state is made of is plain bytes, zero at rest", "[core][tensor]") {
  using Part = Fixed<float, 3, 4>;
  STATIC_REQUIRE(std::is_trivially_copyable_v<Part>);
  Part p;
  for (const float x : p.values) REQUIRE(x == 0);
  STATIC_REQUIRE(alignof(Fixed<float, 16>) == 64);
  STATIC_REQUIRE(sizeof(Fixed<float, 3>) == 12);
}

TEST_CASE("A member that a config leaves out is none", "[core][tensor]") {
  STATIC_REQUIRE(is_absent<Optional<false, Tensor<float, 2>>>);
  STATIC_REQUIRE(is_tensor<Optional<true, Tensor<float, 2>>>);
  STATIC_REQUIRE(is_statistic<Statistic<float, 2>>);
  STATIC_REQUIRE(!is_statistic<Tensor<float, 2>>);
}
