#include <limen/attention/gman.hpp>

#include <cmath>
#include <cstring>

#include "../laws.hpp"

using namespace limen;

namespace {

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

constexpr RowAttentionConfig over_nodes{
    .d_in = 3, .heads = 2, .d_head = 2, .nodes = 4, .over = Over::nodes};
constexpr RowAttentionConfig over_time{
    .d_in = 5, .heads = 3, .d_head = 3, .nodes = 3, .causal = true};
constexpr GmanConfig block{.nodes = 3, .heads = 2, .d_head = 3, .horizon = 2, .slots = 8};
constexpr GmanConfig wide{.nodes = 2, .heads = 1, .d_head = 17, .horizon = 1, .slots = 7};
constexpr GmanConfig deep{
    .nodes = 3, .heads = 2, .d_head = 2, .blocks = 2, .horizon = 2, .slots = 7, .causal = true};

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

}  // namespace

TEST_CASE("RowAttention keeps the laws of layers", "[attention][gman][laws]") {
  static_assert(check::names_every_member<RowAttention<over_nodes>>);
  keeps_the_laws<InSteps<RowAttention<over_nodes>, 4>>();
  keeps_the_laws<InSteps<RowAttention<over_time>, 3>>();
}

TEST_CASE("GmanBlock keeps the laws of layers", "[attention][gman][laws]") {
  static_assert(check::names_every_member<GmanBlock<block>>);
  keeps_the_laws<InSteps<GmanBlock<block>, 3>>();
}

TEST_CASE("Gman keeps the laws of layers", "[attention][gman][laws]") {
  static_assert(check::names_every_member<Gman<deep>>);
  keeps_the_laws<Gman<wide>>({.tokens = 3, .causal = false});
  keeps_the_laws<Gman<deep>>({.tokens = 3, .causal = false});
}

TEST_CASE("The gate of GmanBlock weighs nodes against time, by hand", "[attention][gman]") {
  constexpr GmanConfig one{.nodes = 1, .heads = 1, .d_head = 1, .horizon = 1, .slots = 1};
  GmanBlock<one, double> layer;
  // Heads of one row give relu(v); make v 1 over nodes and 3 over time.
  layer.spatial.qkv_bias[2] = 1;
  layer.temporal.qkv_bias[2] = 3;
  for (auto* two : {&layer.spatial.output, &layer.temporal.output, &layer.output}) {
    get<0>(two->layers).weight[0] = get<2>(two->layers).weight[0] = 1;
  }
  layer.fusion_s[0] = 0.5;
  layer.fusion_t[0] = -0.5;
  const auto y = forward(layer, Sequence<double, 2>{{10, 0}});
  // z = 1 / (1 + e) = 0.268941, h = z + 3 (1 - z) = 2.462117.
  REQUIRE(y(0, 0) == Approx(10 + 2.462117).epsilon(1e-7));
}

TEST_CASE("Gman has the slopes of readings, and looks at none of the future", "[attention][gman]") {
  using M = Gman<deep, double>;
  Random random(3);
  const M model = M::initialized(random);
  const Index offsets[] = {0, 7, 9, 10};
  auto x = readings<M>(10, random);
  const auto r = noise<M::out>(10, random);
  const auto loss = [&] {
    const auto y = model.forward(x, from_rest(offsets));
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  M::Cache cache;
  M gradient;
  const auto y = model.forward(Sequence<double, M::in>(x), from_rest(offsets), cache);
  const auto dx = model.backward(r, from_rest(offsets), cache, gradient);
  double size = 0;
  for (Index t = 0; t < 10; ++t) {
    const bool past = t < 5;  // 5 + 2, 0 + 2 and 0 + 1 steps
    for (Index n = 0; n < M::N; ++n) {
      REQUIRE((y(t, n) != 0) == !past);
      const double before = x(t, n), h = 1e-6;
      x(t, n) = before + h;
      const double above = loss();
      x(t, n) = before - h;
      const double below = loss();
      x(t, n) = before;
      INFO("row " << t << ", node " << n);
      REQUIRE(std::abs(dx(t, n) - (above - below) / (2 * h)) < 1e-7);
      if (!past) REQUIRE(dx(t, n) == 0);
      size += std::abs(dx(t, n));
    }
    REQUIRE((dx(t, M::N) == 0 && dx(t, M::N + 1) == 0));
  }
  REQUIRE(size > 0.1);
}

TEST_CASE("Gman gives the same bits on two threads", "[attention][gman]") {
  constexpr GmanConfig c{.nodes = 12, .heads = 4, .d_head = 8, .horizon = 12, .slots = 24};
  using M = Gman<c, double>;
  Random random(4);
  const M model = M::initialized(random);
  const Index offsets[] = {0, 24, 48, 60};
  const auto x = readings<M>(60, random);
  const auto r = noise<M::out>(60, random);
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    M::Cache cache;
    auto gradient = std::make_unique<M>();
    model.forward(Sequence<double, M::in>(x), from_rest(offsets), cache);
    model.backward(r, from_rest(offsets), cache, *gradient);
    return gradient;
  };
  const auto one = run(1), two = run(2);
  for_each_tensor([](const auto& a, const auto& b) { REQUIRE(a == b); }, *one, *two);
}

TEST_CASE("Times that are none, and broken steps, are errors", "[attention][gman]") {
  using M = Gman<deep, double>;
  Random random(5);
  const M model = M::initialized(random);
  auto x = readings<M>(6, random);
  x(4, M::N + 1) = 7;
  REQUIRE_THROWS_WITH(forward(model, x),
                      has_part("Gman: slot of row 4: wanted a whole number from 0 to 6, found 7"));
  x(4, M::N + 1) = 1;
  x(2, M::N) = 1.5;
  REQUIRE_THROWS_WITH(forward(model, x), has_part("Gman: day of row 2"));
  x(2, M::N) = std::nan("");
  REQUIRE_THROWS_WITH(forward(model, x), has_part("Gman: day of row 2"));
  const auto heads = RowAttention<over_nodes, double>::initialized(random);
  REQUIRE_THROWS_WITH(forward(heads, noise<3>(6, random)),
                      has_part("rows of sequence 0: wanted time steps of 4 nodes, found 6"));
}

static_assert(Trainable<Gman<deep>> && !Streaming<Gman<deep>>);
static_assert(Trainable<GmanBlock<block>> && !Streaming<GmanBlock<block>>);
static_assert(Trainable<RowAttention<over_time>> && !Streaming<RowAttention<over_time>>);
