// Routers that know the task, or learn to tell tasks apart.
#include <limen/moe/contrastive_router.hpp>
#include <limen/moe/noisy_top_k_router.hpp>
#include <limen/moe/task_router.hpp>
#include <limen/moe/top_k_router.hpp>

#include "mixtures.hpp"

using namespace limen;

namespace {

constexpr TopKRouterConfig top_1{.d_model = 2, .n_experts = 2, .top_k = 1, .normalise = false};
using Gates = TaskGates<2, TopKRouter<top_1, double>>;
constexpr float none = std::numeric_limits<float>::quiet_NaN();

template <Index D>
Sequence<double, D> noise(Index rows) {
  Random random(3);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

/// Of all tensors: wide gaps between scores.
constexpr auto wide = [](auto& layer, Random& random) {
  for_each_tensor([&](auto& tensor) { fill_normal(tensor, 1.5, random); },
                  get<1>(layer.layers).router);
};

}  // namespace

TEST_CASE("The task says which gate looks at a row", "[moe][tasks]") {
  Gates router;
  router.gates[0].weight(0, 0) = router.gates[0].weight(1, 1) = 1;
  router.gates[1].weight(0, 1) = router.gates[1].weight(1, 0) = 1;
  Gates::Chosen chosen;
  REQUIRE(router.route(Sequence<double, 3>{{1, 0, 0}, {1, 0, 1}}, {}, chosen));
  for (Index t = 0; t < 2; ++t) {
    REQUIRE(chosen.expert[t] == t);
    REQUIRE(chosen.weight(t, 0) == Approx(0.731059).epsilon(1e-6));
  }
}

TEST_CASE("With windows a task has some of the experts", "[moe][tasks]") {
  constexpr TopKRouterConfig three{.d_model = 3, .n_experts = 3, .top_k = 1, .normalise = false};
  using Windows = TaskGates<3, TopKRouter<three, double>, 8>;
  static_assert(Windows::experts == 8 && Windows::slots == 1);
  STATIC_REQUIRE(Windows::window(0) == 0);
  STATIC_REQUIRE(Windows::window(1) == 2);  // 5 / 2, down
  STATIC_REQUIRE(Windows::window(2) == 5);  // the last three
  STATIC_REQUIRE(TaskGates<1, TopKRouter<three>, 8>::window(0) == 0);
  Windows router;
  for (auto& gate : router.gates) {
    for (Index e = 0; e < 3; ++e) gate.weight(e, e) = 1;
  }
  const Sequence<double, 4> x{{0, 1, 0, 0}, {0, 0, 1, 1}, {1, 0, 0, 1}, {0, 0, 1, 2}};
  const std::int32_t expected[] = {1, 4, 2, 7};
  Windows::Chosen chosen;
  Windows::Cache cache;
  REQUIRE(router.route(x, {}, chosen));
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[t] == expected[t]);
  REQUIRE(router.route(x, {}, chosen, cache));
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(chosen.expert[t] == expected[t]);
    std::int32_t id = -1;
    double weight = 0;
    router.route_row(x.row(t), &id, &weight);
    REQUIRE(id == expected[t]);
    REQUIRE(weight == chosen.weight(t, 0));
  }
}

TEST_CASE("A gate whose task has no rows has no gradient", "[moe][tasks]") {
  Random random(2);
  auto layer = Mixture<Gates>::initialized(random);
  decltype(layer) gradient;
  decltype(layer)::Cache cache;
  forward(layer, Sequence<double, 3>{{1, 0, 1}, {0.5, 2, 1}}, cache);
  backward(layer, Sequence<double, 2>{{1, 2}, {3, 4}}, cache, gradient);
  for (const double g : gradient.router.gates[0].weight.flat()) REQUIRE(g == 0);
  REQUIRE(gradient.router.gates[1].weight(0, 0) != 0);
}

TEST_CASE("A task that there is not is an error that names the row", "[moe][tasks]") {
  using Single = TopKRouter<top_1>;
  using Featured =
      TaskFeatures<TaskFeaturesConfig{.d_model = 2, .n_tasks = 2, .d_hidden = 3, .d_task = 2},
                   TopKRouter<TopKRouterConfig{.d_model = 4, .n_experts = 2}>>;
  const auto check = [](auto layer) {
    Random random(1);
    layer = decltype(layer)::initialized(random);
    typename decltype(layer)::Cache cache;
    for (const float wrong : {2.0F, -1.0F, 0.5F, none}) {
      const Sequence<float, 3> x{{0, 0, 1}, {1, 2, wrong}};
      REQUIRE_THROWS_WITH(forward(layer, x), has_part("task of row 1"));
      REQUIRE_THROWS_WITH(forward(layer, Sequence<float, 3>(x), cache), has_part("task of row 1"));
      NoState state;
      REQUIRE(std::isnan(layer.step(x.row(1), state)[0]));
      REQUIRE(!std::isnan(layer.step(x.row(0), state)[0]));
    }
  };
  check(Mixture<TaskGates<2, Single>>());
  check(Mixture<Featured>());
}

