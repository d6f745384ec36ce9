// What composing costs: each combinator against the same layers called by hand. Work: flops.
// Branch is measured at several shares of rows that take the dear way.

#include <limen/compose/branch.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/compose/tap.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>

#include <benchmark/benchmark.h>

#include <string>
#include <tuple>

namespace {

using namespace limen;

template <Index D>
using Map = Linear<LinearConfig{.d_in = D, .d_out = D}>;
template <Index D>
using Bend = Activate<ActivateConfig{.d = D, .activation = Activation::silu}>;
template <class L>
using Fast = prepared_form<L>;
const Batch<NoState> batch;

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

template <class F>
void add(const std::string& name, double work, F run) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    run(state);
    state.counters["work"] = work;
  });
}

/// Four maps with a bend after each, one step.
template <Index D>
void steps() {
  using Model = Sequential<Map<D>, Bend<D>, Map<D>, Bend<D>, Map<D>, Bend<D>, Map<D>, Bend<D>>;
  using Loop = Repeat<4, Sequential<Map<D>, Bend<D>>>;
  const std::string size = "step/" + std::to_string(D);
  const double work = 2.0 * static_cast<double>(macs<Model>(1));
  const auto by_composition = [](auto model) {
    return [=](benchmark::State& state) {
      const auto x = noise<D>(1);
      typename decltype(model)::State s{};
      for (auto _ : state) benchmark::DoNotOptimize(model.step(x.row(0), s));
    };
  };
  Random random(1);
  const auto model = prepare(Model::initialized(random));
  const auto by_hand = [=](benchmark::State& state) {
    const auto [a, b, c, d] = std::tie(get<0>(model.layers), get<2>(model.layers),
                                       get<4>(model.layers), get<6>(model.layers));
    const Fast<Bend<D>> bend;
    const auto x = noise<D>(1);
    NoState none;
    const FlushDenormals guard;
    for (auto _ : state) {
      const auto h = bend.step(a.step(x.row(0), none), none);
      const auto i = bend.step(b.step(h, none), none);
      const auto j = bend.step(c.step(i, none), none);
      benchmark::DoNotOptimize(bend.step(d.step(j, none), none));
    }
  };
  add("compose.sequential." + size, work, by_composition(model));
  add("peer:by_hand:compose.sequential." + size, work, by_hand);
  add("compose.repeat." + size, work, by_composition(prepare(Loop::initialized(random))));
  add("peer:by_hand:compose.repeat." + size, work, by_hand);
}

