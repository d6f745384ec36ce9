#include <limen/spiking/spike_linear.hpp>

#include "../laws.hpp"

#include <limen/nn/linear.hpp>

using namespace limen;

namespace {

template <Index D, class Real = float>
Sequence<Real, D> spikes(Index rows, double rate, std::uint64_t seed) {
  Random random(seed);
  Sequence<Real, D> s(rows);
  for (Index i = 0; i < s.size(); ++i) s.data()[i] = random.uniform() < rate ? Real(1) : Real(0);
  return s;
}

constexpr SpikeLinearConfig with(SpikeLinearConfig c, Execution e) {
  c.execution = e;
  return c;
}
constexpr SpikeLinearConfig wide{.d_in = 300, .d_out = 150}, narrow{.d_in = 70, .d_out = 10};

}  // namespace

TEMPLATE_TEST_CASE_SIG(
    "SpikeLinear keeps the laws of layers on spikes", "[spiking][laws]", ((SpikeLinearConfig C), C),
    (SpikeLinearConfig{.d_in = 1, .d_out = 1}),
    (SpikeLinearConfig{.d_in = 5, .d_out = 3, .execution = Execution::event}),
    (SpikeLinearConfig{.d_in = 33, .d_out = 65, .bias = false, .execution = Execution::event})) {
  laws::hold_in_double_and_float<SpikeLinear<C>>({.tokens = 2});  // 0 and 1
}

TEMPLATE_TEST_CASE_SIG("SpikeLinear keeps the laws of layers on any input where it may come",
                       "[spiking][laws]", ((SpikeLinearConfig C), C),
                       (SpikeLinearConfig{.d_in = 3, .d_out = 17, .execution = Execution::dense}),
                       (SpikeLinearConfig{
                           .d_in = 20, .d_out = 17, .execution = Execution::event, .graded = true}),
                       (SpikeLinearConfig{.d_in = 9, .d_out = 40, .graded = true})) {
  laws::hold_in_double_and_float<SpikeLinear<C>>();
}

TEST_CASE("Rows of a weight that spikes name are added to the bias", "[spiking][spike_linear]") {
  SpikeLinear<SpikeLinearConfig{.d_in = 3, .d_out = 2, .execution = Execution::event}, double> l;
  const double w[] = {1, 2, 4, 10, 20, 40};
  for (Index i = 0; i < 6; ++i) l.weight[i] = w[i];
  l.bias[0] = 100;
  l.bias[1] = 200;
  const auto y = forward(l, Sequence<double, 3>{{1, 0, 1}, {0, 0, 0}, {1, 1, 1}});
  REQUIRE(y(0, 0) == 105);
  REQUIRE(y(0, 1) == 250);
  REQUIRE(y(1, 0) == 100);
  REQUIRE(y(1, 1) == 200);
  REQUIRE(y(2, 0) == 107);
  REQUIRE(y(2, 1) == 270);
}

TEMPLATE_TEST_CASE_SIG("Events and products give one answer, forward and back, as Linear does",
                       "[spiking][spike_linear]", ((SpikeLinearConfig C), C), wide, narrow) {
  using Event = SpikeLinear<with(C, Execution::event)>;
  using Dense = SpikeLinear<with(C, Execution::dense)>;
  using Plain = Linear<LinearConfig{.d_in = C.d_in, .d_out = C.d_out}>;
  Random random(1), again(1), third(1);
  const auto event = Event::initialized(random);
  const auto dense = Dense::initialized(again);
  const auto plain = Plain::initialized(third);
  for (const double rate : {0.0, 0.02, 0.3, 1.0}) {
    const auto s = spikes<C.d_in>(20, rate, 2);
    typename Event::Cache e;
    typename Dense::Cache d;
    typename Plain::Cache p;
    Event de;
    Dense dd;
    Plain dp;
    const auto y = forward(event, s, e);
    const auto z = forward(dense, s, d);
    const auto x = forward(plain, s, p);
    REQUIRE(y.rows() == 20);
    for (Index i = 0; i < y.size(); ++i) {
      REQUIRE(y.data()[i] == Approx(z.data()[i]).margin(1e-5));
      REQUIRE(z.data()[i] == x.data()[i]);
    }
    const auto ds = backward(event, y, e, de), dz = backward(dense, y, d, dd);
    backward(plain, y, p, dp);
    for (Index i = 0; i < ds.size(); ++i) REQUIRE(ds.data()[i] == dz.data()[i]);
    for (Index i = 0; i < de.weight.size; ++i) {
      REQUIRE(de.weight[i] == Approx(dd.weight[i]).margin(1e-4));
      REQUIRE(dp.weight[i] == Approx(dd.weight[i]).margin(1e-4));
    }
    for (Index o = 0; o < C.d_out; ++o) REQUIRE(de.bias[o] == dp.bias[o]);
  }
}