TEST_CASE("Mixtures with gates for tasks keep the laws", "[moe][tasks][laws]") {
  using Plain = TopKRouter<TopKRouterConfig{.d_model = 3, .n_experts = 4}>;
  hold_from<Tagged<3, Mixture<TaskGates<3, Plain>>>>({}, wide);
  hold_from<Tagged<3, Mixture<TaskGates<3, Plain, 6>>>>({}, wide);
  using Noisy = NoisyTopKRouter<NoisyTopKRouterConfig{.d_model = 2, .n_experts = 3, .d_hidden = 5}>;
  hold_from<Tagged<2, Mixture<TaskGates<2, Noisy>>>>({.random = true}, wide);
}

TEST_CASE("Mixtures with features of tasks keep the laws", "[moe][tasks][laws]") {
  using R = TaskFeatures<TaskFeaturesConfig{.d_model = 3, .n_tasks = 3, .d_hidden = 4, .d_task = 5},
                         TopKRouter<TopKRouterConfig{.d_model = 8, .n_experts = 4}>>;
  hold_from<Tagged<3, Mixture<R>>>({}, wide);
}

// ── T2MIR ────────────────────────────────────────────────────────────────────────────────────────

namespace {

using Contrast = ContrastiveRouter<
    ContrastiveRouterConfig{.d_model = 3, .n_experts = 4, .contrast = 0.5, .follow = 0.25}, double>;

Contrast contrast_router() {
  Random random(5);
  auto router = Contrast::initialized(random);
  for_each_tensor([&](auto& tensor) { fill_normal(tensor, 1.5, random); }, router);
  return router;
}

constexpr Index offsets[] = {0, 2, 5, 6, 9};
const RoutingRun four{offsets, 4, nullptr};

}  // namespace

TEST_CASE("Routers without the contrast, but with a hidden layer, keep the laws",
          "[moe][contrastive][laws]") {
  using R = ContrastiveRouter<ContrastiveRouterConfig{.d_model = 3, .n_experts = 4}>;
  using L = Mixture<R>;
  hold_from<L>({}, [](auto& layer, Random& random) {
    fill_normal(layer.router.hidden, 1, random);
    fill_normal(layer.router.scores.weight, 2, random);
  });
  hold_from<Mixture<
      ContrastiveRouter<ContrastiveRouterConfig{.d_model = 2, .n_experts = 3, .d_hidden = 7}>>>(
      {}, [](auto& layer, Random& random) { fill_normal(layer.router.scores.weight, 2, random); });
}

TEST_CASE("The contrast has the slope it says", "[moe][contrastive]") {
  auto router = contrast_router();
  const auto value = [](const Contrast& r, const Sequence<double, 3>& x) {
    Contrast::Chosen chosen;
    Contrast::Cache cache;
    REQUIRE(r.route(x, four, chosen, cache));
    return cache.loss;
  };
  REQUIRE(value(router, noise<3>(9)) > 0.1);
  slopes_are_right(
      router, noise<3>(9), value,
      [](const Contrast& r, const Sequence<double, 3>& x, Contrast& gradient) {
        Contrast::Chosen chosen;
        Contrast::Cache cache;
        REQUIRE(r.route(x, four, chosen, cache));
        auto dx = Sequence<double, 3>::zeros(9);
        r.backward(x, four, chosen, cache, Sequence<double, 2>::zeros(9), gradient, dx);
        return dx;
      },
      false);  // r' moves with x as well, and has no slope: see the golden of T2MIR
}

TEST_CASE("The slopes of two contrasts add", "[moe][contrastive]") {
  const auto router = contrast_router();
  Contrast once, twice;
  Contrast::Chosen chosen;
  Contrast::Cache cache;
  REQUIRE(router.route(noise<3>(9), four, chosen, cache));
  auto dx = Sequence<double, 3>::zeros(9);
  const auto add = [&](Contrast& to) {
    router.backward(noise<3>(9), four, chosen, cache, Sequence<double, 2>::zeros(9), to, dx);
  };
  add(once);
  add(twice);
  add(twice);
  for (Index i = 0; i < 16; ++i) {
    REQUIRE(once.match[i] != 0);
    REQUIRE(twice.match[i] == Approx(2 * once.match[i]));
    REQUIRE(twice.scores.weight[i] == Approx(2 * once.scores.weight[i]));
  }
}

