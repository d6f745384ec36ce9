// A training step of the network in examples/digits: forward, backward, clipping, AdamW. Work: the
// flops of its products, three times those of forward. And optimizers alone, in bytes: each number
// of the weight, its gradient and moments read once, what changed written once.

#include <limen/compose/sequential.hpp>
#include <limen/nn/gru.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/lion.hpp>
#include <limen/train/muon.hpp>
#include <limen/train/sgd.hpp>
#include <limen/train/trainer.hpp>

#include <benchmark/benchmark.h>

#include <numeric>

namespace {

using namespace limen;

constexpr Index batch = 64, rows = 8, D = 8, H = 64, classes = 10;
using Model = Sequential<Gru<GruConfig{.d_in = D, .d_hidden = H}>,
                         Linear<LinearConfig{.d_in = H, .d_out = classes}>>;

void state_work(benchmark::State& run, double work, int threads = 1) {
  run.counters["work"] = work;
  run.counters["threads"] = threads;
}

/// One shard a thread.
void step(benchmark::State& run, int threads) {
  const Threads allowed(threads);
  Random random(1);
  Model model = Model::initialized(random);
  Trainer trainer(model, AdamW<Model>({.rate = 1e-3}), {},
                  {.batch = batch, .shards = threads, .clip = 1});
  Sequences<float, D> data;
  std::vector<int> labels;
  for (Index i = 0; i < batch; ++i) {
    Sequence<float, D> x(rows);
    for (Index k = 0; k < x.size(); ++k) x.data()[k] = static_cast<float>(random.uniform());
    data.add(x);
    labels.push_back(static_cast<int>(random.below(classes)));
  }
  std::vector<Index> items(batch);
  std::iota(items.begin(), items.end(), Index{0});
  const auto loss = [&](SequenceView<float, classes> y, const Shard& shard) {
    const auto at = shard.at_last_row(labels);
    return cross_entropy(y, std::span(at.begin(), at.end()));
  };
  for (auto _ : run) benchmark::DoNotOptimize(*trainer.step(data, items, loss));
  state_work(run, 3.0 * 2 * batch * rows * (3 * H * (D + H) + H * classes), threads);
}

template <class Optimizer>
void update(benchmark::State& run, Optimizer optimizer, double arrays) {
  Random random(1);
  Model model = Model::initialized(random), gradient = Model::initialized(random);
  for (auto _ : run) {
    optimizer.update(model, gradient);
    benchmark::ClobberMemory();
  }
  state_work(run, arrays * 4 * static_cast<double>(parameter_count(model)));
}

[[maybe_unused]] const bool registered = [] {
  using benchmark::RegisterBenchmark;
  RegisterBenchmark("train.step/digits", [](auto& run) { step(run, 1); })->UseRealTime();
  RegisterBenchmark("train.step/digits/threads:2", [](auto& run) { step(run, 2); })->UseRealTime();
  RegisterBenchmark("train.sgd/digits",
                    [](auto& run) { update(run, Sgd<Model>({.rate = 1e-6, .momentum = 0.9}), 5); });
  RegisterBenchmark("train.adamw/digits",
                    [](auto& run) { update(run, AdamW<Model>({.rate = 1e-6}), 7); });
  RegisterBenchmark("train.lion/digits",
                    [](auto& run) { update(run, Lion<Model>({.rate = 1e-6}), 5); });
  RegisterBenchmark("train.muon/digits",
                    [](auto& run) { update(run, Muon<Model>({.rate = 1e-6}), 5); });
  return true;
}();

}  // namespace
