// Environments that choose experts.
#include <limen/kernel/least_squares.hpp>
#include <limen/moe/context_slice.hpp>
#include <limen/moe/context_table.hpp>
#include <limen/moe/mixer_router.hpp>

#include "mixtures.hpp"

using namespace limen;

namespace {

using R = MixerRouter<MixerRouterConfig{.d_model = 2, .d_context = 2, .n_experts = 2}, double>;

const Sequence<double, 2> contexts{{0, 0}, {0.2, 0}, {2, 2}, {2.2, 2}};
const Sequence<double, 2> losses{{0.5, 0.1}, {0.4, 0.2}, {0.1, 0.6}, {0.3, 0.3}};

}  // namespace

TEST_CASE("A gate is fitted by K-means, medians and least squares", "[moe][mixer]") {
  R router;
  GateFit<R> fit({.noise = 0});
  fit.set_centroids({0, 0, 1, 1});
  Random random(1);
  REQUIRE(fit.update(router, contexts, losses, random));
  REQUIRE(fit.passes() == 2);
  REQUIRE(fit.clusters() == std::vector<Index>{0, 0, 1, 1});
  REQUIRE(fit.experts() == std::vector<Index>{1, 0});
  const double centroids[] = {0.1, 0, 2.1, 2}, weight[] = {0, 0.5, 0, -0.5}, bias[] = {0, 1};
  for (Index i = 0; i < 4; ++i) {
    REQUIRE(fit.centroids()[static_cast<std::size_t>(i)] == Approx(centroids[i]));
    REQUIRE(router.weight[i] == Approx(weight[i]).margin(1e-12));
  }
  for (Index e = 0; e < 2; ++e) REQUIRE(router.bias[e] == Approx(bias[e]).margin(1e-12));
  R::Chosen chosen;
  REQUIRE(router.route(contexts, {}, chosen));
  const std::int32_t routes[] = {1, 1, 0, 0};
  for (Index n = 0; n < 4; ++n) {
    REQUIRE(chosen.expert[n] == routes[n]);
    REQUIRE(chosen.weight(n, 0) == 1);
  }
}

TEST_CASE("The median of an even number is between the middle two", "[moe][mixer]") {
  const auto expert_of_first = [](double low, double high, double other) {
    R router;
    GateFit<R> fit({.noise = 0});
    fit.set_centroids({0, 0, 1, 1});
    Random random(1);
    const Sequence<double, 2> of{{low, other}, {high, other}, {0, 0}, {0, 0}};
    REQUIRE(fit.update(router, contexts, of, random));
    return fit.experts()[0];
  };
  REQUIRE(expert_of_first(0, 1, 0.6) == 0);  // 0.5, where the upper one would be 1
  REQUIRE(expert_of_first(0, 1, 0.4) == 1);  // and the lower one 0
}

TEST_CASE("An update is given up where a cluster is empty, or K-means takes too long",
          "[moe][mixer]") {
  R router;
  router.weight(1, 0) = 7;
  GateFit<R> fit({.noise = 0});
  Random random(1);
  fit.set_centroids({0, 0, 50, 50});
  REQUIRE(!fit.update(router, contexts, losses, random));
  REQUIRE(fit.given_up() == 1);
  REQUIRE(fit.centroids().empty());  // the next one starts anew
  GateFit<R> hasty({.most_passes = 2, .noise = 0});
  hasty.set_centroids({0, 0, 1, 1});
  REQUIRE(!hasty.update(router, contexts, losses, random));  // the second was the last allowed
  REQUIRE(router.weight(1, 0) == 7);
  REQUIRE_THROWS_WITH(fit.update(router, contexts, middle_rows(losses, 0, 3), random),
                      has_part("rows of losses"));
}

TEST_CASE("Noise on contexts is drawn, and small", "[moe][mixer]") {
  R exact, noisy;
  GateFit<R> plain({.noise = 0}), jittered;
  plain.set_centroids({0, 0, 1, 1});
  jittered.set_centroids({0, 0, 1, 1});
  Random random(1);
  REQUIRE(plain.update(exact, contexts, losses, random));
  REQUIRE(jittered.update(noisy, contexts, losses, random));
  double apart = 0;
  for (Index i = 0; i < 4; ++i) apart += std::abs(exact.weight[i] - noisy.weight[i]);
  REQUIRE((apart > 0 && apart < 0.05));
}

