#include <limen/moe/losses.hpp>

#include <limen/core/random.hpp>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/linear.hpp>

#include <cmath>
#include <functional>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <Index E>
Sequence<double, E> noise(Index rows) {
  Random random(2);
  Sequence<double, E> z(rows);
  for (Index i = 0; i < z.size(); ++i) z.data()[i] = random.normal();
  return z;
}

/// loss(z, dz): dz is its slope.
template <Index E>
void slope_is_right(
    const std::function<double(MatrixView<const double>, MatrixView<double>)>& loss) {
  auto z = noise<E>(5);
  auto dz = Sequence<double, E>::zeros(5);
  loss(z.matrix(), dz.matrix());
  for (Index i = 0; i < z.size(); ++i) {
    const double before = z.data()[i], h = 1e-6;
    z.data()[i] = before + h;
    const double above = loss(z.matrix(), {});
    z.data()[i] = before - h;
    const double below = loss(z.matrix(), {});
    z.data()[i] = before;
    REQUIRE(dz.data()[i] == Approx((above - below) / (2 * h)).margin(1e-8));
  }
}

const std::int32_t choices[] = {0, 2, 1, 2, 2, 0, 0, 1, 2, 3};  // 5 rows, 2 each

}  // namespace

TEST_CASE("The load balance counts choices and weighs them with probabilities", "[moe][losses]") {
  const Sequence<double, 2> z{{1, 0}, {1, 0}, {0, 1}, {2, 0}};
  const std::int32_t ids[] = {0, 0, 1, 0};
  auto dz = Sequence<double, 2>::zeros(4);
  REQUIRE(load_balance_loss(z.matrix(), ids, 1, 1, true, MatrixView<double>()) ==
          Approx(1.152964).epsilon(1e-6));
  load_balance_loss(z.matrix(), ids, 1, 0.01, true, dz.matrix());
  REQUIRE(dz(0, 0) == Approx(0.000492).epsilon(1e-3));
  REQUIRE(dz(0, 1) == Approx(-dz(0, 0)));
  // Equal scores: 1, or K if choices are not divided by it.
  const auto equal = Sequence<double, 4>::zeros(5);
  REQUIRE(load_balance_loss(equal.matrix(), choices, 2, 1, true, MatrixView<double>()) ==
          Approx(1));
  REQUIRE(load_balance_loss(equal.matrix(), choices, 2, 1, false, MatrixView<double>()) ==
          Approx(2));
}

TEST_CASE("Where experts cost differently the load balance counts work", "[moe][losses]") {
  const Sequence<double, 2> z{{1, 0}, {1, 0}, {0, 1}, {2, 0}};
  const std::int32_t ids[] = {0, 0, 1, 0};  // f = (3/4, 1/4)
  const double cost[] = {300, 100}, same[] = {7, 7};
  auto dz = Sequence<double, 2>::zeros(4);
  // r = (1.5, 0.5):  2 (1.5 · 0.75 · 0.652964 + 0.5 · 0.25 · 0.347036)
  REQUIRE(load_balance_loss(z.matrix(), ids, 1, 1, true, MatrixView<double>(), cost) ==
          Approx(1.555928).epsilon(1e-6));
  load_balance_loss(z.matrix(), ids, 1, 0.01, true, dz.matrix(), cost);
  REQUIRE(dz(0, 0) == Approx(0.196612 * 0.005).epsilon(1e-5));  // p (1 - p) (g_0 - g_1)
  REQUIRE(dz(0, 1) == Approx(-dz(0, 0)));
  REQUIRE(load_balance_loss(z.matrix(), ids, 1, 1, true, MatrixView<double>(), same) ==
          load_balance_loss(z.matrix(), ids, 1, 1, true, MatrixView<double>()));

  // With P = f it is least where every expert has as much work: 1/4 of the rows cost 3 each.
  const auto with_share_of_first = [&](double f) {
    std::vector<std::int32_t> all(1000, 1);
    for (std::size_t t = 0; t < std::size_t(1000 * f); ++t) all[t] = 0;
    Sequence<double, 2> scores(1000);
    for (Index t = 0; t < 1000; ++t) {
      scores(t, 0) = std::log(f);
      scores(t, 1) = std::log(1 - f);
    }
    return load_balance_loss(scores.matrix(), all.data(), 1, 1, true, MatrixView<double>(), cost);
  };
  REQUIRE(with_share_of_first(0.25) == Approx(0.75));
  REQUIRE(with_share_of_first(0.25) < with_share_of_first(0.24));
  REQUIRE(with_share_of_first(0.25) < with_share_of_first(0.26));

  using Wide = Linear<LinearConfig{.d_in = 3, .d_out = 5}>;
  using Narrow = Linear<LinearConfig{.d_in = 3, .d_out = 2}>;
  constexpr auto costs = expert_costs<Wide, Narrow>();
  static_assert(costs[0] == 15 && costs[1] == 6 && costs[2] == 0);
  static_assert(limen::detail::costs_fit(costs, 2) && limen::detail::costs_fit({}, 100));
  static_assert(!limen::detail::costs_fit(costs, 1) && !limen::detail::costs_fit({1, -1}, 2) &&
                !limen::detail::costs_fit(costs, 33));
}

