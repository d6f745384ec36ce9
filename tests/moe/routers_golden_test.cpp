// Routers against PyTorch, SciPy and NumPy: see tests/goldens/moe_routers.py.
#include <limen/compose/parallel.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/kernel/least_squares.hpp>
#include <limen/moe/base_router.hpp>
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/contrastive_router.hpp>
#include <limen/moe/hash_router.hpp>
#include <limen/moe/mixer_router.hpp>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/noisy_top_k_router.hpp>
#include <limen/moe/sequence_router.hpp>
#include <limen/moe/task_router.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/linear.hpp>

#include <memory>

#include "../goldens/golden.hpp"
#include "../goldens/moe_routers.hpp"

using namespace limen;
using golden::Numbers;

namespace {

/// f(tensor, its numbers) for all parameters that are learned, in the order of `visit`.
template <class L, class F>
void for_each_of(L& layer, Numbers all, F f) {
  std::size_t at = 0;
  for_each_tensor(
      [&](auto& tensor) {
        if constexpr (!is_statistic<std::remove_cvref_t<decltype(tensor)>>) {
          const auto size = static_cast<std::size_t>(tensor.size);
          REQUIRE(at + size <= all.size());
          f(tensor, all.subspan(at, size));
          at += size;
        }
      },
      layer);
  REQUIRE(at == all.size());
}

constexpr auto copy_in = [](auto& to, Numbers from) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    to[static_cast<Index>(i)] =
        static_cast<typename std::remove_cvref_t<decltype(to)>::Scalar>(from[i]);
  }
};

template <class Real, Index D>
Sequence<Real, D> rows(Numbers from) {
  Sequence<Real, D> x(static_cast<Index>(from.size()) / D);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(from[std::size_t(i)]);
  return x;
}

template <class Real>
constexpr double tolerance_of = sizeof(Real) == 8 ? 1e-10 : 3e-5;

/// Output and gradients of training; also of inference, where that is the same.
template <class L, class Start>
void same_run(const golden::Run& run, Numbers p, Numbers d_p, Start start,
              std::span<const Index> offsets = {}, bool inference = true) {
  using Real = typename L::Scalar;
  constexpr double tolerance = tolerance_of<Real>;
  const auto layer = std::make_unique<L>(), gradient = std::make_unique<L>();
  for_each_of(*layer, p, copy_in);
  start(*layer);
  const auto x = rows<Real, L::in>(run.x);
  const Index whole[] = {0, x.rows()};
  const auto batch = from_rest(offsets.empty() ? std::span<const Index>(whole) : offsets);
  if (inference) {
    golden::same("inference", layer->forward(x, batch), run.y, tolerance);
    golden::same("prepared", prepare(*layer).forward(x, batch), run.y, tolerance);
  }
  typename L::Cache cache;
  golden::same("y", layer->forward(Sequence<Real, L::in>(x), batch, cache), run.y, tolerance);
  const auto dx = layer->backward(rows<Real, L::out>(run.dy), batch, cache, *gradient);
  golden::same("dx", dx, run.dx, tolerance);
  for_each_of(*gradient, d_p, [&](const auto& got, Numbers expected) {
    golden::same("gradient", got.flat(), expected, tolerance);
  });
}

constexpr auto nothing = [](auto&) {};

template <Index D, class Real>
using Map = Linear<LinearConfig{.d_in = D, .d_out = 2}, Real>;

}  // namespace

TEMPLATE_TEST_CASE("A hash router sends tokens where its table says", "[moe][golden]", float,
                   double) {
  using namespace goldens::moe_routers::hash;
  using R = HashRouter<HashRouterConfig{.d_model = 3, .vocabulary = 5, .n_experts = 3}, TestType>;
  same_run<MixtureOfExperts<R, Map<3, TestType>>>({x, y, dy, dx}, p, d_p,
                                                  [](auto& l) { copy_in(l.router.table, table); });
}

TEMPLATE_TEST_CASE("A residual mixture behind a BASE router is the layer of BASE", "[moe][golden]",
                   float, double) {
  using namespace goldens::moe_routers::base;
  using R = BaseRouter<BaseRouterConfig{.d_model = 4, .n_experts = 3}, TestType>;
  using Expert = Sequential<Linear<LinearConfig{.d_in = 4, .d_out = 5}, TestType>,
                            Activate<ActivateConfig{.d = 5}, TestType>,
                            Linear<LinearConfig{.d_in = 5, .d_out = 4}, TestType>>;
  same_run<Residual<MixtureOfExperts<R, Expert>>>({x, y, dy, dx}, p, d_p, nothing, {}, false);
}

TEMPLATE_TEST_CASE("Choices over the capacity are dropped, and their slopes with them",
                   "[moe][golden]", float, double) {
  using namespace goldens::moe_routers::capacity;
  constexpr TopKRouterConfig c{.d_model = 4, .n_experts = 3, .losses = {.load_balance = 0.5}};
  using R = CapacityRouter<CapacityRouterConfig{}, TopKRouter<c, TestType>>;
  using L = MixtureOfExperts<R, Map<4, TestType>>;
  same_run<L>({x, y, dy, dx}, p, d_p, nothing, {}, false);
  L layer;
  for_each_of(layer, p, copy_in);
  typename L::Cache cache;
  forward(layer, rows<TestType, 4>(x), cache);
  REQUIRE(cache.router.dropped == static_cast<Index>(dropped[0]));
  REQUIRE(cache.loss() == Approx(loss[0]).epsilon(tolerance_of<TestType>));
}

