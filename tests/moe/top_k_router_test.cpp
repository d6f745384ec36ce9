#include <limen/moe/top_k_router.hpp>

#include <limen/moe/mixture_of_experts.hpp>
#include <limen/nn/linear.hpp>

#include <array>

#include "../laws.hpp"

using namespace limen;

namespace {

/// A router whose scores are its input.
template <TopKRouterConfig C>
TopKRouter<C, double> transparent() {
  TopKRouter<C, double> router;
  for (Index e = 0; e < C.n_experts; ++e) router.weight(e, e) = 1;
  return router;
}

template <Index K>
struct Routed {
  std::array<std::int32_t, std::size_t{K}> ids;
  std::array<double, std::size_t{K}> w;
};

template <class R>
Routed<R::K> route(const R& router, Vector<double, R::D> z) {
  Routed<R::K> r;
  router.route_row(z, r.ids.data(), r.w.data());
  return r;
}

/// dz of one row, whose weights have the slope dw.
template <class R>
Sequence<double, R::D> slope(const R& router, Sequence<double, R::D> z, Sequence<double, R::K> dw) {
  typename R::Chosen chosen;
  typename R::Cache cache;
  R gradient;
  REQUIRE(router.route(z, {}, chosen, cache));
  auto dx = Sequence<double, R::D>::zeros(z.rows());
  router.backward(z, {}, chosen, cache, dw, gradient, dx);
  return dx;
}

constexpr TopKRouterConfig mixtral{.d_model = 4, .n_experts = 4};
constexpr TopKRouterConfig gather{.d_model = 4, .n_experts = 4, .normalise = false};
constexpr TopKRouterConfig deepseek{.d_model = 6,
                                    .n_experts = 6,
                                    .top_k = 2,
                                    .score = RouterScore::sigmoid,
                                    .scale = 2.5,
                                    .balance_bias = true,
                                    .n_groups = 3,
                                    .top_groups = 2};

template <TopKRouterConfig C>
void hold() {
  using L = MixtureOfExperts<TopKRouter<C>, Linear<LinearConfig{.d_in = C.d_model, .d_out = 2}>>;
  const auto with = [](auto layer) {
    Random random(2);
    layer = decltype(layer)::initialized(random);
    fill_normal(layer.router.weight, 2, random);
    if constexpr (C.balance_bias) fill_uniform(layer.router.score_correction, 0.3, random);
    // In float the steps are wide enough to change a choice.
    laws::hold(layer, {.slope = sizeof(layer.router.weight[0]) == 4 ? 1e3 : 0, .nan_stays = false});
  };
  with(typename L::template with_scalar<double>());
  with(L());
}

}  // namespace

TEST_CASE("Softmax routers keep the laws", "[moe][router][laws]") {
  hold<TopKRouterConfig{.d_model = 5, .n_experts = 5, .top_k = 3, .scale = 1.5, .bias = true}>();
  hold<TopKRouterConfig{.d_model = 3,
                        .n_experts = 6,
                        .top_k = 2,
                        .normalise = false,
                        .scale = 1.5,
                        .n_groups = 3,
                        .top_groups = 2}>();
  hold<TopKRouterConfig{.d_model = 4, .n_experts = 4, .top_k = 4}>();
}

TEST_CASE("Sigmoid routers keep the laws", "[moe][router][laws]") {
  hold<deepseek>();
  hold<TopKRouterConfig{.d_model = 5,
                        .n_experts = 3,
                        .top_k = 1,
                        .score = RouterScore::sigmoid,
                        .normalise = false}>();
}

TEST_CASE("Softmax before the choice, or after it", "[moe][router]") {
  const auto after = route(transparent<mixtral>(), {2, 0, 1, -1});
  REQUIRE(after.ids == std::array<std::int32_t, 2>{0, 2});
  REQUIRE(after.w[0] == Approx(0.731059).epsilon(1e-5));
  REQUIRE(after.w[1] == Approx(0.268941).epsilon(1e-5));
  const auto before = route(transparent<gather>(), {2, 0, 1, -1});
  REQUIRE(before.w[0] == Approx(0.643914).epsilon(1e-5));
  REQUIRE(before.w[1] == Approx(0.236883).epsilon(1e-5));

  const auto d_after = slope(transparent<mixtral>(), {{2, 0, 1, -1}}, {{1, -2}});
  const auto d_before = slope(transparent<gather>(), {{2, 0, 1, -1}}, {{1, -2}});
  const double expected_after[] = {0.589836, 0, -0.589836, 0};
  const double expected_before[] = {0.534353, -0.014827, -0.514071, -0.005455};
  for (Index e = 0; e < 4; ++e) {
    REQUIRE(d_after(0, e) == Approx(expected_after[e]).margin(1e-6));
    REQUIRE(d_before(0, e) == Approx(expected_before[e]).margin(1e-6));
  }
}

TEST_CASE("Groups and a bias choose, scores without them weigh", "[moe][router]") {
  auto router = transparent<deepseek>();
  router.score_correction[1] = 0.3;
  router.score_correction[5] = -0.4;
  const auto r = route(router, {2, 0, 1, -1, 0.5, 1.5});
  REQUIRE(r.ids == std::array<std::int32_t, 2>{0, 1});  // although 5 scores more than 1
  REQUIRE(r.w[0] == Approx(1.594726).epsilon(1e-6));
  REQUIRE(r.w[1] == Approx(0.905274).epsilon(1e-6));
}

