// Experts of different kinds in one layer, 512 rows, one expert each, beside the same rows through
// each expert alone. Work: rows.

#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/special_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>
#include <limen/ssm/mamba.hpp>

#include <benchmark/benchmark.h>

#include <memory>

namespace {

using namespace limen;

constexpr Index D = 512, rows = 512;
using Large = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = 1024}>;
using Small = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = 256}>;
using Memory = Mamba<MambaConfig{.d_model = D}>;
using Mixed = MixtureOfExperts<
    TopKRouter<TopKRouterConfig{.d_model = D, .n_experts = 4, .top_k = 1, .normalise = false}>,
    Large, Small, Memory, Identity<IdentityConfig{.d = D}>>;

Sequence<float, D> noise() {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

std::unique_ptr<prepared_form<Mixed>> ready() {
  Random random(1);
  const auto layer = std::make_unique<Mixed>(Mixed::initialized(random));
  auto fast = std::make_unique<prepared_form<Mixed>>();
  prepare_into(*fast, *layer);
  return fast;
}

void mixed(benchmark::State& run) {
  const auto layer = ready();
  const auto x = noise();
  for (auto _ : run) benchmark::DoNotOptimize(forward(*layer, x).data());
  run.counters["work"] = rows;
}

void parts(benchmark::State& run) {
  const auto layer = ready();
  const auto x = noise();
  Assignment<float, 1> chosen;
  layer->router.route(x, {}, chosen);
  const Dispatch plan(chosen.expert.data(), rows, 1, 4);
  Sequence<float, D> of[4];
  for (Index e = 0; e < 4; ++e) {
    of[e] = Sequence<float, D>(plan.count(e));
    gather_rows(x.matrix(), plan.rows_of(e), of[e].matrix());
  }
  const auto& experts = layer->experts.layers;
  for (auto _ : run) {
    benchmark::DoNotOptimize(forward(get<0>(experts), of[0]).data());
    benchmark::DoNotOptimize(forward(get<1>(experts), of[1]).data());
    benchmark::DoNotOptimize(forward(get<2>(experts), of[2]).data());
    benchmark::DoNotOptimize(forward(get<3>(experts), of[3]).data());
  }
  run.counters["work"] = rows;
}

[[maybe_unused]] const bool registered = [] {
  benchmark::RegisterBenchmark("moe.mixed/512", mixed);
  benchmark::RegisterBenchmark("peer:parts:moe.mixed/512", parts);
  return true;
}();

}  // namespace
