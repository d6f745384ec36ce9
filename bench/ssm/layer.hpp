#pragma once
/// @file  A layer as it is used: prefill of a prompt, a step, a training step of a batch. Work:
/// flops, three times those of forward for training.

#include <limen/core/macs.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

namespace layer_bench {

using namespace limen;

template <Index D>
Sequence<float, D> rows(Index count) {
  Random random(1);
  Sequence<float, D> x(count);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

template <class L>
std::unique_ptr<L> drawn() {
  Random random(1);
  return std::make_unique<L>(L::initialized(random));
}

template <class L>
void prefill(benchmark::State& run, Index T, int threads) {
  const Threads allowed(threads);
  const auto layer = std::make_unique<prepared_form<L>>(prepare(*drawn<L>()));
  const auto x = rows<L::in>(T);
  for (auto _ : run) benchmark::DoNotOptimize(forward(*layer, x).data());
  run.counters["work"] = 2.0 * static_cast<double>(macs<L>(T));
  run.counters["threads"] = threads;
}

template <class L>
void step(benchmark::State& run) {
  const auto layer = std::make_unique<prepared_form<L>>(prepare(*drawn<L>()));
  const auto x = rows<L::in>(1);
  const auto state = std::make_unique<typename L::State>();
  for (auto _ : run) benchmark::DoNotOptimize(layer->step(x.row(0), *state));
  run.counters["work"] = 2.0 * static_cast<double>(macs<L>(1));
}

/// Forward and backward of `count` sequences of T rows.
template <class L>
void training(benchmark::State& run, Index T, Index count, int threads) {
  const Threads allowed(threads);
  const auto layer = drawn<L>();
  std::vector<Index> offsets;
  for (Index b = 0; b <= count; ++b) offsets.push_back(T * b);
  const auto x = rows<L::in>(offsets.back()), dy = rows<L::out>(offsets.back());
  const auto gradient = std::make_unique<L>();
  typename L::Cache cache;
  for (auto _ : run) {
    layer->forward(Sequence<float, L::in>(x), from_rest(offsets), cache);
    benchmark::DoNotOptimize(layer->backward(dy, from_rest(offsets), cache, *gradient).data());
  }
  run.counters["work"] = 6.0 * static_cast<double>(macs<L>(offsets.back()));
  run.counters["threads"] = threads;
}

/// family.block.prefill/768x512, .step/768, .training/256x256x8; all but steps with two threads
/// too. `Large` is 768 wide, `Small` 256.
template <class Large, class Small>
void add(const std::string& family) {
  const auto add = [&](const std::string& name, auto f) {
    benchmark::RegisterBenchmark((family + ".block." + name).c_str(), f)->UseRealTime();
  };
  static_assert(Large::in == 768 && Small::in == 256);
  for (const int threads : {1, 2}) {
    const std::string suffix = threads == 1 ? "" : "/threads:2";
    add("prefill/768x512" + suffix, [=](auto& run) { prefill<Large>(run, 512, threads); });
    add("training/256x256x8" + suffix, [=](auto& run) { training<Small>(run, 256, 8, threads); });
  }
  if constexpr (Streaming<prepared_form<Large>>) {
    add("step/768", [](auto& run) { step<Large>(run); });
  }
}

}  // namespace layer_bench
