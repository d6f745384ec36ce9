// Neurons by themselves. Names: steps x sequences x neurons. Work: bytes that must move, x and s
// for the forward; h, ds and dx for the way back; x, s and the membrane twice for a step.

#include <limen/spiking/lif.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include <limen/spiking/presets.hpp>
#include <limen/spiking/synaptic.hpp>

namespace {

using namespace limen;

template <Index D>
Sequence<float, D> noise(Index rows, double mean) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(mean + random.normal());
  }
  return x;
}

std::vector<Index> offsets_of(Index steps, Index sequences) {
  std::vector<Index> offsets;
  for (Index b = 0; b <= sequences; ++b) offsets.push_back(b * steps);
  return offsets;
}

void state_work(benchmark::State& run, double work) {
  run.counters["work"] = work;
  run.counters["threads"] = 1;
}

template <class L>
void register_runs(const std::string& kind, Index steps, Index sequences) {
  const std::string size =
      "/" + std::to_string(steps) + "x" + std::to_string(sequences) + "x" + std::to_string(L::D);
  const Index rows = steps * sequences;
  const double row = 4.0 * static_cast<double>(rows * L::D);
  benchmark::RegisterBenchmark(
      ("spiking." + kind + ".forward" + size).c_str(), [=](benchmark::State& run) {
        Random random(1);
        const auto layer = prepare(L::initialized(random));
        const auto x = noise<L::D>(rows, 0.3);
        const auto offsets = offsets_of(steps, sequences);
        for (auto _ : run) {
          benchmark::DoNotOptimize(layer.forward(x, from_rest(offsets)).data());
        }
        state_work(run, 2 * row);
      });
  benchmark::RegisterBenchmark(
      ("spiking." + kind + ".backward" + size).c_str(), [=](benchmark::State& run) {
        Random random(1);
        const auto layer = L::initialized(random);
        const auto gradient = std::make_unique<L>();
        const auto ds = noise<L::D>(rows, 0);
        const auto offsets = offsets_of(steps, sequences);
        typename L::Cache cache;
        layer.forward(noise<L::D>(rows, 0.3), from_rest(offsets), cache);
        for (auto _ : run) {
          benchmark::DoNotOptimize(layer.backward(ds, from_rest(offsets), cache, *gradient).data());
        }
        state_work(run, 3 * row);
      });
}

template <class L>
void register_step(const std::string& kind) {
  benchmark::RegisterBenchmark(("spiking." + kind + ".step/" + std::to_string(L::D)).c_str(),
                               [](benchmark::State& run) {
                                 Random random(1);
                                 const auto layer = prepare(L::initialized(random));
                                 const auto x = noise<L::D>(64, 0.3);
                                 const auto state = std::make_unique<typename L::State>();
                                 Index t = 0;
                                 for (auto _ : run) {
                                   benchmark::DoNotOptimize(layer.step(x.row(t), *state));
                                   t = (t + 1) % 64;
                                 }
                                 state_work(run, 16.0 * L::D);
                               });
}

[[maybe_unused]] const bool registered = [] {
  register_runs<Lif<LifConfig{.d_model = 1000, .decay = 0.9}>>("lif", 25, 1);
  register_runs<Lif<LifConfig{.d_model = 1000, .decay = 0.9}>>("lif", 25, 128);
  register_runs<Lif<LifConfig{.d_model = 128, .decay = 0.9}>>("lif", 1000, 1);
  register_runs<Synaptic<Lif<snntorch_synaptic_membrane(1000, 0.9)>>>("synaptic", 25, 128);
  register_step<Lif<LifConfig{.d_model = 128, .decay = 0.9}>>("lif");
  register_step<Lif<LifConfig{.d_model = 1024, .decay = 0.9}>>("lif");
  register_step<Lif<LifConfig{.d_model = 16384, .decay = 0.9}>>("lif");
  return true;
}();

}  // namespace