/// Whole sequences, and training.
template <Index D>
void sequences(Index rows) {
  using Model = Sequential<Map<D>, Bend<D>, Map<D>>;
  using Bare = Residual<Map<D>>;
  const std::string size = std::to_string(rows) + "x" + std::to_string(D);
  const double map = 2.0 * static_cast<double>(macs<Map<D>>(rows));
  Random random(1);
  const auto model = Model::initialized(random);
  const auto fast = prepare(model);
  const auto residual = prepare(Bare::initialized(random));
  const auto tapped =
      prepare(Sequential<Map<D>, Tap<"middle", Bend<D>>, Map<D>>::initialized(random));
  const auto forward_of = [rows](const auto& m) {
    return [m, rows](benchmark::State& state) {
      const auto x = noise<D>(rows);
      for (auto _ : state) benchmark::DoNotOptimize(forward(m, x).data());
    };
  };
  const auto by_hand = [fast, rows](benchmark::State& state) {
    const auto x = noise<D>(rows);
    for (auto _ : state) {
      auto h = get<0>(fast.layers).forward(x, batch);
      h = get<1>(fast.layers).forward(h, batch);
      benchmark::DoNotOptimize(get<2>(fast.layers).forward(h, batch).data());
    }
  };
  add("compose.sequential.forward/" + size, 2 * map, forward_of(fast));
  add("peer:by_hand:compose.sequential.forward/" + size, 2 * map, by_hand);
  add("compose.tap.forward/" + size, 2 * map, forward_of(tapped));
  add("peer:by_hand:compose.tap.forward/" + size, 2 * map, by_hand);

  add("compose.residual.forward/" + size, map, forward_of(residual));
  add("peer:by_hand:compose.residual.forward/" + size, map, [residual, rows](auto& state) {
    const auto x = noise<D>(rows);
    for (auto _ : state) {
      auto y = residual.inner.forward(x, batch);
      for (Index i = 0; i < y.size(); ++i) y.data()[i] += x.data()[i];
      benchmark::DoNotOptimize(y.data());
    }
  });

  add("compose.sequential.train/" + size, 6 * map, [model, rows](benchmark::State& state) {
    const auto x = noise<D>(rows), dy = noise<D>(rows);
    typename Model::Cache cache;
    Model gradient;
    for (auto _ : state) {
      benchmark::DoNotOptimize(forward(model, Sequence<float, D>(x), cache).data());
      benchmark::DoNotOptimize(backward(model, dy, cache, gradient).data());
    }
  });
  add("peer:by_hand:compose.sequential.train/" + size, 6 * map, [model, rows](auto& state) {
    const auto x = noise<D>(rows), dy = noise<D>(rows);
    const auto [a, b, c] =
        std::tie(get<0>(model.layers), get<1>(model.layers), get<2>(model.layers));
    typename Map<D>::Cache in, out;
    typename Bend<D>::Cache middle;
    Map<D> d_in, d_out;
    Bend<D> d_middle;
    for (auto _ : state) {
      auto h = a.forward(Sequence<float, D>(x), batch, in);
      h = b.forward(std::move(h), batch, middle);
      benchmark::DoNotOptimize(c.forward(std::move(h), batch, out).data());
      h = c.backward(dy, batch, out, d_out);
      h = b.backward(h, batch, middle, d_middle);
      benchmark::DoNotOptimize(a.backward(h, batch, in, d_in).data());
    }
  });
}

/// Rows whose first number is positive take four maps, the others none.
struct Positive {
  template <class Real, Index D>
  bool operator()(VectorView<Real, D> x) const {
    return x[0] > 0;
  }
};

template <Index D>
void branches(Index rows) {
  using Cheap = Bend<D>;
  using Dear = Sequential<Map<D>, Map<D>, Map<D>, Map<D>>;
  Random random(1);
  const auto model = prepare(Branch<Positive, Cheap, Dear>::initialized(random));
  const auto with_dear = [=](Index dear) {
    auto x = noise<D>(rows);
    for (Index t = 0; t < rows; ++t) {
      // spread evenly, so that they have to be gathered
      x(t, 0) = (t + 1) * dear / rows > t * dear / rows ? 1.f : -1.f;
    }
    return x;
  };
  for (const Index percent : {0, 25, 50, 100}) {
    const Index dear = rows * percent / 100;
    const std::string size =
        std::to_string(dear) + "of" + std::to_string(rows) + "x" + std::to_string(D);
    const double work = 2.0 * static_cast<double>(macs<Dear>(dear));
    add("compose.branch.forward/" + size, work, [=](benchmark::State& state) {
      const auto x = with_dear(dear);
      for (auto _ : state) benchmark::DoNotOptimize(forward(model, x).data());
    });
    // all rows computed both ways, then chosen: what a mask costs
    add("peer:masked:compose.branch.forward/" + size, work, [=](benchmark::State& state) {
      const auto x = with_dear(dear);
      for (auto _ : state) {
        const auto cheap = forward(get<0>(model.layers), x);
        auto y = forward(get<1>(model.layers), x);
        for (Index t = 0; t < rows; ++t) {
          if (!Positive()(x.row(t)))
            copy_rows<float>(middle_rows(cheap, t, 1).matrix(), y.matrix().middle_rows(t, 1));
        }
        benchmark::DoNotOptimize(y.data());
      }
    });
  }
}

[[maybe_unused]] const bool registered = [] {
  steps<16>();
  steps<64>();
  steps<256>();
  sequences<64>(64);
  sequences<256>(512);
  branches<256>(512);
  return true;
}();

}  // namespace
