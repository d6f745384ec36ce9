// Mamba and its scan. Work: exponentials for the scan (times channels, states and rows), flops for
// the block, bytes of weights and state for its step. Peers in the same process: the sketches of
// prototypes.hpp at the same task, and the exponentials alone (exp_bound).

#include <limen/ssm/mamba.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "../reading.hpp"
#include "prototypes.hpp"

namespace {

using namespace limen;

constexpr Index T = 512, E = 1536, N = 16;
constexpr float log2_e = 1.44269504f;

std::vector<float> noise(Index count, double mean = 0, double deviation = 1) {
  Random random(1);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = static_cast<float>(mean + deviation * random.normal());
  return x;
}

/// A block's scan: δ about 0.02 as in a new model, every channel and state with a rate of its own.
struct Problem {
  std::vector<float> x = noise(T * E), delta = noise(T * E, -4), z = noise(T * E), b = noise(T * N),
                     c = noise(T * N), d = noise(E), y = noise(T * E), h, a, first;

  explicit Problem(Index lanes = scan_block)
      : h(static_cast<std::size_t>(E * N)), a(h.size()), first(static_cast<std::size_t>(E)) {
    for (Index e = 0; e < E; ++e) {
      first[static_cast<std::size_t>(e)] = -log2_e;
      for (Index n = 0; n < N; ++n) {
        const Index at = (e / lanes * N + n) * lanes + e % lanes;
        a[static_cast<std::size_t>(at)] = -log2_e * static_cast<float>(n + 1);
      }
    }
  }

