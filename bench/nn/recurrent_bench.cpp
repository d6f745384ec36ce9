// Whole sequences and ragged batches through GRU and LSTM, training, and single steps.
// Names end in H x T x B: as many inputs as units, T steps, B sequences.

#include <limen/nn/gru.hpp>
#include <limen/nn/lstm.hpp>

#include <benchmark/benchmark.h>

#include <limits>
#include <string>
#include <vector>

namespace {

using namespace limen;

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

std::vector<Index> equal_lengths(Index T, Index B) {
  std::vector<Index> offsets(1, 0);
  for (Index b = 0; b < B; ++b) offsets.push_back(offsets.back() + T);
  return offsets;
}

/// Flops of the products of G gates for so many rows.
template <class L>
double flops(Index gates, Index rows) {
  return 2.0 * static_cast<double>(gates * L::out * (L::in + L::out)) * static_cast<double>(rows);
}

void report(benchmark::State& run, double work, int threads) {
  run.counters["work"] = work;
  run.counters["threads"] = threads;
}

template <class L>
void forwards(benchmark::State& run, Index gates, Index T, Index B, int threads) {
  Random random(1);
  const auto layer = prepare(L::initialized(random));
  const auto x = noise<L::in>(T * B);
  const auto offsets = equal_lengths(T, B);
  const Threads scope(threads);
  for (auto _ : run) benchmark::DoNotOptimize(layer.forward(x, from_rest(offsets)).data());
  report(run, flops<L>(gates, T * B), threads);
}

template <class L>
void trains(benchmark::State& run, Index gates, Index T, Index B, int threads) {
  Random random(1);
  const auto layer = L::initialized(random);
  const auto x = noise<L::in>(T * B);
  const auto dy = noise<L::out>(T * B);
  const auto offsets = equal_lengths(T, B);
  L gradient;
  typename L::Cache cache;
  const Threads scope(threads);
  for (auto _ : run) {
    benchmark::DoNotOptimize(
        layer.forward(Sequence<float, L::in>(x), from_rest(offsets), cache).data());
    benchmark::DoNotOptimize(layer.backward(dy, from_rest(offsets), cache, gradient).data());
  }
  report(run, 3 * flops<L>(gates, T * B), threads);
}

template <class L>
void steps(benchmark::State& run, Index gates) {
  Random random(1);
  const auto layer = prepare(L::initialized(random));
  const auto x = noise<L::in>(64);
  typename L::State state{};
  Index t = 0;
  for (auto _ : run) benchmark::DoNotOptimize(layer.step(x.row(t++ % 64), state).data());
  report(run, flops<L>(gates, 1), 1);
}

/// Silence after sound: the state decays into numbers too small to be normal.
void denormals(benchmark::State& run, bool silent) {
  constexpr GruConfig c{.d_in = 32, .d_hidden = 32};
  Gru<c> layer;
  for (Index j = 0; j < 32; ++j) layer.bias_ih[32 + j] = 0.1f;  // h halves with each step
  const auto ready = prepare(layer);
  GruState<float, 32> state{};
  const auto x = Sequence<float, 32>::zeros(64);
  for (auto _ : run) {
    for (Index j = 0; j < 32; ++j) {
      state.h[j] = silent ? 4 * std::numeric_limits<float>::min() : 0.5f;
    }
    benchmark::DoNotOptimize(ready.forward(x, state).data());
  }
  report(run, flops<Gru<c>>(3, 64), 1);
}

template <Index H>
void add() {
  constexpr GruConfig gru{.d_in = H, .d_hidden = H};
  constexpr LstmConfig lstm{.d_in = H, .d_hidden = H};
  using OfGru = Gru<gru>;
  using OfLstm = Lstm<lstm>;
  const auto register_one = [](const std::string& name, auto f) {
    benchmark::RegisterBenchmark(name.c_str(), f)->UseRealTime();
  };
  const auto kinds = [&](const std::string& what, const std::string& size, auto of_gru,
                         auto of_lstm) {
    register_one("gru." + what + "/" + size, of_gru);
    register_one("lstm." + what + "/" + size, of_lstm);
  };
  const std::string h = std::to_string(H);
  for (const Index T : {64, 512}) {
    for (const Index B : {1, 16}) {
      if (H == 512 && T == 512 && B == 16) continue;  // half a second
      const std::string size = h + "x" + std::to_string(T) + "x" + std::to_string(B);
      for (const int threads : {1, 2}) {
        if (threads == 2 && H < 256 && B == 1) continue;
        const std::string suffix = threads == 2 ? "/threads:2" : "";
        kinds(
            "forward", size + suffix,
            [=](benchmark::State& run) { forwards<OfGru>(run, 3, T, B, threads); },
            [=](benchmark::State& run) { forwards<OfLstm>(run, 4, T, B, threads); });
        if (T != 64) continue;
        kinds(
            "training", size + suffix,
            [=](benchmark::State& run) { trains<OfGru>(run, 3, T, B, threads); },
            [=](benchmark::State& run) { trains<OfLstm>(run, 4, T, B, threads); });
      }
    }
  }
  kinds(
      "unit_step", h, [](benchmark::State& run) { steps<OfGru>(run, 3); },
      [](benchmark::State& run) { steps<OfLstm>(run, 4); });
}

[[maybe_unused]] const bool registered = [] {
  add<64>();
  add<128>();
  add<256>();
  add<512>();
  // Many short sequences: the digits, 1797 of 8 rows of 8 pixels.
  constexpr GruConfig digits{.d_in = 8, .d_hidden = 32};
  using Digits = Gru<digits>;
  for (const int threads : {1, 2}) {
    const std::string suffix = threads == 2 ? "/threads:2" : "";
    benchmark::RegisterBenchmark(
        ("gru.digits/32x8x1797" + suffix).c_str(),
        [=](benchmark::State& run) { trains<Digits>(run, 3, 8, 1797, threads); })
        ->UseRealTime();
  }
  benchmark::RegisterBenchmark("gru.denormals/sound",
                               [](benchmark::State& run) { denormals(run, false); });
  benchmark::RegisterBenchmark("gru.denormals/silence",
                               [](benchmark::State& run) { denormals(run, true); });
  return true;
}();

}  // namespace
