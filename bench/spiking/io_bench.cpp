// Encoders, rings of delays, learned delays. Work: numbers encoded, or synapses that a spike went
// through; of dcls the multiply-accumulates of its convolution, twice.

#include <limen/spiking/bernoulli_encoder.hpp>
#include <limen/spiking/dcls.hpp>
#include <limen/spiking/delay_lines.hpp>
#include <limen/spiking/delayed_conv.hpp>
#include <limen/spiking/delta_encoder.hpp>
#include <limen/spiking/encode.hpp>
#include <limen/spiking/spike_readout.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>

namespace {

using namespace limen;

constexpr Index D = 784, rows = 100;

Sequence<float, D> shares(double scale = 1) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(scale * random.uniform());
  return x;
}

void counts(benchmark::State& run, double work) {
  run.counters["work"] = work;
  run.counters["threads"] = 1;
}

template <class L>
void encoder(benchmark::State& run, const L& layer) {
  const auto x = shares();
  for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
  counts(run, static_cast<double>(rows * D));
}

void bernoulli(benchmark::State& run) {
  encoder(run, BernoulliEncoder<BernoulliEncoderConfig{.d_model = D}>{});
}
BENCHMARK(bernoulli)->Name("spiking.io.bernoulli/100x784");

/// What the standard library draws one by one.
void bernoulli_peer(benchmark::State& run) {
  const auto x = shares();
  Sequence<float, D> s(rows);
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<float> uniform;
  for (auto _ : run) {
    for (Index i = 0; i < x.size(); ++i) s.data()[i] = uniform(generator) < x.data()[i] ? 1.F : 0.F;
    benchmark::DoNotOptimize(s.data());
  }
  counts(run, static_cast<double>(rows * D));
}
BENCHMARK(bernoulli_peer)->Name("peer:std:spiking.io.bernoulli/100x784");

void delta(benchmark::State& run) {
  encoder(run, DeltaEncoder<DeltaEncoderConfig{.d_model = D}>{});
}
BENCHMARK(delta)->Name("spiking.io.delta/100x784");

void count(benchmark::State& run) {
  encoder(run, SpikeReadout<SpikeReadoutConfig{.d_model = D}>{});
}
BENCHMARK(count)->Name("spiking.io.count/100x784");

void latency(benchmark::State& run) {
  const auto x = shares();
  for (auto _ : run) benchmark::DoNotOptimize(latency_code(x, 25).data());
  counts(run, static_cast<double>(rows * D));
}
BENCHMARK(latency)->Name("spiking.io.latency/100x784x25");

/// A step of the ring in which `percent` of 512 inputs fire, each to 512 targets.
template <class L>
void ring_step(benchmark::State& run, const L& layer) {
  Random random(2);
  const double rate = static_cast<double>(run.range(0)) / 100;
  Sequence<float, 512> x(64);
  double spikes = 0;
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = random.uniform() < rate ? 1.F : 0.F;
    spikes += static_cast<double>(x.data()[i]);
  }
  const auto state = std::make_unique<typename L::State>();
  Index t = 0;
  for (auto _ : run) {
    benchmark::DoNotOptimize(layer.step(x.row(t), *state));
    t = t + 1 == 64 ? 0 : t + 1;
  }
  counts(run, spikes / 64 * 512);
}

constexpr DelayConfig ring{.d_in = 512, .d_out = 512, .longest = 24};

void lines(benchmark::State& run) {
  Random random(1);
  const auto layer = DelayedLinear<ring>::initialized(random);
  ring_step(run, DelayLines<ring>::from(synapses_of(layer)).value());
}
BENCHMARK(lines)->Name("spiking.io.delay_lines.step/512x512")->Arg(1)->Arg(5)->Arg(20);

void dense(benchmark::State& run) {
  Random random(1);
  ring_step(
      run,
      prepare(CausalConv1d<CausalConv1dConfig{.d_in = 512, .d_out = 512, .width = 25}>::initialized(
          random)));
}
BENCHMARK(dense)->Name("spiking.io.delay_conv.step/512x512")->Arg(5);

constexpr DelayedConv2dConfig motion{
    .image = {64, 64}, .d_in = 2, .d_out = 8, .kernel = {7, 7}, .longest = 15};

/// A frame in which `per_mille` of the pixels fire. Work: weights stamped.
void stamps(benchmark::State& run) {
  Random random(1);
  const auto layer =
      std::make_unique<DelayedConv2d<motion>>(DelayedConv2d<motion>::initialized(random));
  const double rate = static_cast<double>(run.range(0)) / 1000;
  Sequence<float, DelayedConv2d<motion>::in> x(16);
  double spikes = 0;
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = random.uniform() < rate ? 1.F : 0.F;
    spikes += static_cast<double>(x.data()[i]);
  }
  const auto state = std::make_unique<DelayedConv2d<motion>::State>();
  Index t = 0;
  for (auto _ : run) {
    benchmark::DoNotOptimize(layer->step(x.row(t), *state));
    t = t + 1 == 16 ? 0 : t + 1;
  }
  counts(run, spikes / 16 * 16 * 7 * 7 * 8);
}
BENCHMARK(stamps)->Name("spiking.io.delayed_conv.step/64x64x2x8x7x7x16")->Arg(1)->Arg(10)->Arg(50);

constexpr DclsConfig learned{.d_in = 128, .d_out = 128, .width = 25};

void dcls_forward(benchmark::State& run) {
  Random random(1);
  const auto layer = Dcls<learned>::initialized(random);
  Sequence<float, 128> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.uniform() < 0.1 ? 1.F : 0.F;
  for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
  counts(run, 2.0 * static_cast<double>(layer.macs(rows)));
}
BENCHMARK(dcls_forward)->Name("spiking.io.dcls.forward/100x128x128x25");

void dcls_backward(benchmark::State& run) {
  Random random(1);
  const auto layer = Dcls<learned>::initialized(random);
  const auto gradient = std::make_unique<Dcls<learned>>();
  Dcls<learned>::Cache cache;
  Sequence<float, 128> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.uniform() < 0.1 ? 1.F : 0.F;
  const auto y = forward(layer, std::move(x), cache);
  for (auto _ : run) benchmark::DoNotOptimize(backward(layer, y, cache, *gradient).data());
  counts(run, 4.0 * static_cast<double>(layer.macs(rows)));
}
BENCHMARK(dcls_backward)->Name("spiking.io.dcls.backward/100x128x128x25");

}  // namespace