TEMPLATE_TEST_CASE("Each task has its gate", "[moe][golden]", float, double) {
  using namespace goldens::moe_routers::task_gates;
  constexpr TopKRouterConfig c{.d_model = 4, .n_experts = 4, .normalise = false};
  using R = TaskGates<4, TopKRouter<c, TestType>>;
  same_run<MixtureOfExperts<R, Map<4, TestType>>>({x, y, dy, dx}, p, d_p, nothing);
}

TEMPLATE_TEST_CASE("Or a window of the experts", "[moe][golden]", float, double) {
  using namespace goldens::moe_routers::task_windows;
  constexpr TopKRouterConfig c{.d_model = 4, .n_experts = 3, .normalise = false};
  using R = TaskGates<4, TopKRouter<c, TestType>, 7>;
  same_run<MixtureOfExperts<R, Map<4, TestType>>>({x, y, dy, dx}, p, d_p, nothing);
}

TEMPLATE_TEST_CASE("Or its features", "[moe][golden]", float, double) {
  using namespace goldens::moe_routers::task_features;
  constexpr TopKRouterConfig c{.d_model = 5, .n_experts = 4, .normalise = false};
  using R = TaskFeatures<TaskFeaturesConfig{.d_model = 3, .n_tasks = 3, .d_hidden = 5, .d_task = 2},
                         TopKRouter<c, TestType>>;
  same_run<MixtureOfExperts<R, Map<3, TestType>>>({x, y, dy, dx}, p, d_p, nothing);
}

TEMPLATE_TEST_CASE("A mixture for tokens beside one for tasks is the block of T2MIR",
                   "[moe][golden]", float, double) {
  using namespace goldens::moe_routers::t2mir;
  using Expert =
      Sequential<Linear<LinearConfig{.d_in = 6, .d_out = 4}, TestType>,
                 Activate<ActivateConfig{.d = 4, .activation = Activation::leaky_relu}, TestType>,
                 Linear<LinearConfig{.d_in = 4, .d_out = 3}, TestType>>;
  using Token = NoisyTopKRouter<
      NoisyTopKRouterConfig{
          .d_model = 6, .n_experts = 3, .d_hidden = 3, .importance = 0.1, .load = 0.1},
      TestType>;
  using Task =
      ContrastiveRouter<ContrastiveRouterConfig{.d_model = 6, .n_experts = 4, .contrast = 0.25},
                        TestType>;
  using Block = Residual<Sequential<
      LayerNorm<LayerNormConfig{.d = 6}, TestType>,
      Parallel<Join::concat, MixtureOfExperts<Token, Expert>, MixtureOfExperts<Task, Expert>>>>;
  const Index offsets[] = {0, 2, 5, 7, 8, 11, 12};
  same_run<Block>(
      {x, y, dy, dx}, p, d_p,
      [](auto& l) {
        auto& router = get<1>(get<1>(l.inner.layers).layers).router;
        copy_in(router.target_hidden, target_hidden);
        copy_in(router.target, target);
      },
      offsets);
}

TEMPLATE_TEST_CASE("Where a sequence chooses once, it is by the mean of its rows", "[moe][golden]",
                   float, double) {
  using namespace goldens::moe_routers::hard;
  using Task =
      ContrastiveRouter<ContrastiveRouterConfig{.d_model = 4, .n_experts = 4, .contrast = 0.25},
                        TestType>;
  const Index offsets[] = {0, 2, 5, 6, 9};
  same_run<MixtureOfExperts<SequenceRouter<Task>, Map<4, TestType>>>(
      {x, y, dy, dx}, p, d_p,
      [](auto& l) {
        copy_in(l.router.router.target_hidden, target_hidden);
        copy_in(l.router.router.target, target);
      },
      offsets);
}

namespace {

template <class R, Index N>
void same_fit(R& router, Numbers contexts, Numbers losses, Numbers start, Numbers centroids,
              Numbers clusters, Numbers experts, double passes, Numbers weight) {
  GateFit<R> fit({.noise = 0});
  fit.set_centroids({start.begin(), start.end()});
  Random random(1);
  const auto from = rows<double, N>(contexts);
  REQUIRE(fit.update(router, from, rows<double, R::E>(losses), random));
  golden::same("weight", router.weight.flat(), weight, 1e-10);
  golden::same("centroids", std::span(fit.centroids()), centroids, 1e-12);
  for (std::size_t i = 0; i < clusters.size(); ++i) {
    REQUIRE(fit.clusters()[i] == static_cast<Index>(clusters[i]));
  }
  for (std::size_t e = 0; e < experts.size(); ++e) {
    REQUIRE(fit.experts()[e] == static_cast<Index>(experts[e]));
  }
  REQUIRE(fit.passes() == static_cast<Index>(passes));
  REQUIRE(fit.given_up() == 0);
}

}  // namespace

TEST_CASE("MixER's gate is fitted as by NumPy", "[moe][golden]") {
  using namespace goldens::moe_routers::mixer;
  using R = MixerRouter<MixerRouterConfig{.d_model = 3, .d_context = 3, .n_experts = 4}, double>;
  R router;
  same_fit<R, 3>(router, contexts, losses, start, centroids, clusters, experts, passes[0], weight);
  golden::same("bias", router.bias.flat(), bias, 1e-10);
  R::Chosen chosen;
  REQUIRE(router.route(rows<double, 3>(contexts), {}, chosen));
  for (Index i = 0; i < 16; ++i) REQUIRE(chosen.expert[i] == static_cast<Index>(routes[i]));
}

TEST_CASE("Where many maps fit, it is the shortest", "[moe][golden]") {
  using namespace goldens::moe_routers::mixer_few;
  using R =
      MixerRouter<MixerRouterConfig{.d_model = 5, .d_context = 5, .n_experts = 2, .bias = false},
                  double>;
  R router;
  same_fit<R, 5>(router, contexts, losses, start, centroids, clusters, experts, passes[0], weight);
}
