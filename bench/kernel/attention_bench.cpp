// Softmax attention of one sequence, H heads of d. Work: flops of the products over the keys that
// are seen; for decoding, the bytes of the cache.

#include <limen/core/random.hpp>
#include <limen/kernel/attention.hpp>
#include <limen/kernel/attention_backward.hpp>
#include <limen/kernel/attention_decode.hpp>

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../reading.hpp"

namespace {

using namespace limen;

struct Inputs {
  Index heads, key_heads, d, rows;
  std::vector<float> q, k, v, y, lse;

  Inputs(Index H, Index Hk, Index D, Index T)
      : heads(H),
        key_heads(Hk),
        d(D),
        rows(T),
        q(numbers(T * H * D)),
        k(numbers(T * Hk * D)),
        v(numbers(T * Hk * D)),
        y(static_cast<std::size_t>(T * H * D)),
        lse(static_cast<std::size_t>(T * H)) {}

  AttentionCall<float> call() {
    AttentionCall<float> c;
    c.q = {q.data(), rows, heads * d, heads * d};
    c.k = {k.data(), rows, key_heads * d, key_heads * d};
    c.v = {v.data(), rows, key_heads * d, key_heads * d};
    c.y = {y.data(), rows, heads * d, heads * d};
    c.lse = lse.data();
    return c;
  }

  static std::vector<float> numbers(Index n) {
    static Random random(1);
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& value : x) value = static_cast<float>(random.normal());
    return x;
  }
};

double seen(Index T, bool causal, Index window) {
  double pairs = 0;
  for (Index i = 0; i < T; ++i) {
    const Index all = causal ? i + 1 : T;
    pairs += static_cast<double>(window > 0 && window < all ? window : all);
  }
  return pairs;
}

void add_forward(Index H, Index D, Index T, bool causal, Index window, int threads) {
  std::string name = "attention.forward/" + std::to_string(H) + "x" + std::to_string(D) + "x" +
                     std::to_string(T) + (causal ? ".causal" : ".full");
  if (window > 0) name += ".window" + std::to_string(window);
  if (threads > 1) name += "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    const Threads allowed(threads);
    Inputs inputs(H, H, D, T);
    const auto call = inputs.call();
    AttentionRule<float> rule;
    rule.query_heads = rule.key_heads = H;
    rule.causal = causal;
    rule.window = window;
    for (auto _ : state) {
      attention<float>(rule, std::span(&call, 1));
      benchmark::ClobberMemory();
    }
    state.counters["work"] = 4.0 * static_cast<double>(H * D) * seen(T, causal, window);
    state.counters["threads"] = threads;
  })->UseRealTime();
}

void add_backward(Index H, Index D, Index T, bool causal, int threads) {
  std::string name = "attention.backward/" + std::to_string(H) + "x" + std::to_string(D) + "x" +
                     std::to_string(T) + (causal ? ".causal" : ".full");
  if (threads > 1) name += "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    const Threads allowed(threads);
    Inputs inputs(H, H, D, T);
    AttentionRule<float> rule;
    rule.query_heads = rule.key_heads = H;
    rule.causal = causal;
    AttentionGradient<float> g;
    g.call = inputs.call();
    attention<float>(rule, std::span(&g.call, 1));
    const auto dy = Inputs::numbers(T * H * D);
    auto dq = dy, dk = dy, dv = dy;
    const auto view = [&](std::vector<float>& x) {
      return MatrixView<float>{x.data(), T, H * D, H * D};
    };
    g.dy = {dy.data(), T, H * D, H * D};
    g.dq = view(dq);
    g.dk = view(dk);
    g.dv = view(dv);
    for (auto _ : state) {
      attention_backward<float>(rule, std::span(&g, 1));
      benchmark::ClobberMemory();
    }
    state.counters["work"] = 10.0 * static_cast<double>(H * D) * seen(T, causal, 0);
    state.counters["threads"] = threads;
  })->UseRealTime();
}

/// One query of H heads against a cache of Hk; beside it, reading as many bytes.
template <class Stored>
void add_decode(Index H, Index Hk, Index D, Index T, int threads) {
  std::string name = "attention.decode/" + std::to_string(H) + ":" + std::to_string(Hk) + "x" +
                     std::to_string(D) + "x" + std::to_string(T);
  if (sizeof(Stored) == 2) name += ".bfloat16";
  if (threads > 1) name += "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    const Threads allowed(threads);
    std::vector<Stored> k, v;
    for (const float x : Inputs::numbers(T * Hk * D)) {
      k.push_back(Stored(x));
      v.push_back(Stored(-x));
    }
    const auto q = Inputs::numbers(H * D);
    auto y = q;
    AttentionRule<float> rule;
    rule.query_heads = H;
    rule.key_heads = Hk;
    AttentionCall<float> call;
    call.q = {q.data(), 1, H * D, H * D};
    call.y = {y.data(), 1, H * D, H * D};
    std::vector<float> room(
        static_cast<std::size_t>(attention_decode_room<float>(1, H, Hk, T, D, D)));
    const CacheView<Stored> cache{k.data(), v.data(), T, D, D, T * D, T * D};
    for (auto _ : state) {
      attention_decode(rule, call, cache, room.data());
      benchmark::ClobberMemory();
    }
    state.counters["work"] = 2.0 * static_cast<double>(T * Hk * D) * sizeof(Stored);
    state.counters["threads"] = threads;
  })->UseRealTime();
  benchmark::RegisterBenchmark(("peer:read:" + name).c_str(), [=](benchmark::State& state) {
    const Threads allowed(threads);
    const auto cache =
        Inputs::numbers(2 * T * Hk * D * static_cast<Index>(sizeof(Stored)) / Index{sizeof(float)});
    for (auto _ : state) read_shared(cache.data(), static_cast<Index>(cache.size()));
    state.counters["work"] = static_cast<double>(cache.size() * sizeof(float));
    state.counters["threads"] = threads;
  })->UseRealTime();
}

[[maybe_unused]] const bool registered = [] {
  for (const Index T : {512, 2048, 8192}) {
    for (const bool causal : {false, true}) {
      for (const int threads : {1, 2}) add_forward(12, 64, T, causal, 0, threads);
    }
  }
  for (const Index T : {512, 2048}) {
    for (const bool causal : {false, true}) {
      for (const int threads : {1, 2}) add_backward(12, 64, T, causal, threads);
    }
  }
  for (const Index T : {2048, 8192}) add_forward(12, 64, T, true, 256, 1);
  for (const Index T : {2048, 32768}) {
    for (const int threads : {1, 2}) {
      add_decode<float>(16, 4, 64, T, threads);
      add_decode<bfloat16>(16, 4, 64, T, threads);
    }
  }
  return true;
}();

}  // namespace