TEST_CASE("The z loss is the mean square of log-sum-exp", "[moe][losses]") {
  const Sequence<double, 2> z{{1, 0}};
  auto dz = Sequence<double, 2>::zeros(1);
  REQUIRE(router_z_loss(z.matrix(), 1, dz.matrix()) == Approx(1.724656).epsilon(1e-6));
  REQUIRE(dz(0, 0) == Approx(1.920142).epsilon(1e-6));
  REQUIRE(dz(0, 1) == Approx(0.706381).epsilon(1e-6));
}

TEST_CASE("The variation of what experts are worth", "[moe][losses]") {
  const double v[] = {3, 1};
  double dv[2];
  REQUIRE(squared_variation(v, 2, 1, false, dv) == Approx(0.5));
  REQUIRE(dv[0] == Approx(0.25));  // 2/4 - 2*2*2/(2*16), up to 1e-10
  REQUIRE(squared_variation(v, 2, 1, true, nullptr) == Approx(0.25));
  REQUIRE(squared_variation(v, 1, 1, false, dv) == 0);
  REQUIRE(dv[0] == 0);
}

TEST_CASE("Losses have the slope they say", "[moe][losses]") {
  slope_is_right<4>(
      [](auto z, auto dz) { return load_balance_loss(z, choices, 2, 0.5, true, dz); });
  slope_is_right<4>([](auto z, auto dz) {
    const double cost[] = {1, 4, 0, 2};
    return load_balance_loss(z, choices, 2, 0.5, false, dz, cost);
  });
  slope_is_right<4>([](auto z, auto dz) { return router_z_loss(z, 0.5, dz); });
  slope_is_right<4>([](auto z, auto dz) { return sequence_balance_loss(z, choices, 2, 0.5, dz); });
  std::vector<double> v{1, 4, 2, 0.5}, dv(4);
  for (const bool population : {false, true}) {
    squared_variation(v.data(), 4, 0.5, population, dv.data());
    for (std::size_t i = 0; i < 4; ++i) {
      auto above = v, below = v;
      above[i] += 1e-6;
      below[i] -= 1e-6;
      const auto loss = [&](const std::vector<double>& w) {
        return squared_variation(w.data(), 4, 0.5, population, nullptr);
      };
      REQUIRE(dv[i] == Approx((loss(above) - loss(below)) / 2e-6).margin(1e-8));
    }
  }
}

TEST_CASE("A coefficient of 0, and no rows, cost nothing", "[moe][losses]") {
  const auto z = noise<4>(5);
  auto dz = Sequence<double, 4>::zeros(5);
  REQUIRE(load_balance_loss(z.matrix(), choices, 2, 0, true, dz.matrix()) == 0);
  REQUIRE(router_z_loss(z.matrix(), 0, dz.matrix()) == 0);
  REQUIRE(sequence_balance_loss(z.matrix(), choices, 2, 0, dz.matrix()) == 0);
  for (Index i = 0; i < dz.size(); ++i) REQUIRE(dz.data()[i] == 0);
  const Sequence<double, 4> none;
  REQUIRE(load_balance_loss(none.matrix(), choices, 2, 1, true, MatrixView<double>()) == 0);
  REQUIRE(router_z_loss(none.matrix(), 1, MatrixView<double>()) == 0);
}

