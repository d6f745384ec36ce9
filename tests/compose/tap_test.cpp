#include <limen/compose/branch.hpp>
#include <limen/compose/gated.hpp>
#include <limen/compose/parallel.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/compose/tap.hpp>

#include "../laws.hpp"
#include "layers.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

using namespace limen;
using namespace parts;

TEMPLATE_TEST_CASE("Tap keeps the laws of layers", "[compose][tap][laws]", (Tap<"all", Map<3, 17>>),
                   (Sequential<Tap<"in", Filter<5>>, Norm<5>>),
                   (Tap<"outer", Repeat<2, Tap<"inner", Filter<2>>>>)) {
  laws::hold_for_composed<TestType>();
}

namespace {

/// Writes down who passes, and lets the test change the rows.
struct Listener : TapListener {
  std::string heard;
  std::function<void(std::string_view, MatrixView<double>)> then, then_back;

  void at(std::string_view name, MatrixView<float>) override {
    heard += "float! " + std::string(name);
  }
  void back_at(std::string_view name, MatrixView<double> dy) override {
    if (then_back) then_back(name, dy);
  }
  void at(std::string_view name, MatrixView<double> rows) override {
    heard += std::string(name) + '[' + std::to_string(rows.rows) + 'x' + std::to_string(rows.cols) +
             "] ";
    if (then) then(name, rows);
  }
};

template <class L>
using Double = typename L::template with_scalar<double>;

template <class L>
std::string heard_in(Index rows) {
  Random random(1);
  const auto model = L::initialized(random);
  Listener listener;
  Context run{.taps = &listener};
  typename L::State state{};
  const auto x = noise<double, L::in>(rows, random);
  model.forward(x, Batch<typename L::State>(state, &run));
  const std::string inferred = std::exchange(listener.heard, "");
  typename L::Cache cache;
  model.forward(Sequence<double, L::in>(x), Batch<typename L::State>(state, &run), cache);
  REQUIRE(listener.heard == inferred);  // training tells the same
  listener.heard.clear();
  prepare(model).forward(x, Batch<typename L::State>(state, &run));
  REQUIRE(listener.heard == inferred);
  return inferred;
}

struct Positive {
  template <class Real, Index D>
  bool operator()(VectorView<Real, D> x) const {
    return x[0] > Real(0);
  }
};

}  // namespace

TEST_CASE("A listener hears each tap by the names that lead to it", "[compose][tap]") {
  using Block = Residual<Sequential<Norm<3>, Tap<"mixer", Filter<3>>>>;
  REQUIRE(heard_in<Double<Tap<"blocks", Repeat<2, Block>>>>(4) ==
          "blocks.0.inner.1.mixer[4x3] blocks.1.inner.1.mixer[4x3] blocks[4x3] ");
  REQUIRE(heard_in<Double<Sequential<Tap<"a", Map<3, 2>>, Tap<"b", Tap<"c", Bend<2>>>>>>(1) ==
          "0.a[1x2] 1.b.c[1x2] 1.b[1x2] ");
  REQUIRE(heard_in<Double<Gated<Tap<"v", Map<1, 2>>, Tap<"g", Map<1, 2>>>>>(2) ==
          "value.v[2x2] gate.g[2x2] ");
  REQUIRE(heard_in<Double<Parallel<Join::concat, Tap<"l", Map<1, 2>>, Tap<"r", Map<1, 3>>>>>(2) ==
          "0.l[2x2] 1.r[2x3] ");
}

TEST_CASE("A tap on a branch is passed by the rows that take it", "[compose][tap]") {
  using Model = Double<Branch<Positive, Tap<"no", Bend<1>>, Tap<"yes", Bend<1>>>>;
  Listener listener;
  Context run{.taps = &listener};
  const Model model;
  Model::State state{};
  model.forward(Sequence<double, 1>{{1}, {-1}, {2}}, Batch<Model::State>(state, &run));
  REQUIRE(listener.heard == "0.no[1x1] 1.yes[2x1] ");
}

TEST_CASE("A listener may change what passes", "[compose][tap]") {
  using Model = Double<Sequential<Tap<"middle", Map<2, 2>>, Map<2, 1>>>;
  Random random(1);
  const auto model = Model::initialized(random);
  const auto x = noise<double, 2>(3, random);
  Listener listener;
  listener.then = [](std::string_view name, MatrixView<double> rows) {
    REQUIRE(name == "0.middle");
    for (Index t = 0; t < rows.rows; ++t) rows(t, 1) = 0;  // one unit silenced
  };
  Context run{.taps = &listener};
  Model::State state{};
  const auto y = model.forward(x, Batch<Model::State>(state, &run));
  auto without = model;
  auto& first = get<0>(without.layers).inner;
  first.weight(1, 0) = first.weight(1, 1) = first.bias[1] = 0;
  REQUIRE(same_bits(y, forward(without, x)));
}

