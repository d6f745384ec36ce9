// Routers around routers: capacity, jitter, thresholds, one choice for a sequence.
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/jitter_router.hpp>
#include <limen/moe/sequence_router.hpp>
#include <limen/moe/threshold_router.hpp>
#include <limen/moe/top_k_router.hpp>

#include <array>

#include "mixtures.hpp"

using namespace limen;

namespace {

constexpr TopKRouterConfig scores{.d_model = 3, .n_experts = 3};

/// A router whose scores are its input.
template <class R>
R transparent() {
  R router;
  for (Index e = 0; e < R::experts; ++e) router.router.weight(e, e) = 1;
  return router;
}

/// Scores by which a row chooses `first`, then `second`.
Vector<double, 3> chooses(Index first, Index second, double first_score = 2) {
  Vector<double, 3> z{};
  z[first] = first_score;
  z[second] = 1;
  return z;
}

template <CapacityRouterConfig C, TopKRouterConfig R = scores>
using Limited = CapacityRouter<C, TopKRouter<R, double>>;

template <class R>
std::vector<int> kept(const R& router, const Sequence<double, 3>& z, RoutingRun run = {}) {
  typename R::Chosen chosen;
  typename R::Cache cache;
  REQUIRE(router.route(z, run, chosen, cache));
  std::vector<int> of;
  for (Index i = 0; i < z.rows() * R::K; ++i) {
    of.push_back(chosen.expert[i]);
    if (chosen.expert[i] < 0) REQUIRE(chosen.weight.data()[i] == 0);
  }
  REQUIRE(cache.dropped == std::count(of.begin(), of.end(), -1));
  return of;
}

const Sequence<double, 3> four{chooses(0, 1), chooses(0, 2), chooses(0, 1), chooses(1, 0)};

}  // namespace

TEST_CASE("First choices come first, and rows in order", "[moe][capacity]") {
  const auto router = transparent<Limited<CapacityRouterConfig{.factor = 1.5}>>();
  static_assert(Limited<CapacityRouterConfig{.factor = 1.5}>::capacity(4) == 2);
  REQUIRE(kept(router, four) == std::vector<int>{0, 1, 0, 2, -1, -1, 1, -1});
}

TEST_CASE("With .by_weight the surest rows come first", "[moe][capacity]") {
  constexpr CapacityRouterConfig c{.factor = 1.5, .by_weight = true};
  const auto router = transparent<Limited<c>>();
  // Expert 0 is wanted by rows 0, 1 and 2, by row 2 the most.
  const Sequence<double, 3> z{chooses(0, 1), chooses(0, 2), chooses(0, 1, 5), chooses(1, 0)};
  REQUIRE(kept(router, z) == std::vector<int>{0, -1, -1, 2, 0, 1, 1, -1});
}

TEST_CASE("Sequences have capacities of their own, unless they share one", "[moe][capacity]") {
  const Index offsets[] = {0, 2, 2, 4};
  const RoutingRun run{offsets, 3, nullptr};
  const auto apart = transparent<Limited<CapacityRouterConfig{.factor = 1.5}>>();
  REQUIRE(kept(apart, four, run) == std::vector<int>{0, 1, -1, 2, 0, -1, 1, -1});
  const auto shared =
      transparent<Limited<CapacityRouterConfig{.factor = 1.5, .whole_batch = true}>>();
  REQUIRE(kept(shared, four, run) == kept(shared, four));
}

TEST_CASE("Capacities round as they say", "[moe][capacity]") {
  using Up = Limited<CapacityRouterConfig{}>;
  using Nearest =
      Limited<CapacityRouterConfig{.factor = 1, .least = 4, .rounding = CapacityRounding::nearest}>;
  using Even = Limited<CapacityRouterConfig{.factor = 1.5, .rounding = CapacityRounding::nearest}>;
  using Choices = Limited<CapacityRouterConfig{.factor = 1, .count_choices = true}>;
  STATIC_REQUIRE(Up::capacity(512) == 214);  // 213.3
  STATIC_REQUIRE(Up::capacity(0) == 0);
  STATIC_REQUIRE(Nearest::capacity(10) == 4);
  STATIC_REQUIRE(Nearest::capacity(16) == 5);
  STATIC_REQUIRE(Nearest::capacity(17) == 6);
  STATIC_REQUIRE(Even::capacity(5) == 2);
  STATIC_REQUIRE(Even::capacity(7) == 4);
  STATIC_REQUIRE(Choices::capacity(6) == 4);
}

