// Sparse networks in steps of 0.1 ms. Work: synapses that a spike passed.

#include <limen/spiking/lazy_network.hpp>
#include <limen/spiking/lif.hpp>
#include <limen/spiking/sparse_network.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

constexpr LifConfig driven(Index n) {
  return {.d_model = n,
          .decay = exact_decay(0.1, 20),
          .reset = Reset::to_value,
          .refractory = refractory_steps(2, 0.1)};
}
constexpr LifConfig million{.d_model = 1'000'000, .decay = 0.9};
using Lazy = LazyNetwork<million>;
using Every = SparseNetwork<Lif<million>>;

/// Leaky neurons that a constant drive would make fire, 4 in 5 excite, the others inhibit: what
/// bench/peers/brian_peer.py simulates.
template <Index N>
void register_network(int per_cent, Index steps) {
  const std::string name = "spiking.network/" + std::to_string(N) + "x" + std::to_string(per_cent) +
                           "/" + std::to_string(steps);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    using Neurons = Lif<driven(N)>;
    const SparseNetwork<Neurons> net(
        Neurons{}, SparseSynapses<float>::random(
                       N, N, per_cent / 100.0, 15,
                       [](Index i) { return i < 4 * N / 5 ? 0.005 : -0.025; }, random));
    Buffer<float> drive(N);
    for (float& d : drive) d = static_cast<float>(1.2 * (1 - driven(N).decay));
    double spikes = 0, synapses = 0, runs = 0;
    for (auto _ : run) {
      auto state = net.rest();
      for (Index i = 0; i < N; ++i) {
        state.neurons->arrays()[0][i] = static_cast<float>(random.uniform());
      }
      for (Index t = 0; t < steps; ++t) {
        for (const SpikeIndex i : net.step(state, drive.data())) {
          ++spikes;
          synapses += static_cast<double>(net.synapses().fan_out(i));
        }
      }
      ++runs;
    }
    run.counters["work"] = synapses / runs;
    run.counters["hertz"] =
        spikes / runs / static_cast<double>(N) / (1e-4 * static_cast<double>(steps));
  })->Unit(benchmark::kMillisecond);
}

/// A million neurons, ten synapses each, of which a few hear something.
template <class Network, class Hear>
void register_million(const std::string& name, Hear hear) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    constexpr Index N = 1'000'000;
    Random random(1);
    const Network net = [&] {
      auto synapses =
          SparseSynapses<float>::random(N, N, 10.0 / N, 1, [](Index) { return 0.25; }, random);
      if constexpr (requires { Network(synapses); }) {
        return Network(std::move(synapses));
      } else {
        return Network({}, std::move(synapses));
      }
    }();
    auto state = net.rest();
    double spikes = 0, steps = 0;
    for (auto _ : run) {
      for (int k = 0; k < 100; ++k) {
        hear(state, static_cast<Index>(random.below(static_cast<std::uint64_t>(N))));
      }
      spikes += static_cast<double>(net.step(state).size());
      ++steps;
    }
    run.counters["work"] = 10 * spikes / steps;
  });
}

[[maybe_unused]] const bool registered = [] {
  register_network<4000>(2, 10000);
  register_million<Lazy>("spiking.million.lazy/100",
                         [](auto& state, Index i) { Lazy::hear(state, i, 1.0f); });
  register_million<Every>("spiking.million.every/100",
                          [](auto& state, Index i) { state.ring.at(0)[i] += 1.0f; });
  return true;
}();

}  // namespace
