#include <limen/core/simd.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

TEMPLATE_TEST_CASE("Every length and alignment gives what the plain loop gives", "[core][simd]",
                   float, double) {
  const auto f = [](auto v) { return simd::fma(v, v, decltype(v)(1)); };
  std::vector<TestType> in(100);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<TestType>(i) / 8 - 5;
  for (Index start = 0; start < 5; ++start) {
    for (Index count = 0; count < 70; ++count) {
      std::vector<TestType> out(100, TestType(-7));
      simd::transform(in.data() + start, out.data() + start, count, f);
      for (Index i = 0; i < 100; ++i) {
        const TestType x = in[static_cast<std::size_t>(i)];
        const bool inside = i >= start && i < start + count;
        const TestType expected = inside ? x * x + 1 : TestType(-7);  // exact at these values
        REQUIRE(out[static_cast<std::size_t>(i)] == expected);
      }
    }
  }
}

TEMPLATE_TEST_CASE("max and min take the second where either is NaN", "[core][simd]", float,
                   double) {
  using V = simd::Vec<TestType>;
  const TestType nan = std::numeric_limits<TestType>::quiet_NaN();
  const auto first = [](const V& v) {
    TestType lanes[V::size];
    simd::store(lanes, v);
    return lanes[0];
  };
  REQUIRE(first(simd::max(V(1), V(2))) == 2);
  REQUIRE(first(simd::max(V(2), V(1))) == 2);
  REQUIRE(first(simd::min(V(1), V(2))) == 1);
  REQUIRE(first(simd::min(V(2), V(1))) == 1);
  REQUIRE(first(simd::max(V(nan), V(1))) == 1);
  REQUIRE(first(simd::min(V(nan), V(1))) == 1);
  REQUIRE(std::isnan(first(simd::max(V(1), V(nan)))));
  REQUIRE(std::isnan(first(simd::min(V(1), V(nan)))));
}

TEMPLATE_TEST_CASE("Reductions see every lane", "[core][simd]", float, double) {
  using V = simd::Vec<TestType>;
  TestType values[64] = {};
  for (std::size_t i = 0; i < 64; ++i) values[i] = static_cast<TestType>(i * i % 37);
  const V v = simd::load<V>(values);
  TestType sum = 0, largest = values[0];
  for (std::size_t i = 0; i < V::size; ++i) {
    sum += values[i];
    largest = std::max(largest, values[i]);
  }
  REQUIRE(simd::reduce_add(v) == sum);
  REQUIRE(simd::reduce_max(v) == largest);
}

TEMPLATE_TEST_CASE("Bits go to integers and back", "[core][simd]", float, double) {
  using V = simd::Vec<TestType>;
  TestType out[64];
  const V v(TestType(-1.5));
  simd::store(out, simd::as_real<V>(simd::as_int(v)));
  for (std::size_t i = 0; i < V::size; ++i) REQUIRE(out[i] == TestType(-1.5));
}

TEMPLATE_TEST_CASE("fnma is c - a b, select picks by lane", "[core][simd]", float, double) {
  using V = simd::Vec<TestType>;
  TestType out[64];
  simd::store(out, simd::fnma(V(2), V(3), V(10)));
  REQUIRE(out[0] == 4);
  simd::store(out, simd::select(V(1) < V(2), V(5), V(6)));
  REQUIRE(out[V::size - 1] == 5);
}
