// Rows that no router can serve.
#include <limen/moe/base_router.hpp>
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/contrastive_router.hpp>
#include <limen/moe/expert_choice_router.hpp>
#include <limen/moe/jitter_router.hpp>
#include <limen/moe/mixer_router.hpp>
#include <limen/moe/noisy_top_k_router.hpp>
#include <limen/moe/sinkhorn_router.hpp>
#include <limen/moe/task_router.hpp>
#include <limen/moe/top_k_router.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index D = 4, E = 2, T = 6;
using Top = TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = E}>;

constexpr TopKRouterConfig sigmoid{.d_model = D,
                                   .n_experts = 4,
                                   .score = RouterScore::sigmoid,
                                   .balance_bias = true,
                                   .n_groups = 2,
                                   .top_groups = 1};
constexpr TopKRouterConfig gather{.d_model = D, .n_experts = E, .top_k = 1, .normalise = false};

}  // namespace

TEMPLATE_TEST_CASE(
    "A row whose scores are all NaN is an error that names it", "[moe][router]", Top,
    TopKRouter<sigmoid>, TopKRouter<gather>,
    (NoisyTopKRouter<NoisyTopKRouterConfig{.d_model = D, .n_experts = E, .d_hidden = 3}>),
    (ExpertChoiceRouter<ExpertChoiceRouterConfig{.d_model = D, .n_experts = E}>),
    (SinkhornRouter<SinkhornRouterConfig{.d_model = D, .n_experts = E}>),
    (BaseRouter<BaseRouterConfig{.d_model = D, .n_experts = E}>),
    (CapacityRouter<CapacityRouterConfig{.by_weight = true}, Top>),
    (JitterRouter<JitterRouterConfig{}, Top>),
    (MixerRouter<MixerRouterConfig{.d_model = D, .d_context = D, .n_experts = E}>),
    (ContrastiveRouter<ContrastiveRouterConfig{.d_model = D, .n_experts = E}>), (TaskGates<3, Top>),
    (TaskFeatures<TaskFeaturesConfig{.d_model = 2, .n_tasks = 3, .d_hidden = 3, .d_task = 2},
                  Top>)) {
  Random random(3);
  const auto router = TestType::initialized(random);
  constexpr Index own = detail::own_columns<TestType>, wide = TestType::in;
  Sequence<float, wide> x(T);
  for (Index t = 0; t < T; ++t) {
    for (Index d = 0; d < wide; ++d) {
      const bool number = d >= wide - own;
      x(t, d) = number ? static_cast<float>(t % 3) : static_cast<float>(random.normal());
    }
  }
  typename TestType::Chosen chosen;
  typename TestType::Cache cache;
  REQUIRE(router.route(x, {}, chosen));
  REQUIRE(router.route(x, {}, chosen, cache));
  for (Index d = 0; d < wide - own; ++d) x(4, d) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE_THROWS_WITH(router.route(x, {}, chosen), has_part("row 4"));
  REQUIRE_THROWS_WITH(router.route(x, {}, chosen, cache), has_part("row 4"));
  if constexpr (StreamingRouter<TestType>) {
    std::int32_t ids[TestType::slots];
    float weights[TestType::slots];
    router.route_row(x.row(4), ids, weights);
    REQUIRE(std::isnan(weights[0]));
    REQUIRE((ids[0] >= 0 && ids[0] < TestType::experts));
  }
}

TEST_CASE("With too many experts masked there is no choice either", "[moe][router]") {
  const float inf = std::numeric_limits<float>::infinity();
  TopKRouter<TopKRouterConfig{.d_model = 1, .n_experts = 3, .bias = true}> router;
  router.bias[0] = -inf;
  Assignment<float, 2> chosen;
  REQUIRE(router.route(Sequence<float, 1>{{1}}, {}, chosen));  // two are left
  REQUIRE((chosen.expert[0] == 1 && chosen.expert[1] == 2));
  router.bias[2] = -inf;
  REQUIRE_THROWS_WITH(router.route(Sequence<float, 1>{{1}, {2}}, {}, chosen), has_part("row 0"));
  router.bias[2] = inf;
  REQUIRE_THROWS_WITH(router.route(Sequence<float, 1>{{1}}, {}, chosen), has_part("row 0"));
}
