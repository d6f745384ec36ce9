// Norms of rows, forward and backward. Work: bytes of activations read and written once.

#include <limen/nn/batch_norm.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/rms_norm.hpp>

#include <benchmark/benchmark.h>

#include <string>

namespace {

using namespace limen;

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

void state_work(benchmark::State& run, Index rows, Index width, int passes) {
  run.counters["work"] = static_cast<double>(passes * rows * width) * sizeof(float);
  run.counters["threads"] = 1;
}

template <class L>
void register_norm(const std::string& name) {
  constexpr Index D = L::in;
  for (const Index rows : {1, 64, 512}) {
    const std::string size = std::to_string(rows) + "x" + std::to_string(D);
    benchmark::RegisterBenchmark(("nn." + name + ".forward/" + size).c_str(),
                                 [rows](benchmark::State& run) {
                                   Random random(1);
                                   const L layer = L::initialized(random);
                                   const auto x = noise<D>(rows);
                                   for (auto _ : run)
                                     benchmark::DoNotOptimize(forward(layer, x).data());
                                   state_work(run, rows, D, 2);
                                 });
    if (rows == 1) continue;
    benchmark::RegisterBenchmark(
        ("nn." + name + ".backward/" + size).c_str(), [rows](benchmark::State& run) {
          Random random(1);
          const L layer = L::initialized(random);
          L gradient;
          typename L::Cache cache;
          const auto dy = noise<D>(rows);
          forward(layer, noise<D>(rows), cache);
          for (auto _ : run) {
            benchmark::DoNotOptimize(backward(layer, dy, cache, gradient).data());
          }
          state_work(run, rows, D, 3);
        });
  }
}

[[maybe_unused]] const bool registered = [] {
  register_norm<RmsNorm<RmsNormConfig{.d = 256}>>("rms_norm");
  register_norm<RmsNorm<RmsNormConfig{.d = 768}>>("rms_norm");
  register_norm<LayerNorm<LayerNormConfig{.d = 256}>>("layer_norm");
  register_norm<LayerNorm<LayerNormConfig{.d = 768}>>("layer_norm");
  register_norm<GroupNorm<GroupNormConfig{.d = 768, .groups = 12}>>("group_norm");
  register_norm<BatchNorm<BatchNormConfig{.d = 256}>>("batch_norm");
  return true;
}();

}  // namespace
