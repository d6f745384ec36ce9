// Spikes followed, beside products that multiply with their zeros. Work: sums of a weight, those
// that spikes ask for.

#include <limen/nn/linear.hpp>
#include <limen/spiking/event_step.hpp>
#include <limen/spiking/lif.hpp>
#include <limen/spiking/spike_linear.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace limen;

/// 64 inputs in turn: the rows that are read change from step to step.
template <Index D>
Sequence<float, D> patterns(Index rows, double rate) {
  Random random(1);
  Sequence<float, D> s(rows);
  for (Index i = 0; i < s.size(); ++i) s.data()[i] = random.uniform() < rate ? 1.0f : 0.0f;
  return s;
}

template <Index D>
double count(const Sequence<float, D>& s) {
  return static_cast<double>(std::count(s.data(), s.data() + s.size(), 1.0f));
}

constexpr SpikeLinearConfig with(Index in, Index out, Execution execution, bool half = false) {
  return {.d_in = in,
          .d_out = out,
          .bias = false,
          .execution = execution,
          .half = half,
          .input_gradient = false};
}
constexpr LifConfig lif(Index d) { return {.d_model = d, .decay = 0.9, .detach_reset = true}; }

// ── One layer, one stream: a list of spikes comes in, and one goes out
// ────────────────────────────────────────────────────────────────────────

/// Names carry the rate in thousandths.
std::string per_mille(double rate) { return std::to_string(static_cast<int>(rate * 1000 + 0.5)); }

template <Index D, Execution E, bool Half = false>
void register_step(const std::string& what, double rate) {
  const std::string name = "spiking.event." + what + "/" + std::to_string(D) + "x" +
                           std::to_string(D) + "/" + per_mille(rate);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    using Net = Sequential<SpikeLinear<with(D, D, E, Half)>, Lif<lif(D)>>;
    Random random(1);
    const auto net = prepare(Net::initialized(random));
    const auto s = patterns<D>(64, rate);
    std::vector<Fired<D>> lists;
    for (Index t = 0; t < 64; ++t) lists.push_back(fired(s.row(t)));
    const auto state = std::make_unique<typename Net::State>();
    Index t = 0;
    for (auto _ : run) {
      t = (t + 1) % 64;
      if constexpr (E == Execution::dense) {
        benchmark::DoNotOptimize(net.step(s.row(t), *state));
      } else {
        benchmark::DoNotOptimize(step_events(net, lists[static_cast<std::size_t>(t)], *state));
      }
    }
    run.counters["work"] = count(s) / 64 * D;
  });
}

// ── Many rows, by rate and batch: the choice beside both ways ────────────────────────────────────

template <Index I, Index O, Execution E>
void register_rows(const std::string& what, Index rows, double rate) {
  const std::string name = "spiking.auto." + what + "/" + std::to_string(I) + "x" +
                           std::to_string(O) + "/" + std::to_string(rows) + "/" + per_mille(rate);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto layer = prepare(SpikeLinear<with(I, O, E)>::initialized(random));
    const Index turns = std::max<Index>(2, 64 / rows);
    const auto s = patterns<I>(turns * rows, rate);
    NoState none;
    Index t = 0;
    for (auto _ : run) {
      t = (t + 1) % turns;
      if (rows == 1) {
        benchmark::DoNotOptimize(layer.step(s.row(t), none));
      } else {
        benchmark::DoNotOptimize(layer.forward(middle_rows(s, t * rows, rows), {}).data());
      }
    }
    run.counters["work"] = count(s) / static_cast<double>(turns) * O;
  });
}

template <Index I, Index O>
void register_choice() {
  for (const Index rows : {1, 2, 4, 8, 16, 32, 128}) {
    for (const double rate : {0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}) {
      register_rows<I, O, Execution::dense>("dense", rows, rate);
      register_rows<I, O, Execution::event>("event", rows, rate);
      register_rows<I, O, Execution::automatic>("choice", rows, rate);
    }
  }
}

// ── 784-1000-10, 25 steps: beside snnTorch, SpikingJelly and Norse ───────────────────────────────

constexpr Index steps = 25;
constexpr double input_rate = 0.1;
using Digits = Sequential<SpikeLinear<with(784, 1000, Execution::automatic)>, Lif<lif(1000)>,
                          SpikeLinear<with(1000, 10, Execution::automatic)>, Lif<lif(10)>>;

std::vector<Index> equal_lengths(Index batch) {
  std::vector<Index> offsets;
  for (Index b = 0; b <= batch; ++b) offsets.push_back(b * steps);
  return offsets;
}

void register_inference(Index batch) {
  const std::string name = "spiking.inference/784x1000x10/" + std::to_string(batch);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto net = prepare(Digits::initialized(random));
    const auto s = patterns<784>(batch * steps, input_rate);
    if (batch == 1) {
      const auto state = std::make_unique<Digits::State>();
      for (auto _ : run) {
        *state = {};
        for (Index t = 0; t < steps; ++t) {
          benchmark::DoNotOptimize(step_events(net, s.row(t), *state));
        }
      }
    } else {
      const auto offsets = equal_lengths(batch);
      for (auto _ : run) benchmark::DoNotOptimize(net.forward(s, from_rest(offsets)).data());
    }
    run.counters["work"] = count(s) * 1000;
  });
}

void register_training(Index batch) {
  const std::string name = "spiking.training_step/784x1000x10/" + std::to_string(batch);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto net = Digits::initialized(random);
    const auto s = patterns<784>(batch * steps, input_rate);
    const auto offsets = equal_lengths(batch);
    Sequence<float, 10> dy(batch * steps);
    for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = static_cast<float>(random.normal());
    Digits gradient;
    Digits::Cache cache;
    for (auto _ : run) {
      set_zero(gradient);
      net.forward(Sequence<float, 784>(s), from_rest(offsets), cache);
      benchmark::DoNotOptimize(net.backward(dy, from_rest(offsets), cache, gradient).data());
    }
    run.counters["work"] = 2 * count(s) * 1000;
  });
}

// ── How late a step can be ───────────────────────────────────────────────────────────────────────

void register_latest() {
  benchmark::RegisterBenchmark(
      "spiking.step_p999/1024x1024/50",
      [](benchmark::State& run) {
        using Net = Sequential<SpikeLinear<with(1024, 1024, Execution::event)>, Lif<lif(1024)>>;
        Random random(1);
        const auto net = prepare(Net::initialized(random));
        const auto s = patterns<1024>(64, 0.05);
        const auto state = std::make_unique<Net::State>();
        std::vector<double> times(20000);
        for (auto _ : run) {
          for (std::size_t i = 0; i < times.size(); ++i) {
            const auto start = std::chrono::steady_clock::now();
            benchmark::DoNotOptimize(step_events(net, s.row(static_cast<Index>(i % 64)), *state));
            times[i] =
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
          }
          std::nth_element(times.begin(), times.begin() + 19980, times.end());
          run.SetIterationTime(times[19980]);
        }
        run.counters["work"] = count(s) / 64 * 1024;
      })
      ->UseManualTime()
      ->Iterations(5);
}

[[maybe_unused]] const bool registered = [] {
  for (const double rate : {0.01, 0.05, 0.2, 0.5}) {
    register_step<1024, Execution::event>("step", rate);
    register_step<1024, Execution::event, true>("step.half", rate);
    register_step<1024, Execution::dense>("dense_step", rate);
  }
  register_choice<1024, 1024>();
  register_choice<256, 256>();
  register_choice<784, 1000>();
  register_inference(1);
  register_inference(128);
  register_training(128);
  register_latest();
  return true;
}();

}  // namespace
