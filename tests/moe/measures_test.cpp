#include <limen/moe/measures.hpp>

#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/tap.hpp>
#include <limen/moe/capacity_router.hpp>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/routing_picture.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/linear.hpp>

#include "../allocations.hpp"
#include "../catch.hpp"

using namespace limen;

namespace {

template <Index D>
using Map = Linear<LinearConfig{.d_in = D, .d_out = D}>;
template <Index D>
using Map64 = Linear<LinearConfig{.d_in = D, .d_out = D}, double>;

/// Three experts, of which a row takes one: that of its largest number.
constexpr TopKRouterConfig one_of_three{
    .d_model = 3, .n_experts = 3, .top_k = 1, .normalise = false};
using Route = TopKRouter<one_of_three, double>;
template <class R>
void like_the_largest(R& router) {
  for (Index e = 0; e < 3; ++e) router.weight(e, e) = 1;
}

bool near(double a, double b) { return std::abs(a - b) < 1e-12; }
std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("Measures of routing are those of a handful of rows", "[moe][measures]") {
  RoutingMeasures measures;
  double z[] = {0, 0, std::log(3.0), 0};
  double w[] = {1, 0, 0.25, 0.75}, ids[] = {0, -1, 0, 1};
  measures.at("blocks.3.scores", MatrixView<double>{z, 2, 2, 2});
  measures.at("blocks.3.routing", MatrixView<double>{w, 2, 2, 2});
  measures.at("blocks.3.choices", MatrixView<double>{ids, 2, 2, 2});
  measures.at("blocks.3.else", MatrixView<double>{w, 2, 2, 2});
  REQUIRE(measures.layers().size() == 1);
  const auto& layer = measures.layers()[0];
  REQUIRE(layer.name == "blocks.3");
  REQUIRE(layer.rows == 2);
  REQUIRE(layer.load == std::vector<Index>{2, 1});
  REQUIRE(near(layer.weight[0], 1.25));
  REQUIRE(near(layer.share(0), 2.0 / 3));
  const double h = (std::log(3.0) / 3 + 2.0 / 3 * std::log(1.5)) / std::log(2.0);
  REQUIRE(near(layer.balance(), h));
  const double unsure = (0.75 * std::log(4.0 / 3) + 0.25 * std::log(4.0)) / std::log(2.0);
  REQUIRE(near(layer.entropy(), (1 + unsure) / 2));
  REQUIRE(near(layer.dropped(), 0.25));
  REQUIRE(layer.unserved() == 0);
}

TEST_CASE("A listener hears who was chosen, and changes nothing by listening", "[moe][measures]") {
  using Layer = MixtureOfExperts<Route, Map64<3>>;
  using Model = Repeat<2, Residual<Tap<"mixture", Layer>>>;
  Random random(1);
  auto model = Model::initialized(random);
  for (auto& block : model.layers) like_the_largest(block.inner.inner.router);
  const Sequence<double, 3> x{{5, 0, 0}, {0, 6, 0}, {5, 1, 0}, {0, 0, 7}};
  RoutingMeasures measures;
  Context run{.taps = &measures};
  const Index offsets[] = {0, 4};
  const auto y = model.forward(x, from_rest(offsets, &run)), quiet = forward(model, x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == quiet.data()[i]);
  REQUIRE(measures.layers().size() == 2);
  const auto& first = measures.layers()[0];
  REQUIRE(first.name != measures.layers()[1].name);
  REQUIRE(first.name.find("mixture") != std::string::npos);
  REQUIRE(first.load == std::vector<Index>{2, 1, 1});
  REQUIRE(first.scored == 4);
  Model::Cache cache;
  model.forward(Sequence<double, 3>(x), from_rest(offsets, &run), cache);
  REQUIRE(measures.layers()[0].load == std::vector<Index>{4, 2, 2});
  REQUIRE(measures.layers()[0].history == std::vector<std::vector<Index>>{{2, 1, 1}, {2, 1, 1}});
}

TEST_CASE("What is dropped is counted, and so are rows that nobody serves", "[moe][measures]") {
  using Dropping =
      CapacityRouter<CapacityRouterConfig{.factor = 0.6}, TopKRouter<one_of_three, double>>;
  MixtureOfExperts<Dropping, Map64<3>> layer;
  like_the_largest(layer.router.router);
  const Sequence<double, 3> x{{5, 0, 0}, {4, 0, 0}, {6, 1, 0}, {0, 0, 7}};  // one each
  RoutingMeasures measures;
  Context run{.taps = &measures};
  const Index offsets[] = {0, 4};
  decltype(layer)::Cache cache;
  layer.forward(Sequence<double, 3>(x), from_rest(offsets, &run), cache);
  const auto& heard = measures.layers()[0];
  REQUIRE(heard.load == std::vector<Index>{1, 0, 1});
  REQUIRE(near(heard.dropped(), 0.5));
  REQUIRE(near(heard.unserved(), 0.5));
  REQUIRE(heard.empty == cache.router.dropped);
}

TEST_CASE("Tasks overlap as far as they use the same experts", "[moe][measures]") {
  MixtureOfExperts<Route, Map64<3>> layer;
  like_the_largest(layer.router);
  const Sequence<double, 3> a{{5, 0, 0}, {0, 5, 0}}, b{{5, 0, 0}, {0, 0, 5}, {0, 0, 5}, {0, 0, 5}};
  RoutingMeasures measures;
  Context run{.taps = &measures};
  const auto listen = [&](const Sequence<double, 3>& x) {
    const Index offsets[] = {0, x.rows()};
    layer.forward(x, from_rest(offsets, &run));
  };
  listen(b);  // of no task
  measures.set_task(0);
  listen(a);
  measures.set_task(1);
  listen(b);
  const auto& heard = measures.layers()[0];
  REQUIRE(near(heard.overlap(0, 0), 1));
  REQUIRE(near(heard.overlap(0, 1), 0.25));  // expert 0: a half of a, a quarter of b
  REQUIRE(heard.overlap(0, 2) == 0);
  const Index of_rows[] = {0, 2, 2, 0};
  measures.clear();
  measures.set_tasks(of_rows);
  listen(b);
  listen(a);  // other rows than said
  const auto& again = measures.layers()[0];
  REQUIRE(again.tasks[0] == std::vector<Index>{1, 0, 1});
  REQUIRE(again.tasks[1].empty());
  REQUIRE(again.tasks[2] == std::vector<Index>{0, 0, 2});
  REQUIRE(near(again.overlap(0, 2), 0.5));
}

TEST_CASE("Routing over time is drawn a column for so many rows", "[moe][measures]") {
  MixtureOfExperts<Route, Map64<3>> layer;
  like_the_largest(layer.router);
  RoutingMeasures measures({.rows_per_column = 2});
  Context run{.taps = &measures};
  NoState state;
  const Sequence<double, 3> x{{5, 0, 0}, {0, 5, 0}, {0, 5, 0}};
  measures.set_task(1);
  for (Index t = 0; t < 3; ++t) {
    layer.forward(middle_rows(x, t, 1), Batch<NoState>(state, &run));
  }
  const auto& heard = measures.layers()[0];
  REQUIRE(heard.history == std::vector<std::vector<Index>>{{1, 1, 0}, {0, 1, 0}});
  const std::string time = routing_over_time(heard, "a < b");
  REQUIRE(time.rfind("<svg", 0) == 0);
  REQUIRE(time.find("a &lt; b") != time.npos);
  REQUIRE(count(time, "fill=\"rgb(") == 3);
  REQUIRE(count(time, "fill=\"rgb(20,65,150)\"") == 1);  // the only full share
  REQUIRE(count(routing_of_tasks(heard), "fill=\"rgb(") == 2);
  REQUIRE(count(routing_over_time({}), "</svg>") == 1);  // nothing heard
}

TEST_CASE("Without a listener nothing is prepared for it", "[moe][measures]") {
  MixtureOfExperts<TopKRouter<one_of_three>, Map<3>> layer;
  like_the_largest(layer.router);
  const Sequence<float, 3> x{{5, 0, 0}, {0, 5, 0}, {0, 5, 0}};
  Context silent;
  const Index offsets[] = {0, 3};
  for (int i = 0; i < 3; ++i) layer.forward(x, from_rest(offsets, &silent));
  const auto before = allocations();
  layer.forward(x, from_rest(offsets, &silent));
  REQUIRE(allocations() == before);
}
