// Softmax of rows, beside the same three passes made of xsimd's own functions.

#include <limen/kernel/softmax.hpp>

#include <benchmark/benchmark.h>

#include <limen/core/memory.hpp>
#include <limen/core/random.hpp>
#include <string>

namespace {

using limen::Index;
using Peer = xsimd::batch<float>;
constexpr Index width = static_cast<Index>(Peer::size);

void softmax_of_xsimd(const float* x, float* p, Index n) {  // n is a multiple of the vector width
  Peer most(x[0]);
  for (Index i = 0; i < n; i += width) most = xsimd::max(most, Peer::load_unaligned(x + i));
  const Peer m(limen::simd::reduce_max(most));
  Peer sum(0.0f);
  for (Index i = 0; i < n; i += width) {
    const Peer e = xsimd::exp(Peer::load_unaligned(x + i) - m);
    e.store_unaligned(p + i);
    sum += e;
  }
  const Peer scale(1 / limen::simd::reduce_add(sum));
  for (Index i = 0; i < n; i += width) {
    (Peer::load_unaligned(p + i) * scale).store_unaligned(p + i);
  }
}

template <class F>
void run(benchmark::State& state, Index n, F f) {
  const Index rows = 64;
  limen::Random random(1);
  limen::Buffer<float> x(rows * n), p(rows * n);
  for (Index i = 0; i < rows * n; ++i) x.data()[i] = static_cast<float>(2 * random.normal());
  for (auto _ : state) {
    for (Index t = 0; t < rows; ++t) f(x.data() + t * n, p.data() + t * n, n);
    benchmark::DoNotOptimize(p.data());
    benchmark::ClobberMemory();
  }
  state.counters["work"] = static_cast<double>(2 * sizeof(float)) * static_cast<double>(rows * n);
  state.counters["threads"] = 1;
}

[[maybe_unused]] const bool registered = [] {
  for (const Index n : {16, 64, 512, 4096}) {
    const std::string name = "softmax.row/" + std::to_string(n);
    benchmark::RegisterBenchmark(name.c_str(), [n](benchmark::State& state) {
      run(state, n, [](const float* x, float* p, Index k) { limen::softmax_row(x, p, k); });
    });
    benchmark::RegisterBenchmark(("peer:xsimd:" + name).c_str(),
                                 [n](benchmark::State& state) { run(state, n, softmax_of_xsimd); });
  }
  return true;
}();

}  // namespace