TEST_CASE("Of equal scores the lower expert, or the sum of all", "[moe][mixer]") {
  const R zero;
  R::Chosen chosen;
  REQUIRE(zero.route(contexts, {}, chosen));
  for (Index n = 0; n < 4; ++n) REQUIRE(chosen.expert[n] == 0);

  using Ties =
      MixerRouter<MixerRouterConfig{.d_model = 2, .d_context = 1, .n_experts = 3, .sum_ties = true},
                  double>;
  Mixture<Ties> layer;
  for (Index e = 0; e < 3; ++e) layer.experts.layers[std::size_t(e)].bias[0] = 1 << e;
  layer.router.weight[2] = -1;  // expert 2 is as good as the others for a context of 0
  const Sequence<double, 2> x{{5, 0}, {5, 1}, {5, -1}};
  const auto y = forward(layer, x);
  const double expected[] = {1 + 2 + 4, 1 + 2, 4};
  NoState state;
  for (Index t = 0; t < 3; ++t) {
    REQUIRE(y(t, 0) == expected[t]);
    REQUIRE(layer.step(x.row(t), state)[0] == expected[t]);
  }
}

TEST_CASE("A context that is no number is an error that names the row", "[moe][mixer]") {
  const R router;
  R::Chosen chosen;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE_THROWS_WITH(router.route(Sequence<double, 2>{{0, 0}, {0, nan}}, {}, chosen),
                      has_part("row 1"));
}

TEST_CASE("Tables of contexts and mixtures behind them keep the laws", "[moe][mixer][laws]") {
  using Table = ContextTable<ContextTableConfig{.d = 2, .n_contexts = 4, .d_context = 3}>;
  using Plain = MixerRouter<MixerRouterConfig{.d_model = 5, .d_context = 3, .n_experts = 3}>;
  const auto start = [](auto& layer, Random& random) {
    for_each_tensor([&](auto& tensor) { fill_normal(tensor, 1, random); }, layer);
  };
  hold_from<Tagged<4, Table>>({}, start);
  hold_from<Tagged<4, Sequential<Table, Mixture<Plain>>>>({}, start);
  using Ties = MixerRouter<MixerRouterConfig{
      .d_model = 5, .d_context = 3, .n_experts = 3, .bias = false, .sum_ties = true}>;
  hold_from<Mixture<Ties>>({}, start);
}

TEST_CASE("Each expert may have a part of the context of its own", "[moe][mixer]") {
  using Gate =
      MixerRouter<MixerRouterConfig{.d_model = 5, .d_context = 4, .n_experts = 2, .bias = false},
                  double>;
  using Sum = Linear<LinearConfig{.d_in = 3, .d_out = 1, .bias = false}, double>;
  using L = SplitContext<Gate, Sum>;
  static_assert(L::in == 5 && L::W == 5 && L::E == 2);
  L layer;
  layer.router.weight(0, 3) = 1;  // the gate sees what the experts do not
  layer.router.weight(1, 0) = 1;
  const double first[] = {1, 10, 100}, second[] = {2, 20, 200};
  std::copy_n(first, 3, get<1>(get<0>(layer.experts.layers).layers).weight.data());
  std::copy_n(second, 3, get<1>(get<1>(layer.experts.layers).layers).weight.data());
  const Sequence<double, 5> x{{1, 2, 3, 4, 5}, {1, 5, 3, 4, 2}};
  const auto y = forward(layer, x);
  REQUIRE(y(0, 0) == 1 + 20 + 300);      // expert 0, with 2 and 3
  REQUIRE(y(1, 0) == 2 + 80 + 2 * 200);  // expert 1, with 4 and 2
  L::Cache cache;
  L gradient;
  forward(layer, Sequence<double, 5>(x), cache);
  const auto dx = backward(layer, Sequence<double, 1>{{1}, {1}}, cache, gradient);
  const double slopes[] = {1, 10, 100, 0, 0, 2, 0, 0, 20, 200};
  for (Index i = 0; i < 10; ++i) REQUIRE(dx.data()[i] == slopes[i]);
}

