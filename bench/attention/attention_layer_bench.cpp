// Layers of attention, inference form: whole sequences, and a token against a full cache. Work:
// flops for whole sequences, bytes of the cache and the weights for a token, numbers for the gate
// alone.

#include <limen/attention/multi_head_attention.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

constexpr AttentionConfig layer(Gate gate, Index window = 0, bool bfloat16 = false) {
  return {.d_model = 768,
          .n_heads = 12,
          .n_kv_heads = 4,
          .d_head = 64,
          .capacity = window > 0 ? 0 : 4096,
          .window = window,
          .bfloat16 = bfloat16,
          .rope = {.base = 1e4},
          .qk_norm = QkNorm::rms,
          .gate = gate};
}

constexpr AttentionConfig plain = layer({});
constexpr AttentionConfig gated = layer({.position = GatePosition::G1});
constexpr AttentionConfig headwise = layer({.position = GatePosition::G1, .headwise = true});
constexpr AttentionConfig windowed = layer({.position = GatePosition::G1}, 256);
constexpr AttentionConfig halves = layer({.position = GatePosition::G1}, 0, true);

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

template <AttentionConfig C>
const auto& made() {
  static const auto layer = [] {
    Random random(1);
    return prepare(Attention<C>::initialized(random));
  }();
  return layer;
}

template <AttentionConfig C>
void add_forward(const std::string& form, Index rows, int threads = 1) {
  std::string name = "attention.layer.forward." + form + "/768x12:4x" + std::to_string(rows);
  if (threads > 1) name += "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    const auto& layer = made<C>();
    const auto x = noise<768>(rows);
    for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
    run.counters["work"] = 2 * static_cast<double>(Attention<C>::macs(rows));
    run.counters["threads"] = threads;
  })->UseRealTime();
}

/// One more token, again and again, behind `keys` others.
template <AttentionConfig C>
void add_step(const std::string& form, Index keys) {
  const std::string name = "attention.layer.step." + form + "/768x12:4x" + std::to_string(keys);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const auto& layer = made<C>();
    using L = Attention<C>;
    const auto state = std::make_unique<typename L::State>();
    layer.forward(noise<768>(keys), *state);
    const auto x = noise<768>(1);
    for (auto _ : run) {
      benchmark::DoNotOptimize(layer.step(x.row(0), *state));
      if constexpr (C.window == 0) state->truncate(1);
    }
    const double held = static_cast<double>(C.window > 0 ? std::min(C.window, keys) : keys);
    const double weights = static_cast<double>(L::macs(1) - 2 * L::H * L::d) * 4;
    run.counters["work"] =
        weights + held * static_cast<double>(2 * L::K * L::d) * sizeof(typename L::Stored);
    run.counters["threads"] = 1;
  });
}

/// Streams that decode together.
template <AttentionConfig C>
void add_streams(Index count, Index keys) {
  const std::string name =
      "attention.layer.streams." + std::to_string(count) + "/768x12:4x" + std::to_string(keys);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const auto& layer = made<C>();
    using State = typename Attention<C>::State;
    const auto n = static_cast<std::size_t>(count);
    const auto states = std::make_unique<State[]>(n);
    layer.forward(noise<768>(keys), states[0]);
    for (std::size_t b = 1; b < n; ++b) copy_used(states[0], states[b]);
    std::vector<Index> steps;
    for (Index b = 0; b <= count; ++b) steps.push_back(b);
    const auto x = noise<768>(count);
    for (auto _ : run) {
      benchmark::DoNotOptimize(
          layer.forward(x, Batch<State>(std::span<State>(states.get(), n), steps)).data());
      for (std::size_t b = 0; b < n; ++b) states[b].truncate(1);
    }
    run.counters["work"] = static_cast<double>(count);
    run.counters["threads"] = 1;
  });
}

template <Gate G>
void add_gate(const std::string& form, Index rows) {
  const std::string name = "attention.gate." + form + "/" + std::to_string(rows) + "x768";
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    auto y = noise<768>(rows);
    const auto z = noise<768>(rows), o = noise<768>(rows);
    for (auto _ : run) {
      head_gate<G>(z.data(), G.headwise ? 12 : 768, 12, o.matrix(), y.matrix());
      benchmark::ClobberMemory();
    }
    run.counters["work"] = static_cast<double>(y.size());
    run.counters["threads"] = 1;
  });
}

[[maybe_unused]] const bool registered = [] {
  for (const Index rows : {512, 2048}) {
    add_forward<plain>("plain", rows);
    add_forward<gated>("gated", rows);
    add_forward<headwise>("headwise", rows);
    add_forward<windowed>("window256", rows);
    add_forward<gated>("gated", rows, 2);
  }
  for (const Index keys : {256, 2048}) {
    add_step<plain>("plain", keys);
    add_step<gated>("gated", keys);
    add_step<halves>("bfloat16", keys);
    add_step<windowed>("window256", keys);
  }
  add_streams<gated>(16, 256);
  add_gate<Gate{.position = GatePosition::G1}>("elementwise", 512);
  add_gate<Gate{.position = GatePosition::G1, .headwise = true}>("headwise", 512);
  return true;
}();

}  // namespace
