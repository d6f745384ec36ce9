// Layers beside softmax attention over all rows, inference form, 2048 rows of 256 in one sequence.
// GMAN as its paper has it: 325 sensors, 8 heads of 8, an hour from an hour, both ways. Work:
// flops, of the perceiver rows, of GMAN readings.

#include <limen/attention/dynamic_perceiver.hpp>
#include <limen/attention/gated_attention_unit.hpp>
#include <limen/attention/gman.hpp>
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
constexpr GmanConfig sensors{.nodes = 325, .heads = 8, .d_head = 8, .horizon = 12, .slots = 288};
constexpr Index past = 12;

std::string on(int threads) {
  return threads > 1 ? "/threads:" + std::to_string(threads) : std::string();
}

template <class L>
void add(const std::string& form, double flops, int threads) {
  const std::string name = "attention." + form + ".forward/2048x256" + on(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    Sequence<float, D> x(T);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
    for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
    run.counters["work"] = flops;
    run.counters["threads"] = threads;
  })->UseRealTime();
}
template <class L>
void add(const std::string& form, int threads) {
  add<L>(form, 2 * static_cast<double>(L::macs(T)), threads);
}

void add_gman(bool backward, int threads) {
  using L = Gman<sensors>;
  const std::string name = std::string("attention.gman.") + (backward ? "backward" : "forward") +
                           "/325x8x8x12x12" + on(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    Random random(1);
    const auto layer = L::initialized(random);
    Sequence<float, L::in> x(past + sensors.horizon);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
    for (Index t = 0; t < x.rows(); ++t) {
      x(t, L::N) = static_cast<float>(t % 7);
      x(t, L::N + 1) = static_cast<float>(t);
    }
    if (backward) {
      L::Cache cache;
      L gradient;
      const auto dy = layer.forward(Sequence<float, L::in>(x), {}, cache);
      for (auto _ : run) {
        benchmark::DoNotOptimize(layer.backward(dy, {}, cache, gradient).data());
      }
    } else {
      const auto ready = prepare(layer);
      for (auto _ : run) benchmark::DoNotOptimize(forward(ready, x).data());
    }
    run.counters["work"] = static_cast<double>(L::N * (past + sensors.horizon));
    run.counters["threads"] = threads;
  })->UseRealTime();
}

[[maybe_unused]] const bool registered = [] {
  for (const int threads : {1, 2}) {
    add<GatedAttentionUnit<whole>>("unit.whole", threads);
    add<GatedAttentionUnit<chunks>>("unit.chunks", threads);
    add<LinearAttention<elu>>("linear.elu", threads);
    add<LinearAttention<drawn>>("linear.random", threads);
    add<LearnedQueryAttention<local>>("local", threads);
    add<DynamicPerceiver<branches>>("perceiver", static_cast<double>(T), threads);
    add_gman(false, threads);
    add_gman(true, threads);
  }
  return true;
}();

}  // namespace
