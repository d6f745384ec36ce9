// Mixtures of gated experts, d 512, hidden 1024 each, beside one gated layer with the hidden width
// of all that a row passes: the same active work. Work: flops of the experts.

#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

constexpr Index D = 512, H = 1024;

template <Index E, Index K>
using Mixture = MixtureOfExperts<
    TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = E, .top_k = K, .normalise = true}>,
    GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = H}>>;
template <Index K>
using Dense = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = K* H}>;

Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

template <class L>
void register_forward(const std::string& name, Index rows, double flops, int threads = 1) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    const auto x = noise(rows);
    for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
    run.counters["work"] = flops;
    run.counters["threads"] = threads;
  })->UseRealTime();
}

template <class L>
void register_step(const std::string& name, double flops) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    const auto x = noise(1);
    typename L::State state;
    for (auto _ : run) benchmark::DoNotOptimize(layer.step(x.row(0), state));
    run.counters["work"] = flops;
  });
}

template <class L>
void register_training(const std::string& name, Index rows, double flops) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto layer = std::make_unique<L>(L::initialized(random));
    const auto gradient = std::make_unique<L>();
    typename L::Cache cache;
    const auto x = noise(rows), dy = noise(rows);
    for (auto _ : run) {
      forward(*layer, Sequence<float, D>(x), cache);
      benchmark::DoNotOptimize(backward(*layer, dy, cache, *gradient).data());
    }
    run.counters["work"] = 3 * flops;
  });
}

template <Index E, Index K>
void register_mixture() {
  const std::string kind = "/E" + std::to_string(E) + "k" + std::to_string(K);
  const double row = 6.0 * static_cast<double>(D * H * K);
  const auto both = [&](const std::string& name, auto enter) {
    enter(name, static_cast<Mixture<E, K>*>(nullptr));
    enter("peer:dense:" + name, static_cast<Dense<K>*>(nullptr));
  };
  for (const Index rows : {1, 32, 512}) {
    const std::string size = kind + "/" + std::to_string(rows);
    const double flops = row * static_cast<double>(rows);
    both("moe.layer" + size,
         [&]<class L>(const std::string& name, L*) { register_forward<L>(name, rows, flops); });
    both("moe.layer" + size + "/threads:2",
         [&]<class L>(const std::string& name, L*) { register_forward<L>(name, rows, flops, 2); });
  }
  both("moe.train" + kind + "/512",
       [&]<class L>(const std::string& name, L*) { register_training<L>(name, 512, 512 * row); });
  both("moe.step" + kind,
       [&]<class L>(const std::string& name, L*) { register_step<L>(name, row); });
}

[[maybe_unused]] const bool registered = [] {
  register_mixture<8, 2>();
  register_mixture<64, 8>();
  return true;
}();

}  // namespace
