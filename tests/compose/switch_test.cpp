#include <limen/compose/sequential.hpp>
#include <limen/compose/switch.hpp>

#include "../laws.hpp"
#include "layers.hpp"

#include <vector>

using namespace limen;
using namespace parts;

// At rest a Switch is its first alternative, whose laws these are. (`chosen` is no number with a
// slope.)
TEMPLATE_TEST_CASE("Switch keeps the laws of layers", "[compose][switch][laws]",
                   (Switch<Map<3, 2>>), (Switch<Filter<5>, Sequential<Norm<5>, Filter<5>>>),
                   (Sequential<Map<2, 17>, Switch<Filter<17>, Map<17, 17>>, Map<17, 1>>)) {
  laws::hold_for_composed<TestType>({.state_has_slope = false});
}

namespace {

using First = Filter<3>::with_scalar<double>;
using Second = Sequential<Map<3, 3>, Filter<3>>::with_scalar<double>;
using Third = Bend<3>::with_scalar<double>;
using Model = Switch<First, Second, Third>;
using X = Sequence<double, 3>;

const std::vector<Index> offsets{0, 2, 2, 6, 7, 12};
const int chosen[] = {1, 0, 0, 2, 1};

std::vector<Model::State> some_states(const Model& model, Random& random) {
  std::vector<Model::State> states(5);
  for (std::size_t b = 0; b < 5; ++b) {
    for (const int k : {0, 1}) {
      states[b].chosen = k;
      model.forward(noise<double, 3>(2, random), states[b]);
    }
    states[b].chosen = chosen[b];
  }
  return states;
}

void require_near(const X& got, SequenceView<double, 3> expected) {
  REQUIRE(got.rows() == expected.rows());
  for (Index t = 0; t < got.rows(); ++t) {
    for (Index d = 0; d < 3; ++d) REQUIRE(got(t, d) == Approx(expected(t, d)).epsilon(1e-12));
  }
}

void require_near(const Fixed<double, 2, 3>& got, const Fixed<double, 2, 3>& expected) {
  for (Index i = 0; i < 6; ++i) REQUIRE(got[i] == Approx(expected[i]).epsilon(1e-12));
}

/// f(alternative k, its share of a state), for the k that sequence b has chosen.
template <class F>
void with_chosen(std::size_t b, F f) {
  if (chosen[b] == 0) f(std::integral_constant<std::size_t, 0>{});
  if (chosen[b] == 1) f(std::integral_constant<std::size_t, 1>{});
  if (chosen[b] == 2) f(std::integral_constant<std::size_t, 2>{});
}

}  // namespace

TEST_CASE("Each sequence of a batch passes the layer that its state has chosen",
          "[compose][switch]") {
  Random random(1);
  const auto model = Model::initialized(random);
  auto states = some_states(model, random), alone = states;
  const auto x = noise<double, 3>(12, random);
  const X y = model.forward(x, Batch<Model::State>(states, offsets));
  for (std::size_t b = 0; b < 5; ++b) {
    with_chosen(b, [&]<std::size_t K>(std::integral_constant<std::size_t, K>) {
      const X mine = get<K>(model.layers)
                         .forward(middle_rows(x, offsets[b], offsets[b + 1] - offsets[b]),
                                  get<K>(alone[b].parts));
      require_near(mine, middle_rows(y, offsets[b], mine.rows()));
    });
    REQUIRE(states[b].chosen == chosen[b]);
    require_near(get<0>(states[b].parts).past, get<0>(alone[b].parts).past);
    require_near(get<1>(get<1>(states[b].parts)).past, get<1>(get<1>(alone[b].parts)).past);
  }
}

TEST_CASE("The gradients of a Switch are those of the layers that ran", "[compose][switch]") {
  Random random(2);
  const auto model = Model::initialized(random);
  auto states = some_states(model, random), alone = states;
  auto d_states = some_states(model, random), d_alone = d_states;
  const auto x = noise<double, 3>(12, random), dy = noise<double, 3>(12, random);
  Model::Cache cache;
  Model gradient, expected;
  model.forward(X(x), Batch<Model::State>(states, offsets), cache);
  const X dx = model.backward(dy, Batch<Model::State>(d_states, offsets), cache, gradient);
  for (std::size_t b = 0; b < 5; ++b) {
    with_chosen(b, [&]<std::size_t K>(std::integral_constant<std::size_t, K>) {
      const auto& layer = get<K>(model.layers);
      const Index rows = offsets[b + 1] - offsets[b];
      typename std::remove_cvref_t<decltype(layer)>::Cache kept;
      layer.forward(middle_rows(x, offsets[b], rows).copy(), get<K>(alone[b].parts), kept);
      const X mine = layer.backward(middle_rows(dy, offsets[b], rows), get<K>(d_alone[b].parts),
                                    kept, get<K>(expected.layers));
      require_near(mine, middle_rows(dx, offsets[b], rows));
    });
    require_near(get<0>(d_states[b].parts).past, get<0>(d_alone[b].parts).past);
    require_near(get<1>(get<1>(d_states[b].parts)).past, get<1>(get<1>(d_alone[b].parts)).past);
  }
  for_each_parameter(
      [&](const std::string& name, const auto& got, const auto& wanted) {
        INFO(name);
        for (Index i = 0; i < got.size; ++i) REQUIRE(got[i] == Approx(wanted[i]).epsilon(1e-12));
      },
      gradient, expected);
}

TEST_CASE("A Switch steps as it runs, also when the choice changes on the way",
          "[compose][switch]") {
  Random random(3);
  const auto model = Model::initialized(random);
  const auto x = noise<double, 3>(9, random);
  Model::State stepped{}, run{};
  for (Index t = 0; t < 9; ++t) {
    stepped.chosen = run.chosen = static_cast<int>(t / 2 % 3);
    const auto y_t = model.step(x.row(t), stepped);
    const auto y = model.forward(middle_rows(x, t, 1), run);
    for (Index d = 0; d < 3; ++d) REQUIRE(y_t[d] == Approx(y(0, d)).epsilon(1e-12));
  }
}

TEST_CASE("A choice that there is not is an error, and NaN in a step", "[compose][switch]") {
  const Model model;
  Model::State state{.chosen = -1};
  const X x{{1, 2, 3}};
#if LIMEN_EXCEPTIONS
  REQUIRE_THROWS_AS(model.forward(x, state), Exception);
#else
  REQUIRE(model.forward(x, state).rows() == 0);
#endif
  REQUIRE(std::isnan(model.step(x.row(0), state)[2]));
}

TEST_CASE("A Switch streams if all of its alternatives do", "[compose][switch]") {
  STATIC_REQUIRE(Layer<Model>);
  STATIC_REQUIRE_FALSE(Streaming<Switch<Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(Trainable<Switch<Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(std::is_same_v<Model::State, prepared_form<Model>::State>);
}
