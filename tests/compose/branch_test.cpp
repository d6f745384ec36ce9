#include <limen/compose/branch.hpp>
#include <limen/compose/sequential.hpp>

#include "../laws.hpp"
#include "layers.hpp"

using namespace limen;
using namespace parts;

namespace {

/// The second way where the first number is positive.
struct Positive {
  template <class Real, Index D>
  bool operator()(VectorView<Real, D> x) const {
    return x[0] > Real(0);
  }
};

/// Ways 0, 1, 2 by thirds of the normal distribution.
struct Thirds {
  template <class Real, Index D>
  Index operator()(VectorView<Real, D> x) const {
    return x[0] < Real(-0.43) ? 0 : x[0] < Real(0.43) ? 1 : 2;
  }
};

struct Always7 {
  template <class Real, Index D>
  Index operator()(VectorView<Real, D>) const {
    return 7;
  }
};

/// Notes how many rows it is given.
inline Index rows_seen = 0;
template <Index D, class S = float>
struct Counting : Bend<D>::template with_scalar<S> {
  using Base = typename Bend<D>::template with_scalar<S>;
  template <class T>
  using with_scalar = Counting<D, T>;
  static Counting initialized(Random&) { return {}; }
  using Base::forward;
  Sequence<S, D> forward(SequenceView<S, D> x, Batch<NoState> batch) const {
    rows_seen += x.rows();
    return Base::forward(x, batch);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("Branch keeps the laws of layers", "[compose][branch][laws]",
                   (Branch<Positive, Map<3, 2>, Map<3, 2>>),
                   (Branch<Positive, Filter<5>, Sequential<Norm<5>, Filter<5>>>),
                   (Branch<Thirds, Map<2, 17>, Sequential<Filter<2>, Map<2, 17>>, Map<2, 17>>),
                   (Branch<Positive, Bend<3>, Branch<Thirds, Bend<3>, Filter<3>, Map<3, 3>>>)) {
  // With these seeds no input lies so near to a border that a difference would cross it.
  laws::hold_for_composed<TestType>({.seed = 3});
}

TEST_CASE("Each row passes the layer it chooses", "[compose][branch]") {
  Branch<Positive, Map<1, 1>, Map<1, 1>>::with_scalar<double> model;
  get<0>(model.layers).weight[0] = 10;
  get<1>(model.layers).weight[0] = 100;
  const auto y = forward(model, Sequence<double, 1>{{1}, {-2}, {3}, {-4}});
  REQUIRE(y(0, 0) == 100);
  REQUIRE(y(1, 0) == -20);
  REQUIRE(y(2, 0) == 300);
  REQUIRE(y(3, 0) == -40);
}

TEST_CASE("The memory of a layer stands still while another one is chosen", "[compose][branch]") {
  Random random(1);
  const auto model = Branch<Positive, Bend<2>, Filter<2>>::with_scalar<double>::initialized(random);
  const auto y = forward(model, Sequence<double, 2>{{1, 2}, {-1, 5}, {-3, 3}, {4, 1}});
  const auto mine = forward(get<1>(model.layers), Sequence<double, 2>{{1, 2}, {4, 1}});
  REQUIRE(y(0, 0) == mine(0, 0));
  REQUIRE(y(3, 1) == mine(1, 1));
}

TEST_CASE("Only the chosen layer runs", "[compose][branch]") {
  using Model = Branch<Positive, Bend<1>, Counting<1>>;
  const Model model;
  rows_seen = 0;
  forward(model, Sequence<float, 1>{{-1}, {-2}, {3}, {-4}});
  REQUIRE(rows_seen == 1);
  forward(model, Sequence<float, 1>{{-1}, {-2}});
  REQUIRE(rows_seen == 1);
  forward(model, Sequence<float, 1>{{1}, {2}});
  REQUIRE(rows_seen == 3);
}

TEST_CASE("A way that there is not is an error, and NaN in a step", "[compose][branch]") {
  using Model = Branch<Always7, Bend<1>, Bend<1>>;
  const Model model;
  const Sequence<float, 1> x{{1}, {2}};
#if LIMEN_EXCEPTIONS
  std::string message;
  try {
    forward(model, x);
  } catch (const Exception& e) {
    message = e.what();
  }
  REQUIRE(message == "Branch: wanted an alternative below 2, found another one at row 0");
#else
  REQUIRE(forward(model, x).rows() == 0);
#endif
  Model::State state{};
  REQUIRE(std::isnan(model.step(x.row(0), state)[0]));
}

TEST_CASE("The alternatives of a Branch are named by position", "[compose][branch]") {
  REQUIRE(names<Branch<Positive, Norm<2>, Filter<2>>>() == "0.weight 1.weight 1.bias ");
}

TEST_CASE("A Branch streams if all of its alternatives do", "[compose][branch]") {
  STATIC_REQUIRE(Layer<Branch<Positive, Filter<3>, Bend<3>>>);
  STATIC_REQUIRE_FALSE(Streaming<Branch<Positive, Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(Trainable<Branch<Positive, Filter<3>, Reverse<3>>>);
  STATIC_REQUIRE(std::is_empty_v<Branch<Positive, Map<3, 3>, Bend<3>>::State>);
}