TEST_CASE("Where experts cost differently each has room for as much work", "[moe][capacity]") {
  using R = Limited<CapacityRouterConfig{.factor = 1.5, .cost = {3, 1, 0}}>;  // r = 9/4, 3/4, 0
  STATIC_REQUIRE(R::capacity(6, 0) == 2);                                     // 3 / r = 4/3
  STATIC_REQUIRE(R::capacity(6, 1) == 4);
  STATIC_REQUIRE(R::capacity(6, 2) == 6);  // what costs nothing takes all
  // First choices 0, 0, 0, 1, then 1, 2, 1, 0, with room for 1, 3 and 4.
  REQUIRE(kept(transparent<R>(), four) == std::vector<int>{0, 1, -1, 2, -1, 1, 1, -1});
  using Same = Limited<CapacityRouterConfig{.factor = 1.5, .cost = {7, 7, 7}}>;
  REQUIRE(kept(transparent<Same>(), four) ==
          kept(transparent<Limited<CapacityRouterConfig{.factor = 1.5}>>(), four));
}

TEST_CASE("No room at all is an error", "[moe][capacity]") {
  const auto router = transparent<
      Limited<CapacityRouterConfig{.factor = 0.3, .rounding = CapacityRounding::nearest}>>();
  decltype(router)::Chosen chosen;
  decltype(router)::Cache cache;
  REQUIRE_THROWS_WITH(router.route(four, {}, chosen, cache), has_part("capacity for 4 rows"));
}

TEST_CASE("The balance loss and the bias count what was dropped", "[moe][capacity]") {
  constexpr TopKRouterConfig c{
      .d_model = 3, .n_experts = 3, .balance_bias = true, .losses = {.load_balance = 1}};
  using R = Limited<CapacityRouterConfig{.factor = 1.5}, c>;
  const auto router = transparent<R>();
  R::Chosen chosen, all;
  R::Cache cache;
  TopKRouter<c, double>::Cache plain;
  REQUIRE(router.route(four, {}, chosen, cache));
  REQUIRE(cache.dropped == 3);
  REQUIRE(router.router.route(four, {}, all, plain));
  REQUIRE(cache.loss == plain.loss);
  R gradient;
  auto dx = Sequence<double, 3>::zeros(4);
  router.backward(four, {}, chosen, cache, Sequence<double, 2>::zeros(4), gradient, dx);
  const double lack[] = {8 - 3 * 4, 8 - 3 * 3, 8 - 3 * 1};  // E (mean load - load)
  for (Index e = 0; e < 3; ++e) REQUIRE(gradient.router.score_correction[e] == lack[e]);
}

TEST_CASE("What is dropped gives nothing, and nothing flows through it", "[moe][capacity]") {
  using R = Limited<CapacityRouterConfig{.factor = 1.5}>;
  Mixture<R> layer;
  Random random(3);
  layer = decltype(layer)::initialized(random);
  layer.router = transparent<R>();
  decltype(layer)::Cache cache;
  const auto y = forward(layer, Sequence<double, 3>(four), cache);
  for (Index d = 0; d < 2; ++d) REQUIRE(y(2, d) == 0);
  REQUIRE(cache.load(0) + cache.load(1) + cache.load(2) == 5);
  REQUIRE(cache.router.dropped == 3);
  slopes_are_right(
      layer, Sequence<double, 3>(four),
      [&](const auto& l, const auto& x) {
        decltype(layer)::Cache c;
        const auto out = forward(l, Sequence<double, 3>(x), c);
        double sum = 0;
        for (Index i = 0; i < out.size(); ++i) sum += out.data()[i] * static_cast<double>(i + 1);
        return sum;
      },
      [&](const auto& l, const auto& x, auto& gradient) {
        decltype(layer)::Cache c;
        const auto out = forward(l, Sequence<double, 3>(x), c);
        Sequence<double, 2> dy(out.rows());
        for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = static_cast<double>(i + 1);
        return backward(l, dy, c, gradient);
      });
}

