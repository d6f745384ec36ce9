// The matrix-state scan of Mamba-2 beside our first prototype. Work: flops of the recurrence
// (decay, write, read: 6 H N P for each row, 2.5 times more on the way back).

#include <limen/kernel/ssd.hpp>

#include <limen/core/random.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "ssd_prototype.hpp"

namespace {

using namespace limen;

constexpr Index H = 24, P = 64, N = 128;

/// A state of a size that only we know.
struct State {
  float values[H * N * P];
  float* data() { return values; }
};

struct Operands {
  explicit Operands(Index rows, double decay = 0.05)
      : T(rows), q(T * N), k(T * N), v(T * H * P), a(T * H), log_a(T * H), d(T * H), y(T * H * P) {
    Random random(1);
    const auto fill = [&](Buffer<float>& x, double scale) {
      for (float& value : x) value = static_cast<float>(scale * random.normal());
    };
    fill(q, 1);
    fill(k, 1);
    fill(v, 1);
    for (Index i = 0; i < T * H; ++i) {
      log_a[i] = static_cast<float>(-decay * random.uniform(0.5, 1.5));
      a[i] = std::exp(log_a[i]);
      d[i] = 1;
    }
  }
  StateInputs<float> inputs() {
    return {H,
            1,
            N,
            P,
            {q.data(), T, N, N},
            {k.data(), T, N, N},
            {v.data(), T, H * P, H * P},
            {a.data(), T, H, H},
            {d.data(), T, H, H}};
  }
  MatrixView<float> out() { return {y.data(), T, H * P, H * P}; }

  Index T;
  Buffer<float> q, k, v, a, log_a, d, y;
};

std::string size(Index T) { return "/24x64x128x" + std::to_string(T); }

void work(benchmark::State& run, Index T, double times, int threads = 1) {
  run.counters["work"] = times * 6.0 * H * N * P * static_cast<double>(T);
  run.counters["threads"] = threads;
}

void register_all() {
  for (const Index T : {512, 4096}) {
    for (const int threads : {1, 2}) {
      const std::string suffix = size(T) + (threads > 1 ? "/threads:2" : "");
      benchmark::RegisterBenchmark(("mamba2.ssd.forward" + suffix).c_str(),
                                   [T, threads](benchmark::State& run) {
                                     const Threads allowed(threads);
                                     Operands o(T);
                                     const auto state = std::make_unique<State>();
                                     for (auto _ : run) {
                                       ssd(o.inputs(), Batch<State>(*state), o.out());
                                       benchmark::DoNotOptimize(o.y.data());
                                     }
                                     work(run, T, 1, threads);
                                   })
          ->UseRealTime();
      benchmark::RegisterBenchmark(
          ("mamba2.ssd.backward" + suffix).c_str(),
          [T, threads](benchmark::State& run) {
            const Threads allowed(threads);
            Operands o(T);
            const auto state = std::make_unique<State>();
            KeptStates<float> kept;
            ssd(o.inputs(), Batch<State>(*state), o.out(), &kept);
            Buffer<float> dq(T * N), dk(T * N), dv(T * H * P), da(T * H), dd(T * H);
            for (auto _ : run) {
              ssd_backward<float>(o.inputs(), Batch<State>(*state), kept, o.out(),
                                  {{dq.data(), T, N, N},
                                   {dk.data(), T, N, N},
                                   {dv.data(), T, H * P, H * P},
                                   {da.data(), T, H, H},
                                   {dd.data(), T, H, H}});
              benchmark::DoNotOptimize(dv.data());
            }
            work(run, T, 2.5, threads);
          })
          ->UseRealTime();
    }
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    benchmark::RegisterBenchmark(
        ("peer:prototype:mamba2.ssd.forward" + size(T)).c_str(), [T](benchmark::State& run) {
          const FlushDenormals guard;
          Operands o(T);
          const auto state = std::make_unique<State>();
          constexpr int Q = 32;
          Buffer<float> scratch(2 * Q * Q + 32 * Q + Q * N + Q * P + 2 * Q + 64);
          for (auto _ : run) {
            ssd_prototype::chunked(static_cast<int>(T), Q, H, N, o.v.data(), o.log_a.data(),
                                   o.k.data(), o.q.data(), state->values, o.y.data(),
                                   scratch.data());
            benchmark::DoNotOptimize(o.y.data());
          }
          work(run, T, 1);
        });
#endif
  }
  for (const Index T : {1, 2, 4, 8, 16, 32}) {
    benchmark::RegisterBenchmark(("mamba2.ssd.few" + size(T)).c_str(), [T](benchmark::State& run) {
      const FlushDenormals guard;
      Operands o(T);
      const auto state = std::make_unique<State>();
      for (auto _ : run) ssd(o.inputs(), Batch<State>(*state), o.out());
      work(run, T, 1);
    });
  }
  benchmark::RegisterBenchmark("mamba2.ssd.step/24x64x128", [](benchmark::State& run) {
    const FlushDenormals guard;
    Operands o(1);
    const auto state = std::make_unique<State>();
    for (auto _ : run) {
      ssd_step(o.inputs(), state->values, o.y.data());
      benchmark::DoNotOptimize(o.y.data());
    }
    work(run, 1, 1);
  });
  // The state has decayed to numbers that processors handle slowly unless they are flushed.
  for (const bool tiny : {false, true}) {
    benchmark::RegisterBenchmark(
        (std::string("mamba2.ssd.forward.") + (tiny ? "silent" : "loud") + size(512)).c_str(),
        [tiny](benchmark::State& run) {
          const FlushDenormals guard;
          Operands o(512, 1e-4);
          if (tiny) std::fill(o.v.begin(), o.v.end(), 0.0f);
          const auto state = std::make_unique<State>();
          for (auto _ : run) {
            std::fill(state->values, state->values + H * N * P, tiny ? 3e-39f : 1.0f);
            ssd(o.inputs(), Batch<State>(*state), o.out());
          }
          work(run, 512, 1);
        });
  }
}

const int registered = (register_all(), 0);

}  // namespace
