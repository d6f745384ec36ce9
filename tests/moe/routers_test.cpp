// Routers other than top-k.
#include <limen/moe/expert_choice_router.hpp>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/noisy_top_k_router.hpp>
#include <limen/moe/sinkhorn_router.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/linear.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

template <class Router, Index D>
using Mixture = MixtureOfExperts<Router, Linear<LinearConfig{.d_in = D, .d_out = 2}>>;

template <class L>
void hold(check::Options options) {
  options.nan_stays = false;
  const auto with = [&](auto layer) {
    Random random(2);
    layer = decltype(layer)::initialized(random);
    for_each_tensor([&](auto& tensor) { fill_normal(tensor, 1.5, random); }, layer.router);
    laws::hold(layer, options);
    options.slope = 1e3;  // the steps of float, which is next, are wide enough to change a choice
  };
  with(typename L::template with_scalar<double>());
  with(typename L::template with_scalar<float>());
}

/// A router whose scores are its input.
template <class R>
R transparent() {
  R router;
  for (Index e = 0; e < R::E; ++e) router.weight(e, e) = 1;
  return router;
}

}  // namespace

TEST_CASE("Expert choice keeps the laws, but for cutting", "[moe][router][laws]") {
  hold<Mixture<ExpertChoiceRouter<ExpertChoiceRouterConfig{.d_model = 3, .n_experts = 4}>, 3>>(
      {.causal = false});
  hold<Mixture<
      ExpertChoiceRouter<ExpertChoiceRouterConfig{.d_model = 2, .n_experts = 3, .capacity = 0.5}>,
      2>>({.causal = false});
}

TEST_CASE("Each expert takes the rows it likes best", "[moe][router]") {
  using R =
      ExpertChoiceRouter<ExpertChoiceRouterConfig{.d_model = 2, .n_experts = 2, .capacity = 1},
                         double>;
  const auto router = transparent<R>();
  R::Chosen chosen;
  REQUIRE(router.route(Sequence<double, 2>{{2, 0}, {1, 0}, {0, 0}, {0, 1}}, {}, chosen));
  const std::int32_t expected[] = {0, -1, 0, -1, -1, 1, -1, 1};
  for (Index i = 0; i < 8; ++i) REQUIRE(chosen.expert[i] == expected[i]);
  REQUIRE(chosen.weight(0, 0) == Approx(0.8808).epsilon(1e-4));
  REQUIRE(chosen.weight(3, 1) == Approx(0.7311).epsilon(1e-4));
  REQUIRE(R::capacity(4) == 2);
  REQUIRE(R::capacity(1) == 1);
  REQUIRE(R::capacity(0) == 0);

  // Equal scores: the earlier row; sequences are served apart.
  const Index offsets[] = {0, 2, 4};
  REQUIRE(router.route(Sequence<double, 2>::zeros(4), {offsets, 2, nullptr}, chosen));
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[2 * t] == (t % 2 == 0 ? 0 : -1));
}

TEST_CASE("Noisy routers keep the laws, with noise and without", "[moe][router][laws]") {
  using L = Mixture<NoisyTopKRouter<NoisyTopKRouterConfig{.d_model = 3, .n_experts = 4}>, 3>;
  hold<L>({});
  hold<L>({.random = true});
  hold<Mixture<NoisyTopKRouter<NoisyTopKRouterConfig{.d_model = 2, .n_experts = 2}>, 2>>({});
  using VMoe = Mixture<NoisyTopKRouter<NoisyTopKRouterConfig{
                           .d_model = 3, .n_experts = 4, .fixed_noise = 0.25, .normalise = false}>,
                       3>;
  hold<VMoe>({});
  hold<VMoe>({.random = true});
}

