// Routers that do not ask for the best score of a row: a table, an even share.
#include <limen/moe/base_router.hpp>
#include <limen/moe/hash_router.hpp>

#include <array>

#include "mixtures.hpp"

using namespace limen;

namespace {

using Hash = HashRouter<HashRouterConfig{.d_model = 3, .vocabulary = 3, .n_experts = 2}>;
using Base = BaseRouter<BaseRouterConfig{.d_model = 2, .n_experts = 2}, double>;

constexpr float none = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("Hashed mixtures keep the laws", "[moe][hash][laws]") {
  const auto any = [](auto&, Random&) {};
  hold_from<Tagged<
      5, Mixture<HashRouter<HashRouterConfig{.d_model = 3, .vocabulary = 5, .n_experts = 3}>>>>(
      {}, any);
  hold_from<Tagged<
      1, Mixture<HashRouter<HashRouterConfig{.d_model = 17, .vocabulary = 1, .n_experts = 1}>>>>(
      {}, any);
}

TEST_CASE("A token goes where the table says", "[moe][hash]") {
  Hash router;
  router.table[0] = router.table[2] = 1;
  Hash::Chosen chosen;
  REQUIRE(router.route(Sequence<float, 4>{{0, 0, 0, 2}, {9, 9, 9, 1}}, {}, chosen));
  REQUIRE(chosen.expert[0] == 1);
  REQUIRE(chosen.expert[1] == 0);
  REQUIRE(chosen.weight(0, 0) == 1);
}

TEST_CASE("What is no token, or no expert, is an error", "[moe][hash]") {
  Random random(1);
  auto layer = Mixture<Hash>::initialized(random);
  for (const float wrong : {3.0F, -1.0F, 0.5F, none, 1e30F}) {
    const Sequence<float, 4> x{{0, 0, 0, 0}, {1, 2, 3, wrong}};
    REQUIRE_THROWS_WITH(forward(layer, x), has_part("token of row 1"));
    NoState state;
    REQUIRE(std::isnan(layer.step(x.row(1), state)[0]));
    REQUIRE(!std::isnan(layer.step(x.row(0), state)[0]));
  }
  layer.router.table[2] = 2;  // from a damaged file, say
  REQUIRE_THROWS_WITH(forward(layer, Sequence<float, 4>{{0, 0, 0, 2}}), has_part("table[2]"));
}

TEST_CASE("Frequent tokens are spread over experts first", "[moe][hash]") {
  using R = HashRouter<HashRouterConfig{.d_model = 1, .vocabulary = 6, .n_experts = 3}>;
  const double frequency[] = {1, 9, 4, 5, 4, 2};
  // 1 -> 0 (9); 3 -> 1 (5); 2 -> 2 (4); 4 -> 2 (8); 5 -> 1 (7); 0 -> 1 (8)
  const auto router = R::balanced(frequency);
  const float expected[] = {1, 0, 2, 1, 2, 1};
  for (Index v = 0; v < 6; ++v) REQUIRE(router.table[v] == expected[v]);
  REQUIRE_THROWS_WITH(R::balanced(std::span(frequency).first(5)), has_part("frequencies"));

  Random random(3);
  std::array<int, 3> count{};
  using Wide = HashRouter<HashRouterConfig{.d_model = 1, .vocabulary = 3000, .n_experts = 3}>;
  const auto drawn = Wide::initialized(random);
  for (const float h : drawn.table.flat()) ++count[static_cast<std::size_t>(h)];
  for (const int n : count) REQUIRE(std::abs(n - 1000) < 100);
}

TEST_CASE("BASE mixtures of one expert keep the laws, of training apart from inference",
          "[moe][base][laws]") {
  using One = Mixture<BaseRouter<BaseRouterConfig{.d_model = 3, .n_experts = 1}>>;
  hold_from<One>(
      {}, [](auto& layer, Random& random) { fill_normal(layer.router.scores.weight, 1, random); });
}

TEST_CASE("Training shares rows out evenly, inference takes the best", "[moe][base]") {
  Base router;
  router.scores.weight(0, 0) = router.scores.weight(1, 1) = 1;
  const Sequence<double, 2> x{{3, 0}, {2, 1}, {5, 1}, {1, 0.5}};
  Base::Chosen chosen;
  Base::Cache cache;
  REQUIRE(router.route(x, {}, chosen));
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[t] == 0);
  REQUIRE(router.route(x, {}, chosen, cache));
  const std::int32_t expected[] = {0, 1, 0, 1};  // 3 + 1 + 5 + 0.5 is the most
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[t] == expected[t]);
  REQUIRE(chosen.weight(1, 0) == Approx(1 / (1 + std::exp(-1.0))));
  REQUIRE(chosen.weight(2, 0) == Approx(1 / (1 + std::exp(-5.0))));
}

