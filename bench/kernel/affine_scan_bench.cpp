// The affine scan, coefficients in memory. Work: bytes read and written once; beside it, the time
// in which the same memory is only read.

#include <limen/core/random.hpp>
#include <limen/kernel/affine_scan.hpp>

#include <benchmark/benchmark.h>

#include <string>

#include "../reading.hpp"

namespace {

using namespace limen;

Buffer<float> noise(Index size, double low, double high) {
  Random random(1);
  Buffer<float> x(size);
  for (float& v : x) v = static_cast<float>(random.uniform(low, high));
  return x;
}

void add(const std::string& name, Index arrays, Index T, Index C, int threads, auto run) {
  const std::string suffix = threads > 1 ? "/threads:" + std::to_string(threads) : "";
  benchmark::RegisterBenchmark(
      (name + "/" + std::to_string(T) + "x" + std::to_string(C) + suffix).c_str(),
      [=](benchmark::State& state) {
        const Threads allowed(threads);
        run(state, T, C);
        state.counters["work"] = static_cast<double>(arrays * T * C) * sizeof(float);
        state.counters["threads"] = threads;
      })
      ->UseRealTime();
}

void forwards(benchmark::State& state, Index T, Index C) {
  auto a = noise(T * C, 0, 1), b = noise(T * C, -1, 1), h = noise(T * C, 0, 1);
  for (auto _ : state) {
    affine_scan<float>({a.data(), T, C, C}, {b.data(), T, C, C}, {h.data(), T, C, C});
    benchmark::DoNotOptimize(h.data());
  }
}

void backwards(benchmark::State& state, Index T, Index C) {
  auto a = noise(T * C, 0, 1), h = noise(T * C, -1, 1), dh = noise(T * C, -1, 1);
  auto da = noise(T * C, 0, 1), db = noise(T * C, 0, 1);
  for (auto _ : state) {
    affine_scan_backward<float>({a.data(), T, C, C}, {h.data(), T, C, C}, nullptr,
                                {dh.data(), T, C, C}, {da.data(), T, C, C}, {db.data(), T, C, C});
    benchmark::DoNotOptimize(db.data());
  }
}

/// So many bytes read, nothing else.
template <Index Arrays>
void reads(benchmark::State& state, Index T, Index C) {
  const auto x = noise(Arrays * T * C, -1, 1);
  for (auto _ : state) read_all(x.data(), x.size());
}

[[maybe_unused]] const bool registered = [] {
  for (const auto& [T, C] :
       {std::pair<Index, Index>{64, 256}, {512, 256}, {512, 1024}, {4096, 2048}}) {
    for (const int threads : {1, 2}) {
      if (threads == 2 && T * C < (1 << 19)) continue;
      add("affine_scan.forward", 3, T, C, threads, forwards);
      add("affine_scan.backward", 5, T, C, threads, backwards);
    }
    add("peer:read:affine_scan.forward", 3, T, C, 1, reads<3>);
    add("peer:read:affine_scan.backward", 5, T, C, 1, reads<5>);
  }
  return true;
}();

}  // namespace
