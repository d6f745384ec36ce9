// Adapters of a Linear, 512 to 512, in the inference form and in training, beside the Linear alone.
// LoRA of rank 8; Polytropon with 8 adapters of rank 4; MHR with 8 of rank 1 in 64 heads. Rows of
// four tasks in turn. Work: flops of the Linear and of one adapter.

#include <limen/moe/polytropon.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

constexpr Index D = 512, tasks = 4;
using Base = Linear<LinearConfig{.d_in = D, .d_out = D}>;
using Rank8 = Lora<LoraConfig{.rank = 8, .alpha = 16}, Base>;
using Poly = Polytropon<PolytroponConfig{.n_tasks = tasks}, Base>;
using Mhr =
    Polytropon<PolytroponConfig{.n_tasks = tasks, .n_heads = 64, .rank = 1, .alpha = 1}, Base>;

template <class L>
Sequence<float, L::in> noise(Index rows) {
  Random random(1);
  Sequence<float, L::in> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  for (Index t = 0; L::in > D && t < rows; ++t) x(t, L::in - 1) = static_cast<float>(t % tasks);
  return x;
}

template <class L>
std::unique_ptr<L> learned() {
  Random random(1);
  auto layer = std::make_unique<L>(L::initialized(random));
  for_each_tensor([&](auto& tensor) { fill_normal(tensor, 0.05, random); }, *layer);
  return layer;
}

template <class L>
void register_adapter(const std::string& name) {
  for (const Index rows : {1, 32, 512}) {
    const std::string full = name + "/" + std::to_string(rows);
    const double work = 2.0 * static_cast<double>(L::macs(rows));
    benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& run) {
      const auto layer = prepare(*learned<L>());
      const auto x = noise<L>(rows);
      for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
      run.counters["work"] = work;
    });
    benchmark::RegisterBenchmark(("peer:linear:" + full).c_str(), [=](benchmark::State& run) {
      const auto layer = prepare(*learned<Base>());
      const auto x = noise<Base>(rows);
      for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
      run.counters["work"] = 2.0 * static_cast<double>(Base::macs(rows));
    });
  }
  benchmark::RegisterBenchmark((name + ".train/512").c_str(), [](benchmark::State& run) {
    const auto layer = learned<L>(), gradient = std::make_unique<L>();
    typename L::Cache cache;
    const auto x = noise<L>(512);
    const auto dy = noise<Base>(512);
    for (auto _ : run) {
      benchmark::DoNotOptimize(forward(*layer, Sequence<float, L::in>(x), cache).data());
      benchmark::DoNotOptimize(backward(*layer, dy, cache, *gradient).data());
    }
    // The base has a gradient of its input only, adapters two more products.
    run.counters["work"] = 2.0 * static_cast<double>(3 * L::macs(512) - Base::macs(512));
  });
}

template <class L>
void register_step(const std::string& name) {
  benchmark::RegisterBenchmark((name + ".step").c_str(), [](benchmark::State& run) {
    const auto layer = prepare(*learned<L>());
    const auto x = noise<L>(1);
    NoState state;
    for (auto _ : run) benchmark::DoNotOptimize(layer.step(x.row(0), state));
    run.counters["work"] = 2.0 * static_cast<double>(L::macs(1));
  });
}

[[maybe_unused]] const bool registered = [] {
  register_adapter<Rank8>("adapter.lora");
  register_adapter<Poly>("adapter.polytropon");
  register_adapter<Mhr>("adapter.mhr");
  register_step<Base>("adapter.none");
  register_step<Rank8>("adapter.lora");
  register_step<Poly>("adapter.polytropon");
  register_step<Mhr>("adapter.mhr");
  return true;
}();

}  // namespace