  SelectiveScan<float> scan(bool powers) const {
    return {N,
            powers ? first.data() : a.data(),
            powers,
            d.data(),
            {x.data(), T, E, E},
            {delta.data(), T, E, E},
            {z.data(), T, E, E},
            {b.data(), T, N, N},
            {c.data(), T, N, N}};
  }
};

void scan(benchmark::State& run, bool powers, int threads, bool silence = false) {
  const Threads allowed(threads);
  Problem p;
  if (silence) p.x.assign(p.x.size(), 0);
  for (auto _ : run) {
    const FlushDenormals guard;
    p.h.assign(p.h.size(), silence ? 1e-38f : 0.0f);
    selective_scan<float>(p.scan(powers), 1,
                          [&](Index) { return ScanSequence<float>{0, T, p.h.data(), nullptr}; },
                          {p.y.data(), T, E, E});
    benchmark::DoNotOptimize(p.y.data());
  }
  run.counters["work"] = static_cast<double>(T * E * N);
  run.counters["threads"] = threads;
}

void scan_backward(benchmark::State& run, int threads) {
  const Threads allowed(threads);
  Problem p;
  const auto forward = [&](Index) { return ScanSequence<float>{0, T, p.h.data(), nullptr}; };
  std::vector<float> kept(static_cast<std::size_t>(T / scan_chunk * E * N));
  std::vector<float> dout = noise(T * E), dz(dout.size()), d_delta(dout.size());
  std::vector<float> db(p.b.size()), dc(p.b.size()), da(p.a.size()), dd(p.d.size());
  const SelectiveScan<float> s = p.scan(false);
  selective_scan<float>(s, 1,
                        [&](Index i) {
                          auto q = forward(i);
                          q.kept = kept.data();
                          return q;
                        },
                        {p.y.data(), T, E, E});
  for (auto _ : run) {
    const FlushDenormals guard;
    selective_scan_backward<float>(
        s, {dout.data(), T, E, E}, 1,
        [&](Index) { return ScanSequence<float, const float>{0, T, nullptr, kept.data()}; },
        {da.data(),
         dd.data(),
         {dout.data(), T, E, E},  // as the block does: over what came in
         {d_delta.data(), T, E, E},
         {dz.data(), T, E, E},
         {db.data(), T, N, N},
         {dc.data(), T, N, N}});
    benchmark::DoNotOptimize(dout.data());
  }
  run.counters["work"] = static_cast<double>(T * E * N);
  run.counters["threads"] = threads;
}

template <bool Powers>
void prototype_scan(benchmark::State& run) {
  Problem p(prototype::lanes);
  for (auto _ : run) {
    const FlushDenormals guard;
    p.h.assign(p.h.size(), 0);
    prototype::scan<Powers>(
        {Powers ? p.first.data() : p.a.data(), p.d.data(), p.x.data(), p.delta.data(), p.z.data(),
         p.b.data(), p.c.data(), p.h.data(), p.y.data()},
        static_cast<int>(T), static_cast<int>(E));
    benchmark::DoNotOptimize(p.y.data());
  }
  run.counters["work"] = static_cast<double>(T * E * N);
}

/// As many 2^v as the scan needs, from the first-level cache to the first-level cache.
void exponentials(benchmark::State& run) {
  const auto v = noise(1024, -1);
  std::vector<float> w(v.size());
  for (auto _ : run) {
    for (Index i = 0; i < T * E * N; i += 1024) {
      simd::transform(v.data(), w.data(), 1024, [](const auto& x) { return math::exp2(x); });
      benchmark::DoNotOptimize(w.data());
      benchmark::ClobberMemory();
    }
  }
  run.counters["work"] = static_cast<double>(T * E * N);
}

template <Index D>
Sequence<float, D> rows(Index count) {
  Random random(1);
  Sequence<float, D> x(count);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

/// A model as it is after training: its rates are no powers of one.
template <class L>
L trained() {
  Random random(1);
  L layer = L::initialized(random);
  for (float& a : layer.A_log.flat()) a += static_cast<float>(0.1 * random.normal());
  return layer;
}

template <class L>
double flops() {
  return 2.0 * (L::D * 2 * L::E + L::E * L::P + L::R * L::E + L::E * L::D);
}

void prefill(benchmark::State& run, int threads) {
  const Threads allowed(threads);
  using L = Mamba<MambaConfig{.d_model = 768}>;
  const auto layer = prepare(trained<L>());
  const auto x = rows<768>(T);
  for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
  run.counters["work"] = flops<L>() * static_cast<double>(T);
  run.counters["threads"] = threads;
}

void step(benchmark::State& run) {
  using L = Mamba<MambaConfig{.d_model = 768}>;
  const auto layer = prepare(trained<L>());
  const auto x = rows<768>(1);
  const auto state = std::make_unique<L::State>();
  for (auto _ : run) benchmark::DoNotOptimize(layer.step(x.row(0), *state));
  run.counters["work"] = 2 * flops<L>() + 4.0 * (3 * L::E * N + 8 * L::E);
}

/// Reading as many bytes as a step must.
void read_weights(benchmark::State& run) {
  using L = Mamba<MambaConfig{.d_model = 768}>;
  const Index count = static_cast<Index>(flops<L>() / 2) + 3 * L::E * N + 8 * L::E;
  const auto w = noise(count);
  for (auto _ : run) read_all(w.data(), count);
  run.counters["work"] = 4.0 * static_cast<double>(count);
}

/// Forward and backward of 8 sequences of 256 rows.
void training(benchmark::State& run, int threads) {
  const Threads allowed(threads);
  using L = Mamba<MambaConfig{.d_model = 256}>;
  const auto layer = trained<L>();
  std::vector<Index> offsets;
  for (Index b = 0; b <= 8; ++b) offsets.push_back(256 * b);
  const auto x = rows<256>(offsets.back()), dy = rows<256>(offsets.back());
  L gradient;
  L::Cache cache;
  for (auto _ : run) {
    layer.forward(Sequence<float, 256>(x), from_rest(offsets), cache);
    benchmark::DoNotOptimize(layer.backward(dy, from_rest(offsets), cache, gradient).data());
  }
  run.counters["work"] = 3 * flops<L>() * static_cast<double>(offsets.back());
  run.counters["threads"] = threads;
}

[[maybe_unused]] const bool registered = [] {
  const auto add = [](const std::string& name, auto f) {
    benchmark::RegisterBenchmark(name.c_str(), f)->UseRealTime();
  };
  const std::string size = "/1536x16x512";
  for (const int threads : {1, 2}) {
    const std::string suffix = threads == 1 ? "" : "/threads:2";
    add("mamba1.scan.forward" + size + suffix, [=](auto& s) { scan(s, false, threads); });
    add("mamba1.scan.powers" + size + suffix, [=](auto& s) { scan(s, true, threads); });
    add("mamba1.scan.backward" + size + suffix, [=](auto& s) { scan_backward(s, threads); });
    add("mamba1.block.prefill/768x512" + suffix, [=](auto& s) { prefill(s, threads); });
    add("mamba1.block.training/256x256x8" + suffix, [=](auto& s) { training(s, threads); });
  }
  add("mamba1.scan.denormals" + size, [](auto& s) { scan(s, false, 1, true); });
  add("mamba1.block.step/768", [](auto& s) { step(s); });
  add("peer:prototype:mamba1.scan.forward" + size, [](auto& s) { prototype_scan<false>(s); });
  add("peer:prototype:mamba1.scan.powers" + size, [](auto& s) { prototype_scan<true>(s); });
  add("peer:exp_bound:mamba1.scan.forward" + size, [](auto& s) { exponentials(s); });
  add("peer:read:mamba1.block.step/768", [](auto& s) { read_weights(s); });
  return true;
}();

}  // namespace