TEST_CASE("Backward takes what a listener changed for a constant", "[compose][tap]") {
  using Model = Double<Sequential<Tap<"middle", Map<2, 2>>, Bend<2>>>;
  Random random(1);
  const auto model = Model::initialized(random);
  Listener listener;
  listener.then = [](std::string_view, MatrixView<double> rows) { rows(0, 0) += 0.5; };
  Context run{.taps = &listener};
  Model::State state{};
  Model::Cache cache;
  Model gradient;
  const Sequence<double, 2> x{{0.3, -0.2}}, dy{{1, 0}};
  const auto y = model.forward(Sequence<double, 2>(x), Batch<Model::State>(state, &run), cache);
  const auto dx = model.backward(dy, Batch<Model::State>(state, &run), cache, gradient);
  const double slope = 1 - y(0, 0) * y(0, 0);  // of tanh, at the steered place
  REQUIRE(dx(0, 0) == Approx(slope * get<0>(model.layers).inner.weight(0, 0)));
  REQUIRE(listener.heard == "0.middle[1x2] ");  // backward is not heard
}

TEST_CASE("In backward a listener hears gradients by the same names", "[compose][tap]") {
  using Model = Double<Sequential<
      Tap<"a", Repeat<2, Residual<Tap<"b", Filter<2>>>>>,
      Gated<Tap<"v", Map<2, 2>>, Tap<"g", Map<2, 2>>>,
      Branch<Positive, Tap<"no", Bend<2>>, Tap<"yes", Bend<2>>>,
      Parallel<Join::concat, Tap<"l", Map<2, 2>>, Parallel<Join::product, Tap<"r", Map<2, 1>>>>>>;
  Random random(1);
  const auto model = Model::initialized(random);
  Listener listener;
  Context run{.taps = &listener};
  std::vector<std::string> there, back;
  listener.then = [&](std::string_view name, MatrixView<double>) { there.emplace_back(name); };
  listener.then_back = [&](std::string_view name, MatrixView<double>) { back.emplace_back(name); };
  Model::State state{};
  Model::Cache cache;
  Model gradient;
  const auto dy = noise<double, 3>(9, random);
  model.forward(noise<double, 2>(9, random), Batch<Model::State>(state, &run), cache);
  REQUIRE(back.empty());
  model.backward(dy, Batch<Model::State>(state, &run), cache, gradient);
  REQUIRE(there.size() == 9);
  std::sort(there.begin(), there.end());
  std::sort(back.begin(), back.end());
  REQUIRE(back == there);
}

TEST_CASE("A listener may change gradients", "[compose][tap]") {
  using Model = Double<Sequential<Tap<"middle", Map<2, 2>>, Bend<2>>>;
  Random random(1);
  const auto model = Model::initialized(random);
  Listener listener;
  listener.then_back = [](std::string_view name, MatrixView<double> dy) {
    REQUIRE(name == "0.middle");
    dy(0, 1) = 0;
  };
  Context run{.taps = &listener};
  Model::State state{};
  Model::Cache cache;
  Model gradient;
  const Sequence<double, 2> dy{{1, 1}};
  model.forward(Sequence<double, 2>{{0.3, -0.2}}, Batch<Model::State>(state, &run), cache);
  model.backward(dy, Batch<Model::State>(state, &run), cache, gradient);
  const auto& map = get<0>(gradient.layers).inner;
  REQUIRE(map.bias[0] != 0);
  REQUIRE(map.bias[1] == 0);
  REQUIRE(dy(0, 1) == 1);  // the caller's is as it was
}

TEST_CASE("Taps are not in the names of parameters", "[compose][tap]") {
  REQUIRE(names<Tap<"all", Sequential<Tap<"a", Map<2, 2>>, Filter<2>>>>() ==
          names<Sequential<Map<2, 2>, Filter<2>>>());
}

TEST_CASE("A listener costs nothing where there is none", "[compose][tap]") {
  using Plain = Map<3, 3>;
  using Tapped = Tap<"here", Plain>;
  STATIC_REQUIRE(sizeof(Tapped) == sizeof(Plain));
  STATIC_REQUIRE(std::is_same_v<Tapped::State, Plain::State>);
  STATIC_REQUIRE(std::is_same_v<Tapped::Cache, Plain::Cache>);
  Random random(1);
  const auto layer = Tapped::initialized(random);
  const auto x = noise<float, 3>(5, random);
  forward(layer, x);
  const std::size_t before = allocations();
  const auto y = forward(layer, x);
  REQUIRE(allocations() == before);
  REQUIRE(same_bits(y, forward(layer.inner, x)));
}

TEST_CASE("A Tap streams if its layer does", "[compose][tap]") {
  STATIC_REQUIRE(Layer<Tap<"x", Filter<3>>>);
  STATIC_REQUIRE_FALSE(Streaming<Tap<"x", Reverse<3>>>);
}
