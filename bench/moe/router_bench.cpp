// Who goes where, without the experts: 512 rows, d 512. Work: scores, 2 T D E flops; for routers
// without scores, rows.

#include <limen/moe/base_router.hpp>
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/expert_choice_router.hpp>
#include <limen/moe/hash_router.hpp>
#include <limen/moe/noisy_top_k_router.hpp>
#include <limen/moe/sinkhorn_router.hpp>
#include <limen/moe/task_router.hpp>
#include <limen/moe/top_k_router.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

constexpr Index D = 512, T = 512;

template <class R>
void register_router(const char* name, bool training) {
  const std::string full = std::string("moe.router.") + name + (training ? ".train/E" : "/E") +
                           std::to_string(R::experts);
  benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto router = std::make_unique<R>(R::initialized(random));
    Sequence<float, R::in> x(T);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
    for (Index t = 0; R::in > D && t < T; ++t) x(t, D) = static_cast<float>(t % 4);
    Context context{.random = &random};
    const RoutingRun whole{nullptr, 1, &context};
    typename R::Chosen chosen;
    typename R::Cache cache;
    for (auto _ : run) {
      const bool done =
          training ? router->route(x, whole, chosen, cache) : router->route(x, whole, chosen);
      if (!done) run.SkipWithError("not routed");
      benchmark::DoNotOptimize(chosen.expert.data());
    }
    constexpr bool scores = R::in == D || R::slots > 1;
    run.counters["work"] =
        scores ? 2.0 * static_cast<double>(T * D * R::experts) : static_cast<double>(T);
  });
}

template <Index E, Index K>
void register_routers() {
  using Top = TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = E, .top_k = K}>;
  register_router<Top>("top_k", false);
  register_router<Top>("top_k", true);
  register_router<CapacityRouter<CapacityRouterConfig{}, Top>>("capacity", true);
  register_router<TaskGates<4, Top>>("task_gates", false);
  register_router<NoisyTopKRouter<NoisyTopKRouterConfig{
      .d_model = D, .n_experts = E, .top_k = K, .importance = 0.1, .load = 0.1}>>("noisy_top_k",
                                                                                  true);
  register_router<ExpertChoiceRouter<ExpertChoiceRouterConfig{.d_model = D, .n_experts = E}>>(
      "expert_choice", false);
  register_router<SinkhornRouter<SinkhornRouterConfig{.d_model = D, .n_experts = E}>>("sinkhorn",
                                                                                      true);
  register_router<BaseRouter<BaseRouterConfig{.d_model = D, .n_experts = E}>>("base", true);
  register_router<HashRouter<HashRouterConfig{.d_model = D, .vocabulary = 4, .n_experts = E}>>(
      "hash", false);
}

[[maybe_unused]] const bool registered = [] {
  register_routers<8, 2>();
  register_routers<64, 8>();
  return true;
}();

}  // namespace
