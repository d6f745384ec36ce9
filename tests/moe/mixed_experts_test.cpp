// Experts of different kinds in one layer: with memory, without, without products, whole models.
#include <limen/moe/mixture_of_experts.hpp>

#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/moe/special_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/min_gru.hpp>
#include <limen/nn/rms_norm.hpp>
#include <limen/ssm/mamba.hpp>

#include "../laws.hpp"
#include "mixtures.hpp"

using namespace limen;

namespace {

constexpr TopKRouterConfig two_of_four{.d_model = 5, .n_experts = 4};
constexpr TopKRouterConfig one_of_three{
    .d_model = 5, .n_experts = 3, .top_k = 1, .normalise = false};
constexpr TopKRouterConfig both{.d_model = 2, .n_experts = 2};

using Ffn = GatedLinear<GatedLinearConfig{.d_model = 5, .d_hidden = 3}>;
using Ssm = Mamba<MambaConfig{.d_model = 5, .d_state = 2, .d_conv = 2}>;
using Same = Identity<IdentityConfig{.d = 5}>;
using Nothing = Zero<ZeroConfig{.d_in = 5, .d_out = 5}>;
using Fixed5 = Constant<ConstantConfig{.d_in = 5, .d_out = 5}>;
using Memory = MinGru<MinGruConfig{.d_in = 5, .d_hidden = 5}>;
/// An expert that is a model: norm, memory, two blocks, projection.
using Model = Sequential<RmsNorm<RmsNormConfig{.d = 5}>, Memory, Repeat<2, Residual<Ffn>>,
                         Linear<LinearConfig{.d_in = 5, .d_out = 5}>>;

const auto decide = [](auto& layer, Random& random) {
  fill_normal(layer.router.weight, 2, random);
};

}  // namespace

TEST_CASE("Experts without products keep the laws of layers", "[moe][experts][laws]") {
  laws::hold_in_double_and_float<Identity<IdentityConfig{.d = 17}>>();
  laws::hold_in_double_and_float<Zero<ZeroConfig{.d_in = 3, .d_out = 1}>>({.nan_stays = true});
  laws::hold_in_double_and_float<Constant<ConstantConfig{.d_in = 1, .d_out = 17}>>();
}

TEST_CASE("Experts of four kinds keep the laws of layers", "[moe][experts][laws]") {
  hold_from<MixtureOfExperts<TopKRouter<two_of_four>, Ffn, Ssm, Same, Fixed5>>({}, decide);
}

TEST_CASE("Whole models as experts keep the laws of layers", "[moe][experts][laws]") {
  hold_from<MixtureOfExperts<TopKRouter<one_of_three>, Model, Nothing, Memory>>({}, decide);
}

TEST_CASE("Half of what goes to x and half of what goes to nothing", "[moe][experts]") {
  MixtureOfExperts<TopKRouter<both>, Identity<IdentityConfig{.d = 2}>,
                   Zero<ZeroConfig{.d_in = 2, .d_out = 2}>>
      layer;  // z = (0, 0)
  const auto y = forward(layer, Sequence<float, 2>{{4, -6}});
  REQUIRE(y(0, 0) == 2);
  REQUIRE(y(0, 1) == -3);
}

TEST_CASE("An expert remembers its own rows of each sequence and no others", "[moe][experts]") {
  using L = MixtureOfExperts<TopKRouter<one_of_three>, Model, Nothing, Memory>;
  Random random(4);
  L layer = L::initialized(random);
  layer.router = {};
  for (Index e = 0; e < 3; ++e) layer.router.weight(e, e) = 9;  // the largest of three numbers
  Sequence<float, 5> x(10);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const Index offsets[] = {0, 6, 10};
  const Index of_rows[] = {2, 0, 2, 1, 0, 2, 0, 2, 1, 2};
  for (Index t = 0; t < 10; ++t) x(t, of_rows[t]) = 4;
  const auto y = layer.forward(x, from_rest(offsets));
  for (std::size_t b = 0; b < 2; ++b) {
    for (const Index e : {0, 2}) {
      Model::State model{};
      Memory::State memory{};
      for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
        if (of_rows[t] != e) continue;
        const auto alone = e == 0 ? get<0>(layer.experts.layers).step(x.row(t), model)
                                  : get<2>(layer.experts.layers).step(x.row(t), memory);
        std::int32_t id;
        float w;
        layer.router.route_row(x.row(t), &id, &w);
        REQUIRE(id == e);
        for (Index d = 0; d < 5; ++d) {
          INFO("row " << t << ", expert " << e);
          REQUIRE(y(t, d) == Approx(w * alone[d]).margin(1e-5));
        }
      }
    }
  }
  for (Index d = 0; d < 5; ++d) REQUIRE(y(3, d) == 0);  // skipped by all
}

TEST_CASE("Parameters of mixed experts are named by their position", "[moe][experts]") {
  MixtureOfExperts<TopKRouter<both>, Identity<IdentityConfig{.d = 2}>,
                   Constant<ConstantConfig{.d_in = 2, .d_out = 2}>>
      layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "gate.weight experts.1.value ");
}

namespace {
static_assert(Layer<MixtureOfExperts<TopKRouter<two_of_four>, Ffn, Ssm, Same, Fixed5>>);
static_assert(decltype(MixtureOfExperts<TopKRouter<two_of_four>, Ffn, Ssm, Same,
                                        Fixed5>())::work_depends_on_data);
}  // namespace