TEST_CASE("With a bias a group is as good as its two best together", "[moe][router]") {
  constexpr TopKRouterConfig with_bias{.d_model = 4,
                                       .n_experts = 4,
                                       .score = RouterScore::sigmoid,
                                       .balance_bias = true,
                                       .n_groups = 2,
                                       .top_groups = 1};
  constexpr TopKRouterConfig without{
      .d_model = 4, .n_experts = 4, .score = RouterScore::sigmoid, .n_groups = 2, .top_groups = 1};
  const Vector<double, 4> z{2, -2, 1, 1};  // .88 + .12 and .73 + .73
  REQUIRE(route(transparent<with_bias>(), z).ids == std::array<std::int32_t, 2>{2, 3});
  REQUIRE(route(transparent<without>(), z).ids == std::array<std::int32_t, 2>{0, 1});
}

TEST_CASE("A group that was dropped stays out, however low the others are", "[moe][router]") {
  constexpr TopKRouterConfig c{.d_model = 4,
                               .n_experts = 4,
                               .score = RouterScore::sigmoid,
                               .balance_bias = true,
                               .n_groups = 2,
                               .top_groups = 1};
  auto router = transparent<c>();
  const double b[] = {0, -0.5, -0.9, -0.9};
  for (Index e = 0; e < 4; ++e) router.score_correction[e] = b[e];
  const auto logit = [](double s) { return std::log(s / (1 - s)); };
  const auto r = route(router, {logit(0.6), logit(0.1), logit(0.2), logit(0.2)});
  REQUIRE(r.ids == std::array<std::int32_t, 2>{0, 1});
}

TEST_CASE("The same added to all scores or all biases changes nothing", "[moe][router]") {
  const auto a = route(transparent<gather>(), {2, 0, 1, -1}),
             b = route(transparent<gather>(), {102, 100, 101, 99});
  REQUIRE(a.ids == b.ids);
  REQUIRE(a.w[0] == Approx(b.w[0]));
  auto router = transparent<deepseek>();
  const auto plain = route(router, {2, 0, 1, -1, 0.5, 1.5});
  fill(router.score_correction, 0.7);
  REQUIRE(route(router, {2, 0, 1, -1, 0.5, 1.5}).ids == plain.ids);
}

TEST_CASE("A balance bias moves towards idle experts, and forgets what it has used",
          "[moe][router]") {
  constexpr TopKRouterConfig c{.d_model = 3,
                               .n_experts = 3,
                               .top_k = 1,
                               .score = RouterScore::sigmoid,
                               .normalise = false,
                               .balance_bias = true};
  using R = TopKRouter<c, double>;
  R router = transparent<c>(), gradient;
  for (int batch = 0; batch < 2; ++batch) {  // loads (4, 2, 0), mean 2
    R::Chosen chosen;
    R::Cache cache;
    const Sequence<double, 3> x{{3, 0, 0}, {3, 0, 0}, {0, 3, 0}};
    REQUIRE(router.route(x, {}, chosen, cache));
    auto dx = Sequence<double, 3>::zeros(3);
    router.backward(x, {}, chosen, cache, Sequence<double, 1>::zeros(3), gradient, dx);
  }
  balance(router, gradient, 0.25);
  REQUIRE(router.score_correction[0] == -0.25);
  REQUIRE(router.score_correction[1] == 0);
  REQUIRE(router.score_correction[2] == 0.25);
  balance(router, gradient, 0.25);  // gathered nothing since
  REQUIRE(router.score_correction[2] == 0.25);
  settle(router, gradient, 0.1);
  REQUIRE(router.score_correction[2] == 0.25);
}

TEST_CASE("A bias evens out the load", "[moe][router]") {
  constexpr TopKRouterConfig c{
      .d_model = 8, .n_experts = 8, .score = RouterScore::sigmoid, .balance_bias = true};
  using R = TopKRouter<c, double>;
  R router = transparent<c>();
  Random random(4);
  const auto worst = [&](int steps) {
    double most = 0;
    for (int step = 0; step < steps; ++step) {
      Sequence<double, 8> x(64);
      for (Index t = 0; t < 64; ++t) {
        for (Index e = 0; e < 8; ++e) x(t, e) = random.normal() + 0.2 * static_cast<double>(e);
      }
      R gradient;
      R::Chosen chosen;
      R::Cache cache;
      REQUIRE(router.route(x, {}, chosen, cache));
      auto dx = Sequence<double, 8>::zeros(64);
      router.backward(x, {}, chosen, cache, Sequence<double, 2>::zeros(64), gradient, dx);
      double load[8] = {};
      for (Index i = 0; i < 128; ++i) load[chosen.expert[i]] += 1.0 / 16;
      most = *std::max_element(load, load + 8);
      balance(router, gradient, 0.005);
    }
    return most;
  };
  REQUIRE(worst(1) > 1.7);
  worst(300);
  double mean = 0;
  for (int i = 0; i < 20; ++i) mean += worst(1) / 20;
  REQUIRE(mean < 1.5);
}

namespace {
template <TopKRouterConfig C>
using R = TopKRouter<C>;
static_assert(StreamingRouter<R<mixtral>> && TrainableRouter<R<deepseek>>);
static_assert(StreamingRouter<prepared_form<R<mixtral>>>);
static_assert(check::names_every_member<R<mixtral>>);
}  // namespace
