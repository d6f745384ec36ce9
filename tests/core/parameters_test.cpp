#include <limen/core/parameters.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {
struct Inner {
  Tensor<float, 2> a;
  Optional<false, Tensor<float, 3>> left_out;
  Statistic<float, 4> mean;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("a", l.a...);
    f("left_out", l.left_out...);
    f("mean", l.mean...);
  }
};
struct Outer {
  Inner first;
  Tensor<float, 5> b;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("first", l.first...);
    f("b", l.b...);
  }
};
}  // namespace

TEST_CASE("Names follow the nesting, and what is left out is not there", "[core][parameters]") {
  Outer layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "first.a first.mean b ");
  REQUIRE(parameter_count(layer) == 7);  // a statistic is measured, not learned
}

TEST_CASE("Layers of one type are walked hand in hand", "[core][parameters]") {
  Outer sum, part;
  part.b[3] = 2;
  part.first.mean[1] = 4;
  part.first.mean.weight = 8;
  add(sum, part);
  add(sum, part);
  REQUIRE(sum.b[3] == 4);
  REQUIRE(sum.first.mean[1] == 8);
  REQUIRE(sum.first.mean.weight == 16);
  set_zero(sum);
  REQUIRE(sum.b[3] == 0);
  REQUIRE(sum.first.mean.weight == 0);
}