TEST_CASE("The loss of sequences is a mean over those with rows", "[moe][losses]") {
  using R = TopKRouter<
      TopKRouterConfig{
          .d_model = 3, .n_experts = 4, .score = RouterScore::sigmoid, .losses = {.sequence = 0.5}},
      double>;
  Random random(3);
  R router;
  fill_normal(router.weight, 2, random);
  const auto x = noise<3>(5);
  R::Chosen chosen;
  R::Cache two, with_empty, first, second;
  const Index offsets[] = {0, 2, 5}, holes[] = {0, 0, 2, 2, 5, 5};
  REQUIRE(router.route(x, {offsets, 2, nullptr}, chosen, two));
  REQUIRE(router.route(x, {holes, 5, nullptr}, chosen, with_empty));
  REQUIRE(two.loss == with_empty.loss);
  REQUIRE(router.route(middle_rows(x, 0, 2), {}, chosen, first));
  REQUIRE(router.route(middle_rows(x, 2, 3), {}, chosen, second));
  REQUIRE(two.loss == Approx((first.loss + second.loss) / 2));
}

TEMPLATE_TEST_CASE_SIG(
    "Losses reach the router through the layer", "[moe][losses]", ((TopKRouterConfig C), C),
    (TopKRouterConfig{.d_model = 3, .n_experts = 4, .losses = {.load_balance = 0.5, .z = 0.25}}),
    (TopKRouterConfig{
        .d_model = 3, .n_experts = 4, .score = RouterScore::sigmoid, .losses = {.sequence = 0.5}}),
    (TopKRouterConfig{.d_model = 3, .n_experts = 4, .scale = 2, .losses = {.importance = 0.5}}),
    (TopKRouterConfig{
        .d_model = 3, .n_experts = 4, .losses = {.load_balance = 0.5, .cost = {1, 5, 0, 2}}})) {
  using L =
      MixtureOfExperts<TopKRouter<C, double>, Linear<LinearConfig{.d_in = 3, .d_out = 2}, double>>;
  Random random(3);
  L layer = L::initialized(random), gradient;
  fill_normal(layer.router.weight, 2, random);
  const std::vector<Index> offsets{0, 2, 2, 5};
  auto x = noise<3>(5);
  const auto loss = [&] {
    typename L::Cache cache;
    layer.forward(Sequence<double, 3>(x), from_rest(offsets), cache);
    return cache.loss();
  };
  typename L::Cache cache;
  layer.forward(Sequence<double, 3>(x), from_rest(offsets), cache);
  REQUIRE(cache.loss() > 0);
  if constexpr (C.losses.cost[0] > 0) {  // what the config says arrives
    using Plain =
        TopKRouter<TopKRouterConfig{.d_model = 3, .n_experts = 4, .losses = {.load_balance = 0.5}},
                   double>;
    Plain plain;
    plain.weight = layer.router.weight;
    typename Plain::Cache without;
    typename Plain::Chosen chosen;
    REQUIRE(plain.route(x, {}, chosen, without));
    REQUIRE(std::abs(cache.loss() - without.loss) > 1e-3);
    const double cost[] = {1, 5, 0, 2};
    REQUIRE(cache.loss() == load_balance_loss(without.z.matrix(), chosen.expert.data(), 2, 0.5,
                                              true, MatrixView<double>(), cost));
  }
  const auto dx =  // nothing comes from above: the losses alone
      layer.backward(Sequence<double, 2>::zeros(5), from_rest(offsets), cache, gradient);
  const auto check = [&](double& value, double got) {
    const double before = value, h = 1e-6;
    value = before + h;
    const double above = loss();
    value = before - h;
    const double below = loss();
    value = before;
    REQUIRE(got == Approx((above - below) / (2 * h)).margin(1e-8));
  };
  for (Index i = 0; i < x.size(); ++i) check(x.data()[i], dx.data()[i]);
  for (Index i = 0; i < 12; ++i) check(layer.router.weight[i], gradient.router.weight[i]);
}