TEST_CASE("Parts of contexts, and experts that see them, keep the laws", "[moe][mixer][laws]") {
  using Slice =
      ContextSlice<ContextSliceConfig{.d_model = 7, .d_context = 6, .n_slices = 3, .slice = 1}>;
  static_assert(Slice::out == 3);
  laws::hold_in_double_and_float<Slice>();
  laws::hold_in_double_and_float<
      ContextSlice<ContextSliceConfig{.d_model = 2, .d_context = 2, .n_slices = 1, .slice = 0}>>();
  using Gate = MixerRouter<MixerRouterConfig{.d_model = 5, .d_context = 4, .n_experts = 2}>;
  hold_from<SplitContext<Gate, Linear<LinearConfig{.d_in = 3, .d_out = 2}>>>(
      {}, [](auto& layer, Random& random) {
        for_each_tensor([&](auto& tensor) { fill_normal(tensor, 1, random); }, layer);
      });
}

TEST_CASE("An environment that there is not is an error that names the row", "[moe][mixer]") {
  const ContextTable<ContextTableConfig{.d = 1, .n_contexts = 2, .d_context = 1}> table;
  REQUIRE_THROWS_WITH(forward(table, Sequence<float, 2>{{0, 1}, {0, 2}}),
                      has_part("environment of row 1"));
  NoState state;
  const Vector<float, 2> x{1, 2};
  REQUIRE(std::isnan(table.step(x, state)[1]));
}

TEST_CASE("Least squares gives the residual that is orthogonal, and the shortest map",
          "[kernel][least_squares]") {
  Random random(2);
  for (const auto& [m, n, rank] :
       {std::array<Index, 3>{1, 1, 1}, {5, 3, 3}, {3, 5, 3}, {8, 4, 2}, {40, 17, 17}, {4, 2, 0}}) {
    const Index p = 3;
    std::vector<double> a(std::size_t(m * n)), y(std::size_t(m * p)), w(std::size_t(n * p));
    std::vector<double> left(std::size_t(m * rank)), right(std::size_t(rank * n));
    for (double& v : left) v = random.normal();
    for (double& v : right) v = random.normal();
    for (double& v : y) v = random.normal();
    const auto at = [](auto& v, Index r, Index c, Index cols) -> auto& {
      return v[static_cast<std::size_t>(r * cols + c)];
    };
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) {
        for (Index k = 0; k < rank; ++k)
          at(a, i, j, n) += at(left, i, k, rank) * at(right, k, j, n);
      }
    }
    least_squares({a.data(), m, n, n}, {y.data(), m, p, p}, {w.data(), n, p, p});
    for (Index c = 0; c < p; ++c) {
      for (Index j = 0; j < n; ++j) {  // Aᵀ (A w - y) = 0
        double slope = 0;
        for (Index i = 0; i < m; ++i) {
          double residual = -at(y, i, c, p);
          for (Index k = 0; k < n; ++k) residual += at(a, i, k, n) * at(w, k, c, p);
          slope += at(a, i, j, n) * residual;
        }
        REQUIRE(slope == Approx(0).margin(1e-9));
      }
    }
    if (rank == 0) {
      for (const double v : w) REQUIRE(v == 0);
    }
    // Shortest: w lies in the row space of A, so that the least squares of Aᵀ to it leave nothing.
    std::vector<double> turned(std::size_t(m * n)), z(std::size_t(m * p));
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) at(turned, j, i, m) = at(a, i, j, n);
    }
    least_squares({turned.data(), n, m, m}, {w.data(), n, p, p}, {z.data(), m, p, p});
    for (Index j = 0; j < n; ++j) {
      for (Index c = 0; c < p; ++c) {
        double back = 0;
        for (Index i = 0; i < m; ++i) back += at(turned, j, i, m) * at(z, i, c, p);
        REQUIRE(back == Approx(at(w, j, c, p)).margin(1e-9));
      }
    }
  }
}

namespace {
static_assert(TrainableRouter<R> && StreamingRouter<R> && Router<prepared_form<R>>);
static_assert(check::names_every_member<R>);
static_assert(check::names_every_member<
              ContextTable<ContextTableConfig{.d = 1, .n_contexts = 2, .d_context = 1}>>);
}  // namespace
