#include <limen/ssm/multi_path.hpp>

#include <limen/ssm/mamba.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/ssm_multi_path.hpp"
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

// The numbers: tests/goldens/ssm_diagonal.py, multi_path(): through a causal filter, and through
// the Mamba of transformers.
TEST_CASE("MultiPath computes what PyTorch does", "[ssm][multi_path][golden]") {
  {
    namespace g = goldens::ssm::paths_0;
    constexpr DepthwiseConvConfig c{.d = 5, .width = 3, .activation = Activation::silu};
    using Layer = MultiPath<MultiPathConfig{.shuffled = false}, DepthwiseConv<c>>;
    golden::check_in_double_and_float<Layer>({g::x, g::y, g::dy, g::dx},
                                             {{g::norm_weight, g::d_norm_weight},
                                              {g::norm_bias, g::d_norm_bias},
                                              {g::mixer_weight, g::d_mixer_weight},
                                              {g::mixer_bias, g::d_mixer_bias},
                                              {g::gate, g::d_gate}});
  }
#define LIMEN_PARAMETERS(g)                                                             \
  {g::norm_weight, g::d_norm_weight}, {g::norm_bias, g::d_norm_bias},                   \
      {g::in_proj_weight, g::d_in_proj_weight}, {g::conv1d_weight, g::d_conv1d_weight}, \
      {g::conv1d_bias, g::d_conv1d_bias}, {g::x_proj_weight, g::d_x_proj_weight},       \
      {g::dt_proj_weight, g::d_dt_proj_weight}, {g::dt_proj_bias, g::d_dt_proj_bias},   \
      {g::A_log, g::d_A_log}, {g::D, g::d_D}, {                                         \
    g::out_proj_weight, g::d_out_proj_weight                                            \
  }
  {
    namespace g = goldens::ssm::paths_1;
    golden::check_in_double_and_float<Image<MultiPathConfig{}>>(
        {g::x, g::y, g::dy, g::dx}, {LIMEN_PARAMETERS(g), {g::gate, g::d_gate}});
  }
  {
    namespace g = goldens::ssm::paths_2;
    constexpr MambaConfig two{.d_model = 2, .d_state = 2};
    golden::check_in_double_and_float<MultiPath<MultiPathConfig{.gate = false}, Mamba<two>>>(
        {g::x, g::y, g::dy, g::dx}, {LIMEN_PARAMETERS(g)});
  }
#undef LIMEN_PARAMETERS
}

TEST_CASE("MultiPath trains and prepares, but has no step", "[ssm][multi_path]") {
  using Layer = Image<MultiPathConfig{}>;
  STATIC_REQUIRE(Trainable<Layer>);
  STATIC_REQUIRE_FALSE(Streaming<Layer>);
  STATIC_REQUIRE(Runs<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
}
