// exp, sigmoid, SiLU, tanh and softplus of arrays, beside the same made of xsimd's own functions.

#include <limen/kernel/activation.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <limen/core/memory.hpp>
#include <limen/core/random.hpp>
#include <string>

namespace {

using limen::Index;
using Peer = xsimd::batch<float>;

/// Pre-activations as they come: mostly within a few units of 0.
limen::Buffer<float> inputs(Index n) {
  limen::Random random(1);
  limen::Buffer<float> x(n);
  for (Index i = 0; i < n; ++i) x.data()[i] = static_cast<float>(4 * random.normal());
  return x;
}

template <class F>
void run(benchmark::State& state, Index n, F f) {
  const limen::Buffer<float> x = inputs(n);
  limen::Buffer<float> y(n);
  for (auto _ : state) {
    f(x.data(), y.data(), n);
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  state.counters["work"] = static_cast<double>(2 * sizeof(float)) * static_cast<double>(n);
  state.counters["threads"] = 1;
}

template <class Ours, class Theirs>
void pair(const std::string& name, Ours ours, Theirs theirs) {
  for (const Index n : {1000, 10000, 100000, 1000000}) {
    const std::string full = name + "/" + std::to_string(n);
    benchmark::RegisterBenchmark(full.c_str(),
                                 [=](benchmark::State& state) { run(state, n, ours); });
    benchmark::RegisterBenchmark(("peer:xsimd:" + full).c_str(), [=](benchmark::State& state) {
      run(state, n, [&](const float* x, float* y, Index count) {
        for (Index i = 0; i < count; i += Index(Peer::size)) {
          const bool whole = i + Index(Peer::size) <= count;  // one call, or it is not inlined
          float rest[Peer::size] = {};
          if (!whole) std::copy(x + i, x + count, rest);
          const Peer v = theirs(Peer::load_unaligned(whole ? x + i : rest));
          v.store_unaligned(whole ? y + i : rest);
          if (!whole) std::copy(rest, rest + (count - i), y + i);
        }
      });
    });
  }
}

auto ours(limen::Activation a) {
  return [a](const float* x, float* y, Index n) { limen::activate(a, x, y, n); };
}

[[maybe_unused]] const bool registered = [] {
  using limen::Activation;
  pair(
      "math.exp",
      [](const float* x, float* y, Index n) {
        limen::simd::transform(x, y, n, [](auto v) { return limen::math::exp(v); });
      },
      [](Peer v) { return xsimd::exp(v); });
  pair("math.sigmoid", ours(Activation::sigmoid),
       [](Peer v) { return Peer(1) / (Peer(1) + xsimd::exp(-v)); });
  pair("math.silu", ours(Activation::silu),
       [](Peer v) { return v * (Peer(1) / (Peer(1) + xsimd::exp(-v))); });
  pair("math.tanh", ours(Activation::tanh), [](Peer v) { return xsimd::tanh(v); });
  pair("math.softplus", ours(Activation::softplus),
       [](Peer v) { return xsimd::log1p(xsimd::exp(v)); });
  return true;
}();

}  // namespace
