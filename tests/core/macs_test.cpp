#include <limen/core/macs.hpp>

#include <limen/compose/gated.hpp>
#include <limen/compose/parallel.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/compose/tap.hpp>
#include <limen/nn/causal_conv.hpp>
#include <limen/nn/conv.hpp>
#include <limen/nn/gated_linear.hpp>

#include "../catch.hpp"
#include "../compose/layers.hpp"

using namespace limen;
using namespace parts;

TEST_CASE("The products of a layer are counted per row", "[core][macs]") {
  STATIC_REQUIRE(macs<Map<3, 5>>(1) == 15);
  STATIC_REQUIRE(macs<Map<3, 5>>(7) == 105);
  STATIC_REQUIRE(macs<Filter<4>>(2) == 2 * 4 * 3);
  STATIC_REQUIRE(macs<GatedLinear<GatedLinearConfig{.d_model = 4, .d_hidden = 5}>>(1) == 60);
  STATIC_REQUIRE(macs<CausalConv1d<CausalConv1dConfig{.d_in = 2, .d_out = 3, .width = 4}>>(10) ==
                 240);
  // 5 x 5 positions of 3 x 3 x 2 numbers for each of 4 channels
  STATIC_REQUIRE(
      macs<Conv2d<Conv2dConfig{.image = {5, 5}, .d_in = 2, .d_out = 4, .padding = {1, 1}}>>(1) ==
      25 * 18 * 4);
  STATIC_REQUIRE(macs<Bend<9>>(3) == 0);
  STATIC_REQUIRE(macs<prepared_form<Map<3, 5>>>(1) == 15);
}

TEST_CASE("A combinator is the sum of its parts", "[core][macs]") {
  STATIC_REQUIRE(macs<Sequential<Map<2, 3>, Bend<3>, Map<3, 4>>>(1) == 18);
  STATIC_REQUIRE(macs<Residual<Map<3, 3>>>(2) == 18);
  STATIC_REQUIRE(macs<Repeat<5, Map<3, 3>>>(1) == 45);
  STATIC_REQUIRE(macs<Parallel<Join::sum, Map<2, 3>, Map<2, 3>>>(1) == 12);
  STATIC_REQUIRE(macs<Gated<Map<2, 3>, Map<2, 3>>>(1) == 12);
  STATIC_REQUIRE(macs<Tap<"x", Map<2, 3>>>(1) == 6);
}
