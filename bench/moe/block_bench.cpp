// Blocks of published models, 64 experts of which 8 run, d 512, hidden 1024 each: Qwen3, and
// DeepSeek-V3 with 8 groups and one shared expert. Work: flops of the experts.

#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/shared_expert.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

constexpr Index D = 512, H = 1024, E = 64, K = 8;
using Expert = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = H}>;
using Qwen =
    MixtureOfExperts<TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = E, .top_k = K}>,
                     Expert>;
constexpr TopKRouterConfig v3{.d_model = D,
                              .n_experts = E,
                              .top_k = K,
                              .score = RouterScore::sigmoid,
                              .scale = 2.5,
                              .balance_bias = true,
                              .n_groups = 8,
                              .top_groups = 4};
using DeepSeek =
    SharedExpert<SharedExpertConfig{}, MixtureOfExperts<TopKRouter<v3>, Expert>, Expert>;

Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

/// The inference form, made once.
template <class L>
const prepared_form<L>& ready() {
  static const auto fast = [] {
    Random random(1);
    const auto layer = std::make_unique<L>(L::initialized(random));
    auto form = std::make_unique<prepared_form<L>>();
    prepare_into(*form, *layer);
    return form;
  }();
  return *fast;
}

template <class L>
void register_block(const std::string& name, Index experts) {
  for (const Index rows : {1, 32, 512}) {
    benchmark::RegisterBenchmark((name + std::to_string(rows)).c_str(), [=](benchmark::State& run) {
      const auto& layer = ready<L>();
      const auto x = noise(rows);
      for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
      run.counters["work"] = 6.0 * static_cast<double>(D * H * experts * rows);
    });
  }
}

[[maybe_unused]] const bool registered = [] {
  register_block<Qwen>("moe.block/qwen3/", K);
  register_block<DeepSeek>("moe.block/deepseek_v3/", K + 1);
  return true;
}();

}  // namespace
