// Layers beside softmax attention over all rows, inference form, 2048 rows of 256 in one sequence.
// Work: flops, of the perceiver rows.

#include <limen/attention/dynamic_perceiver.hpp>
#include <limen/attention/gated_attention_unit.hpp>
#include <limen/attention/learned_query_attention.hpp>
#include <limen/attention/linear_attention.hpp>

#include <benchmark/benchmark.h>

#include <string>

namespace {

using namespace limen;

constexpr Index D = 256, T = 2048;

constexpr GatedAttentionUnitConfig whole{.d_model = D, .capacity = T};
constexpr GatedAttentionUnitConfig chunks{.d_model = D, .chunk = 256};
constexpr LinearAttentionConfig elu{.d_model = D, .n_heads = 4};
constexpr LinearAttentionConfig drawn{
    .d_model = D, .n_heads = 4, .map = FeatureMap::random, .features = 128};
constexpr LearnedQueryAttentionConfig local{.d_model = D, .n_heads = 4, .behind = 6};
constexpr DynamicPerceiverConfig branches{.d_model = D, .latents = 128, .cells = 49};

template <class L>
void add(const std::string& form, double flops) {
  const std::string name = "attention." + form + ".forward/2048x256";
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    Sequence<float, D> x(T);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
    for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
    run.counters["work"] = flops;
    run.counters["threads"] = 1;
  })->UseRealTime();
}
template <class L>
void add(const std::string& form) {
  add<L>(form, 2 * static_cast<double>(L::macs(T)));
}

[[maybe_unused]] const bool registered = [] {
  add<GatedAttentionUnit<whole>>("unit.whole");
  add<GatedAttentionUnit<chunks>>("unit.chunks");
  add<LinearAttention<elu>>("linear.elu");
  add<LinearAttention<drawn>>("linear.random");
  add<LearnedQueryAttention<local>>("local");
  add<DynamicPerceiver<branches>>("perceiver", static_cast<double>(T));
  return true;
}();

}  // namespace
