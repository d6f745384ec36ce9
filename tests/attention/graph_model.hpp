#pragma once
/// @file  What the tests of layers along edges share: such a layer as a layer by itself, so that it
/// can be asked for the laws (it makes a graph for each sequence, from the number of its rows
/// alone), and runs on a graph.

#include <limen/attention/graph.hpp>
#include <limen/check.hpp>
#include <limen/compose/parts.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include "../catch.hpp"

namespace graphs {

using namespace limen;

/// Graphs of all sequences side by side, and what their edges say.
template <class Real>
struct World {
  Graph graph;
  std::vector<Real> features, gates;
  std::vector<std::uint8_t> keep;
  GraphRun run;

  World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;
};

struct Kind {
  Index d_edge = 0, types = 1;
  bool loops = false, keep = false, gate = false;
};

// Layers of every sort, and worlds that have what they ask for.
inline constexpr GraphAttentionConfig least{.d_in = 1, .d_head = 1};
inline constexpr GraphAttentionConfig features{
    .d_in = 2, .d_head = 3, .heads = 4, .d_edge = 2, .slope = 0.5, .bias = false};
inline constexpr GraphAttentionConfig types{.d_in = 2, .d_head = 5, .heads = 3, .relations = 4};
inline constexpr GraphAttentionConfig both{
    .d_in = 2, .d_head = 8, .heads = 2, .concat = false, .d_edge = 3, .relations = 3};

inline constexpr Kind plain{};
inline constexpr Kind with_features{.d_edge = 2, .loops = true};
inline constexpr Kind with_types{.types = 3, .loops = true};
inline constexpr Kind with_all{.d_edge = 3, .types = 3, .keep = true, .gate = true};

/// From all nodes to some; to every fifth from none. Some edges twice.
template <class Real, class State>
std::unique_ptr<World<Real>> world(const Batch<State>& batch, Index rows, const Kind& kind) {
  auto w = std::make_unique<World<Real>>();
  std::vector<Edge> edges;
  for (Index b = 0; b < batch.count(); ++b) {
    const Index first = batch.begin(b), n = batch.end(b, rows) - first;
    Index number = 0;
    for (Index j = n - 1; j >= 0; --j) {
      for (Index i = 0; i < n; ++i) {
        if (i % 5 == 4 || (3 * i + 7 * j) % 4 == 1) continue;
        for (int twice = (i + j) % 7 == 0 ? 2 : 1; twice > 0; --twice) {
          ++number;
          edges.push_back({first + j, first + i, number % kind.types});
          for (Index c = 0; c < kind.d_edge; ++c) {
            w->features.push_back(static_cast<Real>(std::sin(3 * number + 5 * c)));
          }
          w->gates.push_back(static_cast<Real>(0.5 + 0.3 * std::cos(2 * number)));
          w->keep.push_back(number % 3 != 0);
        }
      }
    }
  }
  w->graph = Graph::make(rows, edges, {kind.loops, kind.types}).value();
  w->run.graph = &w->graph;
  EdgeValues<Real> values;
  values.features = {w->features.data(), static_cast<Index>(edges.size()), kind.d_edge,
                     kind.d_edge};
  if (kind.gate) values.gate = w->gates.data();
  if (kind.keep) w->run.keep = w->keep;
  if constexpr (sizeof(Real) == 4) {
    w->run.floats = values;
  } else {
    w->run.doubles = values;
  }
  return w;
}

/// The same kind of graph with self loops put in.
constexpr Kind with_self(Kind kind) {
  kind.loops = true;
  --kind.types;
  return kind;
}

template <class L, Kind K>
struct OnGraph {
  L layer;

  static constexpr Index in = L::in, out = L::out;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  using State = NoState;
  template <class T>
  using with_scalar = OnGraph<typename L::template with_scalar<T>, K>;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("layer", m.layer...);
  }
  static OnGraph initialized(Random& random) {
    OnGraph model;
    model.layer = L::initialized(random);
    for_each_tensor(
        [&](auto& t) {
          for (auto& x : t.flat()) x += static_cast<Real>(0.3 * random.normal());
        },
        model.layer);
    return model;
  }

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const auto w = world<Real>(batch, x.rows(), K);
    Context c{.graph = &w->run};
    batch.context = &c;
    return layer.forward(x, batch);
  }

  struct Cache {
    detail::cache_of<L> inner;
    std::unique_ptr<World<Real>> world;
  };
  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<L>)
  {
    if (!batch.fits(x.rows())) return {};
    cache.world = world<Real>(batch, x.rows(), K);
    Context c{.graph = &cache.world->run};
    batch.context = &c;
    return layer.forward(std::move(x), batch, cache.inner);
  }
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              OnGraph& gradient) const
    requires(Trainable<L>)
  {
    Context c{.graph = &cache.world->run};
    batch.context = &c;
    return layer.backward(dy, batch, cache.inner, gradient.layer);
  }
};

/// The layer is not causal; making a graph asks for memory, running it does not.
template <class L, Kind K>
void keeps_the_laws() {
  static_assert(check::names_every_member<L>);
  const auto hold = [](auto scalar) {
    check::Options options{.causal = false};
    if (sizeof(scalar) == 4) options.slope = 0.25;  // steps of 1e-2 cross the kink of LeakyReLU
    Random random(3);
    using Scalar = decltype(scalar);
    const auto model = OnGraph<typename L::template with_scalar<Scalar>, K>::initialized(random);
    const auto report = check::laws(model, options);
    INFO(report.text());
    REQUIRE(report.ok());
    REQUIRE(report.checks > 0);
  };
  hold(double());
  hold(float());
}

template <Index D>
Sequence<double, D> noise(Index rows, Random& random) {
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

template <class L>
Sequence<double, L::out> on(const L& layer, SequenceView<double, L::in> x, const GraphRun& run) {
  Context c{.graph = &run};
  const Index offsets[] = {0, x.rows()};
  return layer.forward(x, from_rest(offsets, &c));
}

}  // namespace graphs