TEST_CASE("Limited routers keep the laws, of training apart from inference",
          "[moe][capacity][laws]") {
  const auto wide = [](auto& layer, Random& random) {
    fill_normal(layer.router.router.weight, 2, random);
  };
  using Training = CapacityRouter<CapacityRouterConfig{.factor = 0.7}, TopKRouter<scores>>;
  hold_from<Mixture<Training>>({.training_is_inference = false}, wide);
  using Always =
      CapacityRouter<CapacityRouterConfig{.factor = 0.7, .by_weight = true, .inference = true},
                     TopKRouter<scores>>;
  hold_from<Mixture<Always>>({.causal = false}, wide);
}

TEST_CASE("Jitter is what the router sees, and only while it trains", "[moe][jitter]") {
  using Inner = TopKRouter<TopKRouterConfig{.d_model = 3, .n_experts = 3, .top_k = 3}, double>;
  using R = JitterRouter<JitterRouterConfig{.amount = 0.25}, Inner>;
  const auto router = transparent<R>();
  const Sequence<double, 3> z{{1, 2, 3}, {-1, 0, 4}};
  R::Chosen plain, chosen;
  R::Cache cache;
  REQUIRE(router.route(z, {}, plain));
  REQUIRE(router.route(z, {}, chosen, cache));  // no generator
  for (Index i = 0; i < 6; ++i) REQUIRE(plain.weight.data()[i] == chosen.weight.data()[i]);

  Random random(2), same(2);
  Context context{.random = &random};
  REQUIRE(router.route(z, {nullptr, 1, &context}, chosen, cache));
  auto noisy = z;
  for (Index i = 0; i < 6; ++i) {
    const double u = same.uniform(0.75, 1.25);
    REQUIRE(cache.u.data()[i] == u);
    REQUIRE((u >= 0.75 && u < 1.25));
    noisy.data()[i] *= u;
  }
  REQUIRE(router.router.route(noisy, {}, plain));
  for (Index i = 0; i < 6; ++i) {
    REQUIRE(plain.weight.data()[i] == chosen.weight.data()[i]);
    REQUIRE(plain.expert[i] == chosen.expert[i]);
  }
}

TEST_CASE("Jittered routers keep the laws", "[moe][jitter][laws]") {
  using R = JitterRouter<JitterRouterConfig{.amount = 0.3}, TopKRouter<scores>>;
  const auto wide = [](auto& layer, Random& random) {
    fill_normal(layer.router.router.weight, 2, random);
  };
  hold_from<Mixture<R>>({}, wide);
  hold_from<Mixture<R>>({.random = true, .training_is_inference = false}, wide);
  hold_from<Mixture<CapacityRouter<CapacityRouterConfig{.factor = 2}, R>>>(
      {.random = true, .training_is_inference = false}, [](auto& layer, Random& random) {
        fill_normal(layer.router.router.router.weight, 2, random);
      });
}

