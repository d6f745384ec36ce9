#include <limen/moe/soft_mixture_of_experts.hpp>

#include <limen/nn/gated_linear.hpp>
#include <limen/nn/linear.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

template <Index I, Index O = I>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;

}  // namespace

TEST_CASE("A soft mixture keeps the laws, but for cutting", "[moe][soft][laws]") {
  laws::hold_for_composed<SoftMixtureOfExperts<
      SoftMixtureConfig{.d_model = 5, .n_experts = 3, .slots_per_expert = 2}, Map<5, 2>>>(
      {.causal = false});
  laws::hold_for_composed<
      SoftMixtureOfExperts<SoftMixtureConfig{.d_model = 17, .n_experts = 2},
                           GatedLinear<GatedLinearConfig{.d_model = 17, .d_hidden = 3}>, Map<17>>>(
      {.causal = false});
  // One number over its length is a step at 0: in float only wide of it is there a slope.
  using Narrow = SoftMixtureOfExperts<SoftMixtureConfig{.d_model = 1, .n_experts = 1}, Map<1>>;
  Random random(1);
  laws::hold(Narrow::with_scalar<double>::initialized(random), {.causal = false});
  laws::hold(Narrow::initialized(random), {.slope = 1e3, .causal = false});
}

TEST_CASE("Slots are mixtures of rows, rows mixtures of slots", "[moe][soft]") {
  SoftMixtureOfExperts<SoftMixtureConfig{.d_model = 2, .n_experts = 2},
                       Linear<LinearConfig{.d_in = 2, .d_out = 2, .bias = false}, double>>
      layer;
  layer.scale[0] = 1;
  for (Index i = 0; i < 2; ++i) {
    layer.slots(i, i) = 1;
    for (auto& expert : layer.experts.layers) expert.weight(i, i) = 1;
  }
  const auto y = forward(layer, Sequence<double, 2>{{1, 0}, {0, 1}});
  REQUIRE(y(0, 0) == Approx(0.606776).epsilon(1e-5));
  REQUIRE(y(0, 1) == Approx(0.393224).epsilon(1e-5));
  REQUIRE(y(1, 0) == Approx(0.393224).epsilon(1e-5));
  REQUIRE(y(1, 1) == Approx(0.606776).epsilon(1e-5));
}

namespace {
using Soft = SoftMixtureOfExperts<SoftMixtureConfig{.d_model = 2, .n_experts = 2}, Map<2>>;
static_assert(Trainable<Soft> && !Streaming<Soft>);
}  // namespace
