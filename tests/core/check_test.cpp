// Planted bugs: a law that cannot fail is no law.
#include <limen/check.hpp>
#include <limen/core/initialize.hpp>

#include "../allocations.hpp"
#include "../catch.hpp"

using namespace limen;

namespace {

enum class Bug {
  none,
  step_forgets_state,
  chunk_forgets_state,
  training_differs,
  gradient_of_parameter,
  gradient_of_input,
  gradient_of_first_state,
  gradient_is_overwritten,
  batch_leaks,
  step_allocates,
  sees_the_future,
  takes_any_rows,
};

/// v_t = k v_{t-1} + x_t: the smallest layer with memory, and its mistakes.
template <Bug B, class S = double>
struct Leak {
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = Leak<B, T>;  // float or double: it has no inference form
  static constexpr Index in = 2, out = 2;

  Tensor<Real, 2> k;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("k", l.k...);
  }
  static Leak initialized(Random& random) {
    Leak layer;
    fill_uniform(layer.k, 0.9, random);
    return layer;
  }

  struct State {
    Fixed<Real, 2> v;
  };

  Sequence<Real, 2> forward(SequenceView<Real, 2> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    Sequence<Real, 2> y(x.rows());
    State rest;
    for (Index b = 0; b < batch.count(); ++b) {
      if (B != Bug::batch_leaks) rest = {};
      State& s = batch.carries() ? batch[b] : rest;
      if (B == Bug::chunk_forgets_state) s = {};
      for (Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
        for (Index d = 0; d < 2; ++d) {
          y(t, d) = s.v[d] = k[d] * s.v[d] + x(t, d);
          if (B == Bug::sees_the_future && t + 1 < x.rows()) y(t, d) += x(t + 1, d);
        }
      }
    }
    return y;
  }

  Vector<Real, 2> step(VectorView<Real, 2> x, State& s) const noexcept {
    Vector<Real, 2> y;
    for (Index d = 0; d < 2; ++d) {
      y[d] = k[d] * s.v[d] + x[d];
      if (B != Bug::step_forgets_state) s.v[d] = y[d];
    }
    if (B == Bug::step_allocates) delete new volatile int(3);
    return y;
  }

  struct Cache {
    Sequence<Real, 2> before;
  };

  Sequence<Real, 2> forward(Sequence<Real, 2> x, Batch<State> batch, Cache& cache) const {
    cache.before = Sequence<Real, 2>(x.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      State rest;
      State& s = batch.carries() ? batch[b] : rest;
      for (Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
        for (Index d = 0; d < 2; ++d) {
          cache.before(t, d) = s.v[d];
          x(t, d) = s.v[d] = k[d] * s.v[d] + x(t, d);
          if (B == Bug::training_differs) x(t, d) += Real(1e-3);
        }
      }
    }
    return x;
  }

  Sequence<Real, 2> backward(SequenceView<Real, 2> dy, Batch<State> batch, const Cache& cache,
                             Leak& gradient) const {
    if (B != Bug::takes_any_rows && !fits_cache(dy.rows(), cache.before.rows())) return {};
    Sequence<Real, 2> dx(dy.rows());
    if (B == Bug::gradient_is_overwritten) fill(gradient.k, 0);
    for (Index b = 0; b < batch.count(); ++b) {
      State rest;
      State& g = batch.carries() ? batch[b] : rest;
      for (Index t = batch.end(b, dy.rows()) - 1; t >= batch.begin(b); --t) {
        for (Index d = 0; d < 2; ++d) {
          const Real dv = dy(t, d) + g.v[d];
          gradient.k[d] += dv * cache.before(t, d) * (B == Bug::gradient_of_parameter ? 2 : 1);
          dx(t, d) = dv * (B == Bug::gradient_of_input ? 2 : 1);
          g.v[d] = k[d] * dv;
        }
      }
      if (B == Bug::gradient_of_first_state) g = {};
    }
    return dx;
  }
};

template <Bug B>
std::string broken_laws() {
  Random random(3);
  check::Options options;
  options.allocations = allocations;
  options.refuses_other_rows = true;
  return check::laws(Leak<B>::initialized(random), options).text();
}

struct Forgetful {
  Tensor<float, 2> a;
  Tensor<float, 2> forgotten;
  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("a", l.a...);
  }
};

}  // namespace

TEST_CASE("A sound layer keeps all laws", "[core][check]") {
  REQUIRE(broken_laws<Bug::none>() == "all laws hold");
  Random random(3);
  REQUIRE(check::laws(Leak<Bug::none, float>::initialized(random)).ok());
  STATIC_REQUIRE_FALSE(Preparable<Leak<Bug::none>>);
}

TEST_CASE("Each planted bug breaks its law, and the report says where", "[core][check]") {
  CHECK_THAT(broken_laws<Bug::step_forgets_state>(), has_part("stepping is forward: 2 rows"));
  CHECK_THAT(broken_laws<Bug::chunk_forgets_state>(),
             has_part("cutting changes nothing: 2 rows, cut at 1, tail"));
  CHECK_THAT(broken_laws<Bug::training_differs>(), has_part("training is inference: 1 rows[0]"));
  CHECK_THAT(broken_laws<Bug::gradient_of_parameter>(), has_part("backward is the slope: k[0]"));
  CHECK_THAT(broken_laws<Bug::gradient_of_input>(), has_part("backward is the slope: input[0]"));
  CHECK_THAT(broken_laws<Bug::gradient_of_first_state>(),
             has_part("backward is the slope: first state of sequence 0[0]"));
  CHECK_THAT(broken_laws<Bug::gradient_is_overwritten>(), has_part("gradients add: k[0]"));
  CHECK_THAT(broken_laws<Bug::batch_leaks>(),
             has_part("a batch is its sequences: sequence 2 from rest[0]"));
  CHECK_THAT(broken_laws<Bug::step_allocates>(),
             has_part("stepping allocates nothing: allocations: got 3"));
  CHECK_THAT(broken_laws<Bug::sees_the_future>(), has_part("the past does not see the future"));
  CHECK_THAT(broken_laws<Bug::takes_any_rows>(),
             has_part("other rows are refused: rows of dx: got 2, expected 0") &&
                 has_part("other rows are refused: k[0]"));
}

TEST_CASE("A layer that cannot know how many rows there were need not refuse others",
          "[core][check]") {
  Random random(3);
  REQUIRE(check::laws(Leak<Bug::takes_any_rows>::initialized(random), {.refuses_other_rows = false})
              .ok());
}

TEST_CASE("A member that visit forgets is counted", "[core][check]") {
  STATIC_REQUIRE(!check::names_every_member<Forgetful>);
  STATIC_REQUIRE(check::names_every_member<Leak<Bug::none>>);
}