TEMPLATE_TEST_CASE_SIG(
    "The losses of noisy routers have the slope they say", "[moe][router]",
    ((NoisyTopKRouterConfig C), C),
    (NoisyTopKRouterConfig{.d_model = 3, .n_experts = 4, .importance = 0.5, .load = 0.5}),
    (NoisyTopKRouterConfig{
        .d_model = 3, .n_experts = 4, .top_k = 1, .load = 2, .population_variance = true}),
    (NoisyTopKRouterConfig{.d_model = 3,
                           .n_experts = 4,
                           .fixed_noise = 0.25,
                           .importance = 0.5,
                           .load = 0.5,
                           .normalise = false})) {
  using L = Mixture<NoisyTopKRouter<C>, 3>::template with_scalar<double>;
  Random random(3);
  L layer = L::initialized(random), gradient;
  fill_normal(layer.router.weight, 1, random);
  if constexpr (C.fixed_noise == 0) fill_normal(layer.router.noise, 1, random);
  Sequence<double, 3> x(6);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto run = [&](typename L::Cache& cache) {
    Random draws(5);
    Context context{.random = &draws};
    NoState state;
    layer.forward(Sequence<double, 3>(x), Batch<typename L::State>(state, &context), cache);
    return cache.loss();
  };
  typename L::Cache cache;
  REQUIRE(run(cache) > 0);
  const auto dx = backward(layer, Sequence<double, 2>::zeros(6), cache, gradient);
  const auto check = [&](double& value, double got) {
    typename L::Cache other;
    const double before = value, h = 1e-6;
    value = before + h;
    const double above = run(other);
    value = before - h;
    const double below = run(other);
    value = before;
    REQUIRE(got == Approx((above - below) / (2 * h)).epsilon(1e-5).margin(1e-7));
  };
  for (Index i = 0; i < x.size(); ++i) check(x.data()[i], dx.data()[i]);
  for (Index i = 0; i < 12; ++i) {
    check(layer.router.weight[i], gradient.router.weight[i]);
    if constexpr (C.fixed_noise == 0) check(layer.router.noise[i], gradient.router.noise[i]);
  }
}

TEST_CASE("The noise of V-MoE is the same for all, and vanishes without a generator",
          "[moe][router]") {
  using R = NoisyTopKRouter<
      NoisyTopKRouterConfig{
          .d_model = 3, .n_experts = 3, .top_k = 2, .fixed_noise = 0.5, .normalise = false},
      double>;
  using Plain =
      TopKRouter<TopKRouterConfig{.d_model = 3, .n_experts = 3, .top_k = 2, .normalise = false},
                 double>;
  const auto router = transparent<R>();
  const auto plain = transparent<Plain>();
  const Sequence<double, 3> z{{1, 3, 2}, {0, -1, 0.5}};
  const auto same = [&](const R::Chosen& got, const Sequence<double, 3>& seen) {
    Plain::Chosen expected;
    REQUIRE(plain.route(seen, {}, expected));
    for (Index i = 0; i < 4; ++i) {
      REQUIRE(got.expert[i] == expected.expert[i]);
      REQUIRE(got.weight.data()[i] == Approx(expected.weight.data()[i]));
    }
  };
  R::Chosen chosen;
  R::Cache cache;
  REQUIRE(router.route(z, {}, chosen));
  same(chosen, z);
  REQUIRE(router.route(z, {}, chosen, cache));
  same(chosen, z);
  Random random(9), again(9);
  Context context{.random = &random};
  REQUIRE(router.route(z, {nullptr, 1, &context}, chosen, cache));
  auto noisy = z;
  for (Index i = 0; i < 6; ++i) noisy.data()[i] += 0.5 * again.normal();
  same(chosen, noisy);
  REQUIRE(parameter_count(router) == 9);
}

TEST_CASE("Sinkhorn routers keep the laws of training apart from inference",
          "[moe][router][laws]") {
  hold<Mixture<SinkhornRouter<SinkhornRouterConfig{.d_model = 3, .n_experts = 4, .top_k = 2}>, 3>>(
      {.training_is_inference = false});
  hold<Mixture<SinkhornRouter<SinkhornRouterConfig{.d_model = 2, .n_experts = 3}>, 2>>(
      {.training_is_inference = false});
}

