#include <limen/core/sequence.hpp>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("A sequence is a value", "[core][sequence]") {
  Sequence<float, 2> x{{1, 2}, {3, 4}, {5, 6}};
  REQUIRE(x.rows() == 3);
  REQUIRE(x(1, 1) == 4);
  Sequence<float, 2> y = x;
  y(1, 1) = 0;
  REQUIRE(x(1, 1) == 4);
  const Sequence<float, 2> z = std::move(y);
  REQUIRE(z(2, 0) == 5);
  REQUIRE(y.rows() == 0);  // NOLINT: a moved-from sequence is empty
  x = z;
  REQUIRE(x(1, 1) == 0);
}

TEST_CASE("A view looks at rows without copying them", "[core][sequence]") {
  Sequence<float, 2> x{{1, 2}, {3, 4}, {5, 6}};
  const auto tail = middle_rows(x, 1, 2);
  REQUIRE(tail.rows() == 2);
  REQUIRE(tail(0, 0) == 3);
  x(1, 0) = 9;
  REQUIRE(tail(0, 0) == 9);
  REQUIRE(tail.row(1)[1] == 6);
}

TEST_CASE("A view may be wider apart than it is wide", "[core][sequence]") {
  const float numbers[] = {1, 2, 0, 3, 4, 0};
  const SequenceView<float, 2> v(numbers, 2, 3);
  REQUIRE(v(1, 0) == 3);
  const auto copy = v.copy();
  REQUIRE(copy(1, 1) == 4);
  REQUIRE(copy.data()[2] == 3);
}

TEST_CASE("No rows are a legal sequence", "[core][sequence]") {
  const Sequence<double, 3> none(0);
  const Sequence<double, 3> copy = none;
  REQUIRE(copy.rows() == 0);
  REQUIRE(Sequence<double, 3>::zeros(0).rows() == 0);
  REQUIRE(Sequence<double, 3>::zeros(2)(1, 2) == 0);
}

TEST_CASE("One step is a vector on the stack", "[core][sequence]") {
  const Vector<double, 3> v{1, 2, 3};
  const VectorView<double, 3> look = v;
  REQUIRE(look[2] == 3);
  STATIC_REQUIRE(std::is_trivially_copyable_v<Vector<float, 7>>);
  STATIC_REQUIRE(alignof(Vector<float, 16>) == 64);
}
