#include <limen/moe/shared_expert.hpp>

#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/min_gru.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

using Map = Linear<LinearConfig{.d_in = 3, .d_out = 2}>;
using Memory = MinGru<MinGruConfig{.d_in = 3, .d_hidden = 2}>;
using Routed = MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = 3, .n_experts = 4}>, Map>;
constexpr SharedExpertConfig plain{}, gated{.gated = true};

template <class L>
void hold() {
  const auto with = [](auto layer, double slope) {
    Random random(2);
    layer = decltype(layer)::initialized(random);
    fill_normal(layer.routed.router.weight, 2, random);
    laws::hold(layer, {.slope = slope, .nan_stays = false});
  };
  with(typename L::template with_scalar<double>(), 0);
  with(L(), 1e3);  // the steps of float are wide enough to change a choice
}

}  // namespace

TEST_CASE("A shared expert keeps the laws of layers", "[moe][shared][laws]") {
  hold<SharedExpert<plain, Routed, Map>>();
  hold<SharedExpert<gated, Routed, Map>>();
  hold<SharedExpert<gated, Routed, Memory>>();
}

TEST_CASE("A gate says how much of the shared expert is added", "[moe][shared]") {
  Random random(1);
  using L = SharedExpert<gated, Routed, Map>::with_scalar<double>;
  L layer = L::initialized(random);
  fill(layer.gate, 0);
  layer.gate[0] = std::log(3.0);
  const Sequence<double, 3> x{{1, 2, 3}};
  const auto y = forward(layer, x), routed = forward(layer.routed, x),
             shared = forward(layer.shared, x);
  for (Index d = 0; d < 2; ++d) {
    REQUIRE(y(0, d) == Approx(routed(0, d) + 0.75 * shared(0, d)));
  }
}

TEST_CASE("Shared experts have the names of the blocks they are read from", "[moe][shared]") {
  const auto names = [](const auto& layer) {
    std::string all;
    for_each_parameter([&](const std::string& name, auto&) { all += name + ' '; }, layer);
    return all;
  };
  REQUIRE_THAT(names(SharedExpert<plain, Routed, Map>()),
               has_part("gate.weight experts.0.weight") && has_part("shared_experts.weight"));
  REQUIRE_THAT(names(SharedExpert<gated, Routed, Map>()),
               has_part("shared_expert.weight") && has_part("shared_expert_gate"));
  static_assert(macs<SharedExpert<gated, Routed, Map>>(2) == 2 * (4 * 3 + 2 * 6 + 6 + 3));
  static_assert(Layer<SharedExpert<plain, Routed, Map>>);
}
