#pragma once
/// @file  What the tests of Gman and its parts share: layers over rows of steps and nodes asked for
/// the laws, noise, and readings.

#include "../laws.hpp"

namespace steps {

using namespace limen;

/// A layer over [T][N] rows as one over T rows, N times as wide: the same numbers in memory.
template <class L, Index N>
struct InSteps {
  L layer;

  static constexpr Index in = N * L::in, out = N * L::out;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  using State = NoState;
  using Cache = detail::cache_of<L>;
  template <class T>
  using with_scalar = InSteps<typename L::template with_scalar<T>, N>;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("layer", m.layer...);
  }
  static InSteps initialized(Random& random) {
    InSteps model;
    model.layer = L::initialized(random);
    return model;
  }

  struct Offsets {
    Buffer<Index> values;
    Offsets(const Batch<State>& batch, Index rows) : values(batch.count() + 1) {
      values[0] = 0;
      for (Index b = 0; b < batch.count(); ++b) values[b + 1] = N * batch.end(b, rows);
    }
    Batch<State> batch() const {
      return Batch<State>({values.data(), static_cast<std::size_t>(values.size())});
    }
  };
  template <Index To, Index From>
  static Sequence<Real, To> as(SequenceView<Real, From> x) {
    Sequence<Real, To> y(x.rows() * From / To);
    for (Index i = 0; i < y.size(); ++i) y.data()[i] = x.data()[i];
    return y;
  }

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const Offsets offsets(batch, x.rows());
    return as<out, L::out>(layer.forward(as<L::in, in>(x.copy()), offsets.batch()));
  }
  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<L>)
  {
    const Offsets offsets(batch, x.rows());
    return as<out, L::out>(layer.forward(as<L::in, in>(x), offsets.batch(), cache));
  }
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              InSteps& gradient) const
    requires(Trainable<L>)
  {
    const Offsets offsets(batch, dy.rows());
    return as<in, L::in>(
        layer.backward(as<L::out, out>(dy.copy()), offsets.batch(), cache, gradient.layer));
  }
};

/// No bias is 0, where a reading of 0 would stand on a kink of relu. In float steps of 1e-2 cross
/// kinks: slopes are left to double.
template <class L>
void keeps_the_laws(check::Options options = {.causal = false}) {
  Random random(options.seed);
  const auto hold = [&](auto model) {
    for_each_tensor(
        [&](auto& t) {
          for (auto& v : t.flat())
            v += static_cast<std::remove_cvref_t<decltype(v)>>(0.1 * random.normal());
        },
        model);
    laws::hold(model, options);
  };
  hold(L::template with_scalar<double>::initialized(random));
  options.slope = 1e3;
  options.tolerance = 1e-3;  // blocks behind blocks, of numbers up to 30
  hold(L::template with_scalar<float>::initialized(random));
}

template <Index D>
Sequence<double, D> noise(Index rows, Random& random) {
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

/// Rows of readings at times that go on.
template <class M>
Sequence<double, M::in> readings(Index rows, Random& random) {
  auto x = noise<M::in>(rows, random);
  for (Index t = 0; t < rows; ++t) {
    x(t, M::N) = static_cast<double>(t / 3 % 7);
    x(t, M::N + 1) = static_cast<double>(t % M::config.slots);
  }
  return x;
}

}  // namespace steps
