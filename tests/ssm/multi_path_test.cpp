#include <limen/ssm/multi_path.hpp>

#include <limen/ssm/mamba.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/ssm_gam.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

constexpr MambaConfig small{.d_model = 3, .d_state = 2};
template <MultiPathConfig C, class S = float>
using Image = MultiPath<C, Mamba<small, S>>;

}  // namespace

TEMPLATE_TEST_CASE_SIG("MultiPath keeps the laws of layers that see everything",
                       "[ssm][multi_path][laws]", ((MultiPathConfig C), C), (MultiPathConfig{}),
                       (MultiPathConfig{.shuffled = false}), (MultiPathConfig{.gate = false})) {
  laws::hold_in_double_and_float<Image<C>>({.causal = false});
}

TEST_CASE("MultiPath keeps the laws when it draws its order", "[ssm][multi_path][laws]") {
  Random random(1);
  laws::hold(Image<MultiPathConfig{}, double>::initialized(random),
             {.random = true, .causal = false});
}

TEST_CASE("The last row of a MultiPath changes the first", "[ssm][multi_path]") {
  Random random(1);
  const auto layer = Image<MultiPathConfig{.shuffled = false}>::initialized(random);
  Sequence<float, 3> x{{1, 2, 3}, {3, 1, 2}, {2, 3, 1}};
  const auto before = forward(layer, x);
  x(2, 0) = -1;
  REQUIRE(forward(layer, x)(0, 0) != before(0, 0));
}

TEST_CASE("Paths through a filter that only doubles agree with each other", "[ssm][multi_path]") {
  constexpr DepthwiseConvConfig c{.d = 2, .width = 2, .bias = false};
  MultiPath<MultiPathConfig{.eps = 1e-30}, DepthwiseConv<c, double>> layer;
  fill(layer.norm.weight, 1);
  layer.mixer.weight[1] = layer.mixer.weight[3] = 2;                   // the current row, times two
  const auto y = forward(layer, Sequence<double, 2>{{1, 3}, {4, 0}});  // normed: -1 1, 1 -1
  REQUIRE(y(0, 0) == Approx(1 - 2));
  REQUIRE(y(0, 1) == Approx(3 + 2));
  REQUIRE(y(1, 0) == Approx(4 + 2));
  REQUIRE(y(1, 1) == Approx(0 - 2));
}

// The numbers: tests/goldens/ssm_diagonal.py, gam(): forwards and backwards through a causal
// filter.
TEST_CASE("MultiPath computes what PyTorch does", "[ssm][multi_path][golden]") {
  namespace g = goldens::ssm::paths;
  constexpr DepthwiseConvConfig c{.d = 5, .width = 3, .activation = Activation::silu};
  golden::check_in_double_and_float<
      MultiPath<MultiPathConfig{.shuffled = false}, DepthwiseConv<c>>>(
      {g::x, g::y, g::dy, g::dx},
      {{g::norm_weight, g::d_norm_weight},
       {g::norm_bias, g::d_norm_bias},
       {g::mixer_weight, g::d_mixer_weight},
       {g::mixer_bias, g::d_mixer_bias},
       {g::gate, g::d_gate}},
      1e-4);
}

TEST_CASE("MultiPath trains and prepares, but has no step", "[ssm][multi_path]") {
  using Layer = Image<MultiPathConfig{}>;
  STATIC_REQUIRE(Trainable<Layer>);
  STATIC_REQUIRE_FALSE(Streaming<Layer>);
  STATIC_REQUIRE(Runs<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
}
