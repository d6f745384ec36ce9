// Mixtures of gated experts, d 512, hidden 1024 each, beside one gated layer with the hidden width
// of all that a row passes (the same active work), and beside the time in which the weights of the
// chosen experts are only read. Work: flops of the experts, or bytes of their weights.

#include <limen/kernel/gemm.hpp>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/special_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "../reading.hpp"

namespace {

using namespace limen;

constexpr Index D = 512, H = 1024;
constexpr double row_flops = 6.0 * D * H, expert_bytes = 3.0 * D * H * sizeof(float);

template <Index E, Index K>
using Route =
    TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = E, .top_k = K, .normalise = true}>;
using Expert = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = H}>;
template <Index E, Index K>
using Mixture = MixtureOfExperts<Route<E, K>, Expert>;
template <Index K>
using Dense = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = K* H}>;

/// Every row to expert 0 and to one of the others in turn: expert 0 has half of the work.
template <class S>
struct Skewed {
  static constexpr Index in = D, experts = 8, slots = 2;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  template <class T>
  using with_scalar = Skewed<T>;
  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static Skewed initialized(Random&) { return {}; }

  bool route(SequenceView<Scalar, D> x, const RoutingRun&, Assignment<Scalar, 2>& to) const {
    to.resize(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      to.expert[2 * t] = 0;
      to.expert[2 * t + 1] = static_cast<std::int32_t>(1 + t % 7);
      to.weight(t, 0) = to.weight(t, 1) = Scalar(0.5);
    }
    return true;
  }
};

Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

/// A layer to learn; of a mixture all experts hold the same numbers, each its own.
template <class L>
std::unique_ptr<L> learning() {
  Random random(1);
  auto layer = std::make_unique<L>();
  if constexpr (requires { layer->experts; }) {
    layer->router = decltype(layer->router)::initialized(random);
    const auto one = L::First::initialized(random);
    for (auto& expert : layer->experts.layers) expert = one;
  } else {
    *layer = L::initialized(random);
  }
  return layer;
}

/// Its inference form, made once: some fill a gigabyte. The learning form is never whole.
template <class L>
const prepared_form<L>& ready() {
  static const auto fast = [] {
    Random random(1);
    auto layer = std::make_unique<prepared_form<L>>();
    if constexpr (requires { layer->experts; }) {
      prepare_into(layer->router, decltype(L::router)::initialized(random));
      const auto one = L::First::initialized(random);
      for (auto& expert : layer->experts.layers) prepare_into(expert, one);
    } else {
      prepare_into(*layer, L::initialized(random));
    }
    return layer;
  }();
  return *fast;
}

template <class L>
void register_forward(const std::string& name, Index rows, double work, int threads = 1) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    const auto& layer = ready<L>();
    const auto x = noise(rows);
    for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
    run.counters["work"] = work;
    run.counters["threads"] = threads;
  })->UseRealTime();
}

template <class L>
void register_step(const std::string& name, double work) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const auto& layer = ready<L>();
    const auto x = noise(1);
    typename L::State state;
    for (auto _ : run) benchmark::DoNotOptimize(layer.step(x.row(0), state));
    run.counters["work"] = work;
  });
}

/// So many bytes read, nothing else.
void register_reading(const std::string& name, auto bytes) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const double work = bytes();
    Buffer<float> x(static_cast<Index>(work) / static_cast<Index>(sizeof(float)));
    for (float& v : x) v = 1;
    for (auto _ : run) read_all(x.data(), x.size());
    run.counters["work"] = work;
  });
}

/// Of the experts that `noise` chooses.
template <class L>
double bytes_chosen(Index rows) {
  Assignment<float, L::K> chosen;
  ready<L>().router.route(noise(rows), {}, chosen);
  std::vector<bool> used(std::size_t{L::E});
  double bytes = 0;
  for (const std::int32_t e : chosen.expert) {
    if (!used[static_cast<std::size_t>(e)]) bytes += expert_bytes;
    used[static_cast<std::size_t>(e)] = true;
  }
  return bytes;
}

enum class Pass { both, forward, backward };

template <class L>
void register_training(const std::string& name, Index rows, double flops, Pass pass) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const auto layer = learning<L>();
    const auto gradient = std::make_unique<L>();
    typename L::Cache cache;
    const auto x = noise(rows), dy = noise(rows);
    forward(*layer, Sequence<float, D>(x), cache);
    for (auto _ : run) {
      if (pass != Pass::backward) {
        benchmark::DoNotOptimize(forward(*layer, Sequence<float, D>(x), cache).data());
      }
      if (pass != Pass::forward) {
        benchmark::DoNotOptimize(backward(*layer, dy, cache, *gradient).data());
      }
    }
    run.counters["work"] = flops * (pass == Pass::both ? 3 : pass == Pass::backward ? 2 : 1);
  });
}

template <Index E, Index K>
void register_mixture() {
  using L = Mixture<E, K>;
  const std::string kind = "/E" + std::to_string(E) + "k" + std::to_string(K);
  const double row = row_flops * static_cast<double>(K);
  for (const Index rows : {1, 32, 512}) {
    const std::string name = "moe.layer" + kind + "/" + std::to_string(rows);
    const double flops = row * static_cast<double>(rows);
    for (const int threads : {1, 2}) {
      const std::string suffix = threads > 1 ? "/threads:2" : "";
      register_forward<L>(name + suffix, rows, flops, threads);
      register_forward<Dense<K>>("peer:dense:" + name + suffix, rows, flops, threads);
    }
    if (rows <= 32) {
      register_reading("peer:read:" + name, [rows] { return bytes_chosen<L>(rows); });
    }
  }
  const std::string many = kind + "/512";
  register_training<L>("moe.train" + many, 512, 512 * row, Pass::both);
  register_training<Dense<K>>("peer:dense:moe.train" + many, 512, 512 * row, Pass::both);
  register_training<L>("moe.backward" + many, 512, 512 * row, Pass::backward);
  register_training<L>("peer:forward:moe.backward" + many, 512, 512 * row, Pass::forward);
  // Scores, choice, sorting, gathering, weighted sum: the layer without what its experts do.
  using Bare = MixtureOfExperts<Route<E, K>, Identity<IdentityConfig{.d = D}>>;
  register_forward<Bare>("moe.routing" + many, 512, 512.0 * D * K * sizeof(float));
  register_forward<L>("peer:layer:moe.routing" + many, 512, 512 * row);
}

template <Index E, Index K>
void register_steps() {
  const std::string name = "moe.step/E" + std::to_string(E) + "k" + std::to_string(K);
  register_step<Mixture<E, K>>(name, expert_bytes * static_cast<double>(K));
  register_step<Dense<K>>("peer:dense:" + name, expert_bytes * static_cast<double>(K));
  register_reading("peer:read:" + name, [] { return expert_bytes * static_cast<double>(K); });
}

[[maybe_unused]] const bool registered = [] {
  register_mixture<8, 2>();
  register_mixture<64, 8>();
  register_steps<8, 2>();
  register_steps<64, 2>();
  register_steps<256, 2>();
  register_steps<64, 8>();
  using Half = MixtureOfExperts<Skewed<float>, Expert>;
  for (const int threads : {1, 2}) {
    const std::string suffix = threads > 1 ? "/threads:2" : "";
    register_forward<Half>("moe.skewed/E8k2/512" + suffix, 512, 512 * 2 * row_flops, threads);
  }
  return true;
}();

}  // namespace