TEST_CASE("Where a dense sum has one chain, both executions give the same bits",
          "[spiking][spike_linear]") {
  using Event = SpikeLinear<with(wide, Execution::event)>;
  using Dense = SpikeLinear<with(wide, Execution::dense)>;
  Random random(1), again(1);
  const auto event = prepare(Event::initialized(random));
  const auto dense = prepare(Dense::initialized(again));
  NoState none;
  for (const Index rows : {1, 3, 40}) {
    const auto s = spikes<wide.d_in>(rows, 0.2, 5);
    const auto y = forward(event, s), z = forward(dense, s);
    for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == z.data()[i]);
    const auto one = event.step(s.row(rows - 1), none), other = dense.step(s.row(rows - 1), none);
    for (Index o = 0; o < wide.d_out; ++o) {
      REQUIRE(one[o] == y(rows - 1, o));
      REQUIRE(other[o] == y(rows - 1, o));
    }
    Sequence<float, wide.d_out> two;
    {
      const Threads allowed(2);
      two = forward(event, s);
    }
    for (Index i = 0; i < y.size(); ++i) REQUIRE(two.data()[i] == y.data()[i]);
  }
}

TEST_CASE("A value that is not a spike is named, and nothing is given", "[spiking][spike_linear]") {
  Random random(1);
  auto s = spikes<narrow.d_in>(20, 0.1, 5);
  s(13, 41) = 0.25f;
  const auto refused = [&](const auto& layer) {
    REQUIRE_THROWS_WITH(forward(layer, s),
                        has_part("input 41 of row 13: wanted 0 or 1, found 0.25"));
  };
  const auto event = SpikeLinear<with(narrow, Execution::event)>::initialized(random);
  refused(event);
  refused(prepare(event));
  refused(prepare(SpikeLinear<narrow>::initialized(random)));  // whichever way it would have gone
  typename SpikeLinear<with(narrow, Execution::event)>::Cache cache;
  REQUIRE_THROWS_WITH(forward(event, s, cache), has_part("input 41 of row 13"));
  REQUIRE(cache.rows == 0);
  REQUIRE(forward(SpikeLinear<with(narrow, Execution::dense)>::initialized(random), s).rows() ==
          20);
}

TEST_CASE("A step, which cannot fail, takes any value for what it is", "[spiking][spike_linear]") {
  using Event = SpikeLinear<with(wide, Execution::event)>;
  Random random(1);
  const auto learned = Event::initialized(random);
  const auto layer = prepare(learned);
  Vector<float, wide.d_in> s{};
  s[3] = 0.5f;
  s[250] = -2;
  s[299] = 1;
  NoState none;
  const auto y = layer.step(s, none), expected = learned.step(s, none);
  for (Index o = 0; o < wide.d_out; ++o) REQUIRE(y[o] == Approx(expected[o]).margin(1e-5));
}

TEST_CASE("Weights held in half the room give the sums of rounded weights",
          "[spiking][spike_linear]") {
  constexpr SpikeLinearConfig c{
      .d_in = 40, .d_out = 70, .execution = Execution::event, .half = true};
  Random random(1);
  const auto layer = SpikeLinear<c>::initialized(random);
  const auto s = spikes<40>(6, 0.3, 5);
  const auto y = forward(prepare(layer), s);
  for (Index t = 0; t < 6; ++t) {
    for (Index o = 0; o < 70; ++o) {
      float sum = layer.bias[o];
      for (Index i = 0; i < 40; ++i) {
        if (s(t, i) != 0) sum += static_cast<float>(bfloat16(layer.weight(o, i)));
      }
      REQUIRE(y(t, o) == sum);
    }
  }
}

TEST_CASE("Automatic execution follows few spikes and multiplies many", "[spiking][spike_linear]") {
  using L = SpikeLinear<SpikeLinearConfig{.d_in = 1024, .d_out = 1024}, Prepared<float>>;
  REQUIRE(L::by_events(1, 10));
  REQUIRE(L::by_events(1, 600));
  REQUIRE(L::by_events(128, 128 * 51));
  REQUIRE_FALSE(L::by_events(128, 128 * 900));
  using Below = SpikeLinear<SpikeLinearConfig{.d_in = 1024, .d_out = 1024, .event_below = 0.1},
                            Prepared<float>>;
  REQUIRE(Below::by_events(128, 128 * 102));
  REQUIRE_FALSE(Below::by_events(1, 103));
}

TEST_CASE("No gradient of the input where nobody wants one", "[spiking][spike_linear]") {
  using L = SpikeLinear<SpikeLinearConfig{.d_in = 4, .d_out = 3, .input_gradient = false}>;
  using Full = SpikeLinear<SpikeLinearConfig{.d_in = 4, .d_out = 3}>;
  Random random(1), again(1);
  const auto layer = L::initialized(random);
  const auto full = Full::initialized(again);
  const auto s = spikes<4>(20, 0.5, 5);
  L::Cache cache;
  Full::Cache other;
  L d;
  Full e;
  const auto y = forward(layer, s, cache);
  forward(full, s, other);
  const auto ds = backward(layer, y, cache, d);
  backward(full, y, other, e);
  REQUIRE(ds.rows() == 20);
  for (Index i = 0; i < ds.size(); ++i) REQUIRE(ds.data()[i] == 0);
  REQUIRE(d.weight == e.weight);
}

template <class L>
concept Sums = requires(const L layer, SpikeList<float> s) { layer.sum(s); };
static_assert(Sums<SpikeLinear<narrow, Prepared<float>>>);
static_assert(!Sums<SpikeLinear<narrow>>);  // its weights are not turned
static_assert(!Sums<SpikeLinear<with(narrow, Execution::dense), Prepared<float>>>);
static_assert(!Trainable<SpikeLinear<narrow, Prepared<float>>>);
static_assert(Layer<SpikeLinear<narrow>> && Streaming<SpikeLinear<narrow, Prepared<float>>>);
