// One sample in, one out, of models small enough for a real-time loop; the same models by hand
// beside them. A call is 256 samples, so that the clock costs nothing; counters give ns for each.

#include <limen/compose/sequential.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/gru.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/lstm.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "prototypes.hpp"

namespace {

using namespace limen;

constexpr Index samples = 256;

/// The time of each call, in ns for a sample: a loop in real time dies of the slow ones.
class Percentiles {
 public:
  Percentiles() { times_.reserve(1 << 20); }
  template <class F>
  void time(F&& f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double, std::nano> ns = std::chrono::steady_clock::now() - start;
    if (times_.size() < times_.capacity()) times_.push_back(ns.count() / double{samples});
  }
  void report(benchmark::State& run) {
    std::sort(times_.begin(), times_.end());
    const auto at = [&](double share) {
      return times_[static_cast<std::size_t>(share * static_cast<double>(times_.size() - 1))];
    };
    run.counters["p50"] = at(0.5);
    run.counters["p99"] = at(0.99);
    run.counters["p999"] = at(0.999);
  }

 private:
  std::vector<double> times_;
};

/// y_t = step(x_t) for all samples, again and again; `flops` is the work of one.
template <class Step>
void stream(benchmark::State& run, double flops, Step step) {
  alignas(64) float x[samples], y[samples];
  Random random(3);
  for (float& v : x) v = static_cast<float>(random.uniform(-1, 1));
  Percentiles times;
  const auto call = [&]() __attribute__((noinline)) {
    for (Index i = 0; i < samples; ++i) y[i] = step(x[i]);
    benchmark::DoNotOptimize(y);
    benchmark::ClobberMemory();
  };
  call();
  for (auto _ : run) times.time(call);
  times.report(run);
  run.counters["work"] = flops * double{samples};
  run.counters["threads"] = 1;
}

template <class Model>
void ours(benchmark::State& run, double flops) {
  Random random(1);
  const auto model = prepare(Model::initialized(random));
  typename Model::State state{};
  const FlushDenormals guard;  // as the host of a stream would
  stream(run, flops, [&](float x) __attribute__((always_inline)) {
    return model.step(Vector<float, 1>{x}, state)[0];
  });
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
template <class Model>
void by_hand(benchmark::State& run, double flops) {
  const auto model = std::make_unique<Model>();
  const FlushDenormals guard;
  stream(run, flops, [&](float x) __attribute__((always_inline)) { return model->step(x); });
}
#endif

template <Index H>
struct Models {
  static constexpr GruConfig gru{.d_in = 1, .d_hidden = H};
  static constexpr LstmConfig lstm{.d_in = 1, .d_hidden = H};
  static constexpr LinearConfig head{.d_in = H, .d_out = 1}, first{.d_in = 1, .d_out = H},
      middle{.d_in = H, .d_out = H};
  static constexpr ActivateConfig tanh{.d = H, .activation = Activation::tanh};
  using OfGru = Sequential<Gru<gru>, Linear<head>>;
  using OfLstm = Sequential<Lstm<lstm>, Linear<head>>;
  using Mlp =
      Sequential<Linear<first>, Activate<tanh>, Linear<middle>, Activate<tanh>, Linear<head>>;
};

template <Index H>
void add() {
  const std::string size = std::to_string(H);
  const auto both = [&](const std::string& name, double flops, auto ours,
                        [[maybe_unused]] auto peer) {
    benchmark::RegisterBenchmark((name + "/" + size).c_str(),
                                 [=](benchmark::State& run) { ours(run, flops); });
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (H <= 32) {
      benchmark::RegisterBenchmark(("peer:prototype:" + name + "/" + size).c_str(),
                                   [=](benchmark::State& run) { peer(run, flops); });
    }
#endif
  };
  constexpr double h = double{H};
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  constexpr int hand = H <= 32 ? int{H} : 32;
  both("gru.step", 6 * h * (h + 1) + 2 * h, ours<typename Models<H>::OfGru>,
       by_hand<prototypes::Gru<hand>>);
  both("lstm.step", 8 * h * (h + 1) + 2 * h, ours<typename Models<H>::OfLstm>,
       by_hand<prototypes::Lstm<hand>>);
  both("mlp.step", 2 * h * (h + 2), ours<typename Models<H>::Mlp>, by_hand<prototypes::Mlp<hand>>);
#else
  both("gru.step", 6 * h * (h + 1) + 2 * h, ours<typename Models<H>::OfGru>, 0);
  both("lstm.step", 8 * h * (h + 1) + 2 * h, ours<typename Models<H>::OfLstm>, 0);
  both("mlp.step", 2 * h * (h + 2), ours<typename Models<H>::Mlp>, 0);
#endif
}

[[maybe_unused]] const bool registered = [] {
  add<8>();
  add<16>();
  add<32>();
  add<64>();
  return true;
}();

}  // namespace