TEST_CASE("With one task there is nothing to tell apart", "[moe][contrastive]") {
  const auto router = contrast_router();
  const Index pair[] = {0, 4, 9};
  const RoutingRun run{pair, 2, nullptr};
  Contrast::Chosen chosen;
  Contrast::Cache cache;
  REQUIRE(router.route(noise<3>(9), run, chosen, cache));
  REQUIRE(cache.loss == 0);
  Contrast gradient;
  auto dx = Sequence<double, 3>::zeros(9);
  router.backward(noise<3>(9), run, chosen, cache, Sequence<double, 2>::zeros(9), gradient, dx);
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(dx.data()[i] == 0);
  for (const double g : gradient.match.flat()) REQUIRE(g == 0);
  for (const double g : gradient.hidden.flat()) REQUIRE(g == 0);
}

TEST_CASE("Sequences without a partner are an error", "[moe][contrastive]") {
  const auto router = contrast_router();
  Contrast::Chosen chosen;
  Contrast::Cache cache;
  REQUIRE_THROWS_WITH(router.route(noise<3>(9), {}, chosen, cache), has_part("an even number"));
  REQUIRE(router.route(noise<3>(9), {}, chosen));  // inference has no pairs
}

TEST_CASE("The target follows, and an optimizer leaves it alone", "[moe][contrastive]") {
  auto router = contrast_router();
  const auto before = router;
  Contrast gradient;
  Contrast::Chosen chosen;
  Contrast::Cache cache;
  for (int batch = 0; batch < 2; ++batch) {
    REQUIRE(router.route(noise<3>(9), four, chosen, cache));
    auto dx = Sequence<double, 3>::zeros(9);
    router.backward(noise<3>(9), four, chosen, cache, Sequence<double, 2>::zeros(9), gradient, dx);
  }
  settle(router, gradient, 0.9);  // the rate is its own
  for (Index i = 0; i < 12; ++i) {
    REQUIRE(router.target_hidden[i] ==
            Approx(0.75 * before.target_hidden[i] + 0.25 * before.hidden[i]));
    REQUIRE(router.hidden[i] == before.hidden[i]);
  }
  for (Index i = 0; i < 16; ++i) {
    REQUIRE(router.target[i] == Approx(0.75 * before.target[i] + 0.25 * before.scores.weight[i]));
  }
  const auto once = router;
  settle(router, gradient, 0.9);  // has gathered nothing since
  REQUIRE(router.target == once.target);
  REQUIRE(parameter_count(router) == 12 + 16 + 16);
  Random random(1);
  const auto fresh = Contrast::initialized(random);
  for (Index i = 0; i < 12; ++i) REQUIRE(fresh.target_hidden[i] == fresh.hidden[i]);
}

TEST_CASE("Noisy routers with a hidden layer have the slope they say", "[moe][router]") {
  using R = NoisyTopKRouter<
      NoisyTopKRouterConfig{
          .d_model = 3, .n_experts = 4, .d_hidden = 5, .importance = 0.5, .load = 0.5},
      double>;
  Random random(4);
  auto router = R::initialized(random);
  for_each_tensor([&](auto& tensor) { fill_normal(tensor, 1, random); }, router);
  const auto run = [](const R& r, const Sequence<double, 3>& x, R::Chosen& chosen,
                      R::Cache& cache) {
    Random draws(5);
    Context context{.random = &draws};
    REQUIRE(r.route(x, {nullptr, 1, &context}, chosen, cache));
  };
  slopes_are_right(
      router, noise<3>(6),
      [&](const R& r, const auto& x) {
        R::Chosen chosen;
        R::Cache cache;
        run(r, x, chosen, cache);
        double sum = cache.loss;
        for (Index i = 0; i < 12; ++i) sum += chosen.weight.data()[i] * static_cast<double>(i % 5);
        return sum;
      },
      [&](const R& r, const auto& x, R& gradient) {
        R::Chosen chosen;
        R::Cache cache;
        run(r, x, chosen, cache);
        Sequence<double, 2> dw(6);
        for (Index i = 0; i < 12; ++i) dw.data()[i] = static_cast<double>(i % 5);
        auto dx = Sequence<double, 3>::zeros(6);
        r.backward(x, {}, chosen, cache, dw, gradient, dx);
        return dx;
      });
}

namespace {
static_assert(TrainableRouter<Gates> && StreamingRouter<Gates> && Router<prepared_form<Gates>>);
static_assert(Gates::in == 3 && Mixture<Gates>::in == 3);
static_assert(TrainableRouter<Contrast> && StreamingRouter<Contrast>);
static_assert(Router<prepared_form<Contrast>>);
}  // namespace