TEST_CASE("Equal rows go to experts in order, each sequence by itself", "[moe][base]") {
  const Base router;
  Base::Chosen chosen;
  Base::Cache cache;
  const Index offsets[] = {0, 2, 2, 6};
  REQUIRE(router.route(Sequence<double, 2>::zeros(6), {offsets, 3, nullptr}, chosen, cache));
  const std::int32_t expected[] = {0, 1, 0, 0, 1, 1};
  for (Index t = 0; t < 6; ++t) REQUIRE(chosen.expert[t] == expected[t]);
  using Whole =
      BaseRouter<BaseRouterConfig{.d_model = 2, .n_experts = 2, .whole_batch = true}, double>;
  const Whole shared;
  Whole::Cache other;
  const Index odd[] = {0, 3, 6};
  REQUIRE(shared.route(Sequence<double, 2>::zeros(6), {odd, 2, nullptr}, chosen, other));
  for (Index t = 0; t < 6; ++t) REQUIRE(chosen.expert[t] == t / 3);
  REQUIRE_THROWS_WITH(router.route(Sequence<double, 2>::zeros(6), {odd, 2, nullptr}, chosen, cache),
                      has_part("multiple of 2"));
}

TEST_CASE("Affinities that are no numbers count as the smallest", "[moe][base]") {
  Base router;
  router.scores.weight(0, 0) = router.scores.weight(1, 1) = 1;
  Base::Chosen chosen;
  Base::Cache cache;
  const double inf = std::numeric_limits<double>::infinity();
  // Infinity times 0 is NaN: row 0 has two of them. Row 1 alone has numbers.
  REQUIRE_THROWS_WITH(router.route(Sequence<double, 2>{{inf, 0}, {0, 1}}, {}, chosen, cache),
                      has_part("row 0"));
  router.scores.weight(0, 1) = std::numeric_limits<double>::max();  // 2 of it is infinity
  REQUIRE(router.route(Sequence<double, 2>{{0, 2}, {0, 0.25}}, {}, chosen, cache));
  REQUIRE(chosen.expert[0] == 1);
  REQUIRE(chosen.expert[1] == 0);
}

TEST_CASE("What is no number is worth no more than the smallest that is one", "[moe][base]") {
  BaseRouter<BaseRouterConfig{.d_model = 3, .n_experts = 2}, double> router;
  decltype(router)::Chosen chosen;
  decltype(router)::Cache cache;
  router.scores.weight(0, 0) = router.scores.weight(1, 1) = 1;
  router.scores.weight(0, 2) = std::numeric_limits<double>::max();  // 2 of it is infinity
  // Rows want (inf, -2), (-1.5, -1), (-10, 0), (0, -10): were infinity 0, row 0 would go there.
  REQUIRE(router.route(Sequence<double, 3>{{0, -2, 2}, {-1.5, -1, 0}, {-10, 0, 0}, {0, -10, 0}}, {},
                       chosen, cache));
  const std::int32_t expected[] = {1, 0, 1, 0};
  for (Index t = 0; t < 4; ++t) REQUIRE(chosen.expert[t] == expected[t]);
}

TEST_CASE("Centroids start orthogonal, with length 0.1", "[moe][base]") {
  using Wide = BaseRouter<BaseRouterConfig{.d_model = 8, .n_experts = 5}, double>;
  Random random(2);
  const auto router = Wide::initialized(random);
  for (Index e = 0; e < 5; ++e) {
    for (Index f = 0; f <= e; ++f) {
      double dot = 0;
      for (Index d = 0; d < 8; ++d) dot += router.scores.weight(e, d) * router.scores.weight(f, d);
      REQUIRE(dot == Approx(e == f ? 0.01 : 0).margin(1e-12));
    }
  }
  using Many = BaseRouter<BaseRouterConfig{.d_model = 2, .n_experts = 5}>;
  for (const float c : Many::initialized(random).scores.weight.flat()) REQUIRE(std::isfinite(c));
}

namespace {
static_assert(TrainableRouter<Hash> && StreamingRouter<Hash> && Router<prepared_form<Hash>>);
static_assert(check::names_every_member<Hash>);
static_assert(TrainableRouter<Base> && StreamingRouter<Base> && Router<prepared_form<Base>>);
static_assert(Mixture<Hash>::in == 4 && Layer<Mixture<Hash>>);
}  // namespace