TEST_CASE("What weighs little is left out in inference, and not computed", "[moe][threshold]") {
  using R = ThresholdRouter<ThresholdRouterConfig{.least = 0.1}, TopKRouter<scores, double>>;
  const auto router = transparent<R>();
  // Weights .73 and .27; .95 and .05; 1 - 5e-6 and 5e-6
  const Sequence<double, 3> z{{2, 1, 0}, {0, 3, 6}, {12, -2, 0}};
  const std::int32_t expected[] = {0, 1, 2, -1, 0, -1};
  R::Chosen chosen;
  R::Cache cache;
  REQUIRE(router.route(z, {}, chosen, cache));
  for (Index i = 0; i < 6; ++i) REQUIRE(chosen.expert[i] >= 0);
  REQUIRE(router.route(z, {}, chosen));
  for (Index t = 0; t < 3; ++t) {
    std::int32_t ids[2];
    double w[2];
    router.route_row(z.row(t), ids, w);
    for (Index j = 0; j < 2; ++j) {
      REQUIRE(chosen.expert[2 * t + j] == expected[2 * t + j]);
      REQUIRE(ids[j] == expected[2 * t + j]);
      REQUIRE(w[j] == chosen.weight(t, j));
      REQUIRE((ids[j] >= 0 ? w[j] > 0.1 : w[j] == 0));
    }
  }
  using Half = ThresholdRouter<ThresholdRouterConfig{.least = 0.5}, TopKRouter<scores, double>>;
  REQUIRE(transparent<Half>().route(Sequence<double, 3>{{1, 1, 0}}, {}, chosen));
  REQUIRE((chosen.expert[0] == -1 && chosen.expert[1] == -1));  // 1/2 is no more than 1/2
  static_assert(Mixture<R>::work_depends_on_data);
  const auto wide = [](auto& layer, Random& random) {
    fill_normal(layer.router.router.weight, 2, random);
  };
  hold_from<
      Mixture<ThresholdRouter<ThresholdRouterConfig{.least = 0.2}, TopKRouter<scores, float>>>>(
      {.training_is_inference = false}, wide);
}

TEST_CASE("A sequence chooses once, by the mean of its rows", "[moe][sequence]") {
  using R = SequenceRouter<TopKRouter<scores, double>>;
  const auto router = transparent<R>();
  const Index offsets[] = {0, 2, 2, 3};
  const RoutingRun run{offsets, 3, nullptr};
  R::Chosen chosen;
  R::Cache cache;
  const Sequence<double, 3> z{{5, 0, 0}, {-3, 0, 2}, {0, 2, 1}};  // (1, 0, 1) and (0, 2, 1)
  const auto check = [&] {
    const std::int32_t expected[] = {0, 2, 0, 2, 1, 2};
    for (Index i = 0; i < 6; ++i) REQUIRE(chosen.expert[i] == expected[i]);
    for (Index i = 0; i < 4; ++i) REQUIRE(chosen.weight.data()[i] == Approx(0.5));
    REQUIRE(chosen.weight(2, 0) == Approx(1 / (1 + std::exp(-1.0))));
  };
  REQUIRE(router.route(z, run, chosen));
  check();
  REQUIRE(router.route(z, run, chosen, cache));
  check();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE_THROWS_WITH(
      router.route(Sequence<double, 3>{{1, 0, 0}, {1, 0, 0}, {0, nan, 0}}, run, chosen),
      has_part("row 2"));
}

TEST_CASE("Mixtures that choose once for a sequence keep the laws, but for cutting",
          "[moe][sequence][laws]") {
  const auto wide = [](auto& layer, Random& random) {
    fill_normal(layer.router.router.weight, 2, random);
  };
  hold_from<Mixture<SequenceRouter<TopKRouter<scores>>>>({.causal = false}, wide);
  constexpr TopKRouterConfig one{.d_model = 2, .n_experts = 3, .top_k = 1, .normalise = false};
  hold_from<Mixture<SequenceRouter<TopKRouter<one>>>>({.causal = false}, wide);
}

namespace {
template <class R>
using Always = CapacityRouter<CapacityRouterConfig{.inference = true}, R>;
using Plain = TopKRouter<scores>;
static_assert(StreamingRouter<CapacityRouter<CapacityRouterConfig{}, Plain>>);
static_assert(TrainableRouter<Always<Plain>> && !StreamingRouter<Always<Plain>>);
static_assert(!Streaming<Mixture<Always<Plain>>> && Trainable<Mixture<Always<Plain>>>);
static_assert(TrainableRouter<SequenceRouter<Plain>> && !StreamingRouter<SequenceRouter<Plain>>);
static_assert(!Streaming<Mixture<SequenceRouter<Plain>>>);
static_assert(StreamingRouter<ThresholdRouter<ThresholdRouterConfig{}, Plain>>);
static_assert(StreamingRouter<JitterRouter<JitterRouterConfig{}, Plain>>);
static_assert(Router<prepared_form<CapacityRouter<CapacityRouterConfig{}, Plain>>>);
}  // namespace
