// Neurons by themselves. Names: steps x sequences x neurons. Work: bytes that must move, x and s
// for the forward; h, ds and dx for the way back; x, s and the membrane twice for a step.

#include <limen/spiking/lif.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include <limen/spiking/alif.hpp>
#include <limen/spiking/alpha.hpp>
#include <limen/spiking/eif.hpp>
#include <limen/spiking/glif.hpp>
#include <limen/spiking/izhikevich.hpp>
#include <limen/spiking/plif.hpp>
#include <limen/spiking/presets.hpp>
#include <limen/spiking/synaptic.hpp>
#include <limen/spiking/temporal_batch_norm.hpp>

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
  benchmark::RegisterBenchmark(("spiking." + kind + ".step/" + std::to_string(L::in)).c_str(),
                               [](benchmark::State& run) {
                                 Random random(1);
                                 const auto layer = prepare(L::initialized(random));
                                 const auto x = noise<L::in>(64, 0.3);
                                 const auto state = std::make_unique<typename L::State>();
                                 Index t = 0;
                                 for (auto _ : run) {
                                   benchmark::DoNotOptimize(layer.step(x.row(t), *state));
                                   t = (t + 1) % 64;
                                 }
                                 state_work(run, 16.0 * L::in);
                               });
}

/// The neurons of docs/spiking_neurons.md: as many, as long, as many sequences as the leaky ones.
template <Index D>
void register_further() {
  using PlifEach = Plif<PlifConfig{.d_model = D, .learn = Learned::each}>;
  using AlifFixed = Alif<AlifConfig{.d_model = D}>;
  using Exponential = Eif<EifConfig{.d_model = D, .tau = 10}>;
  using AdEx = Eif<EifConfig{.d_model = D, .tau = 10, .adapts = true, .tau_w = 100}>;
  register_runs<PlifEach>("plif", 25, 128);
  register_runs<AlifFixed>("alif", 25, 128);
  register_runs<Exponential>("eif", 25, 128);
  register_runs<AdEx>("adex", 25, 128);
  register_runs<Glif<GlifConfig{.d_model = D}>>("glif", 25, 128);
  register_runs<Alpha<AlphaConfig{.d_model = D}>>("alpha", 25, 128);
  register_step<PlifEach>("plif");
  register_step<AlifFixed>("alif");
  register_step<Exponential>("eif");
  register_step<AdEx>("adex");
  register_step<Glif<GlifConfig{.d_model = D}>>("glif");
  register_step<Alpha<AlphaConfig{.d_model = D}>>("alpha");
}

/// A norm in training: statistics over 25 steps of 128 sequences, and its way back.
template <Index D>
void register_norm() {
  using L = TemporalBatchNorm<TemporalBatchNormConfig{.d = D}>;
  const Index rows = 25 * 128;
  for (const bool back : {false, true}) {
    const std::string name = std::string("spiking.tdbn.") + (back ? "backward" : "forward") +
                             "/25x128x" + std::to_string(D);
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
      Random random(1);
      const auto layer = L::initialized(random);
      const auto gradient = std::make_unique<L>();
      const auto x = noise<D>(rows, 0.3), dy = noise<D>(rows, 0);
      const auto offsets = offsets_of(25, 128);
      typename L::Cache cache;
      layer.forward(Sequence<float, D>(x), from_rest(offsets), cache);
      for (auto _ : run) {
        if (back) {
          benchmark::DoNotOptimize(layer.backward(dy, from_rest(offsets), cache, *gradient).data());
        } else {
          benchmark::DoNotOptimize(
              layer.forward(Sequence<float, D>(x), from_rest(offsets), cache).data());
        }
      }
      state_work(run, (back ? 3 : 2) * 4.0 * static_cast<double>(rows * D));
    });
  }
}

[[maybe_unused]] const bool registered = [] {
  register_runs<Lif<LifConfig{.d_model = 1000, .decay = 0.9}>>("lif", 25, 1);
  register_runs<Lif<LifConfig{.d_model = 1000, .decay = 0.9}>>("lif", 25, 128);
  register_runs<Lif<LifConfig{.d_model = 128, .decay = 0.9}>>("lif", 1000, 1);
  register_runs<Synaptic<Lif<snntorch_synaptic_membrane(1000, 0.9)>>>("synaptic", 25, 128);
  register_step<Lif<LifConfig{.d_model = 128, .decay = 0.9}>>("lif");
  register_step<Lif<LifConfig{.d_model = 1024, .decay = 0.9}>>("lif");
  register_step<Lif<LifConfig{.d_model = 16384, .decay = 0.9}>>("lif");
  register_further<1000>();
  register_step<Izhikevich<IzhikevichConfig{.d = 1000}>>("izhikevich");
  register_norm<1000>();
  return true;
}();

}  // namespace