TEST_CASE("Where all rows like one expert best, Sinkhorn shares them out", "[moe][router]") {
  using R = SinkhornRouter<SinkhornRouterConfig{.d_model = 2, .n_experts = 2}, double>;
  R router;
  router.scores.weight(0, 0) = router.scores.weight(1, 1) = 1;
  const Sequence<double, 2> z{{2, 0}, {2, 0}, {2, 1}, {1, 0}};
  R::Chosen chosen;
  R::Cache cache;
  REQUIRE(router.route(z, {}, chosen));
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[t] == 0);
  REQUIRE(router.route(z, {}, chosen, cache));
  const std::int32_t expected[] = {0, 0, 1, 1};
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[t] == expected[t]);
  REQUIRE(chosen.weight(2, 0) == Approx(0.7310586));  // of the expert that was chosen
  const Sequence<double, 2> bad{{2, std::numeric_limits<double>::infinity()}};
  REQUIRE_THROWS_WITH(router.route(bad, {}, chosen, cache), has_part("row 0"));
}

TEST_CASE("Preferences that never even out are an error, or counted", "[moe][router]") {
  constexpr SinkhornRouterConfig strict{.d_model = 2, .n_experts = 2, .most_passes = 4};
  constexpr SinkhornRouterConfig patient{
      .d_model = 2, .n_experts = 2, .most_passes = 4, .accept_unsettled = true};
  SinkhornRouter<strict, double> router;
  SinkhornRouter<patient, double> tolerant;
  for (Index e = 0; e < 2; ++e) router.scores.weight(e, e) = tolerant.scores.weight(e, e) = 1;
  // The first sequence evens out in one pass, the second in five.
  const Sequence<double, 2> z{{1, 0}, {0, 1}, {2, 0}, {2, 0}, {2, 1}, {1, 0}};
  const Index offsets[] = {0, 2, 2, 6};
  decltype(router)::Chosen chosen;
  decltype(router)::Cache cache;
  decltype(tolerant)::Cache counted;
  REQUIRE_THROWS_WITH(router.route(z, {offsets, 3, nullptr}, chosen, cache),
                      has_part("rows 2 to 5") && has_part("4 passes"));
  REQUIRE(router.route(z, {offsets, 3, nullptr}, chosen));  // inference has no passes
  REQUIRE(tolerant.route(z, {offsets, 3, nullptr}, chosen, counted));
  REQUIRE(counted.unsettled == 1);
  REQUIRE((chosen.expert[0] == 0 && chosen.expert[1] == 1 && chosen.expert[5] == 1));
  REQUIRE(tolerant.route(Sequence<double, 2>{{1, 0}, {0, 1}}, {}, chosen, counted));
  REQUIRE(counted.unsettled == 0);
}

TEST_CASE("Sinkhorn's scaling gives rows and experts equal mass", "[moe][router]") {
  const double z[] = {2, 0, 2, 0, 2, 1, 1, 0};
  double m[8], v[2], next[2];
  REQUIRE(detail::sinkhorn<double>({z, 4, 2, 2}, 1e-4, 5, v, {m, 4, 2, 2}, next));
  REQUIRE(!detail::sinkhorn<double>({z, 4, 2, 2}, 1e-4, 4, v, {m, 4, 2, 2}, next));
  const double first[] = {0.1556, 0.1556, 0.0944, 0.0944};
  for (Index t = 0; t < 4; ++t) {
    const double mass = m[2 * t] * v[0] + m[2 * t + 1] * v[1];
    REQUIRE(m[2 * t] * v[0] / mass / 4 == Approx(first[t]).epsilon(1e-3));
    REQUIRE(m[2 * t + 1] * v[1] / mass / 4 == Approx(0.25 - first[t]).epsilon(1e-3));
  }
}

namespace {
using Choice = ExpertChoiceRouter<ExpertChoiceRouterConfig{.d_model = 2, .n_experts = 2}>;
static_assert(TrainableRouter<Choice> && !StreamingRouter<Choice>);
static_assert(!Streaming<Mixture<Choice, 2>> && Trainable<Mixture<Choice, 2>>);
static_assert(check::names_every_member<
              NoisyTopKRouter<NoisyTopKRouterConfig{.d_model = 2, .n_experts = 2}>>);
static_assert(check::names_every_member<Choice>);
}  // namespace
