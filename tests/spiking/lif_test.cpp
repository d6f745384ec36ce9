#include <limen/spiking/lif.hpp>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include <limen/spiking/integrate_fire.hpp>
#include <limen/spiking/presets.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

/// A spike train from rest, as the list of its steps.
template <class L>
std::vector<Index> train(const Sequence<typename L::Real, 1>& x) {
  Random random(1);
  const auto s = forward(L::initialized(random), x);
  std::vector<Index> steps;
  for (Index t = 0; t < s.rows(); ++t) {
    if (s(t, 0) != 0) steps.push_back(t);
  }
  return steps;
}

template <class Real>
Sequence<Real, 1> constant(double value, Index rows) {
  Sequence<Real, 1> x(rows);
  for (Index t = 0; t < rows; ++t) x(t, 0) = static_cast<Real>(value);
  return x;
}

template <class Real, Index D>
Sequence<Real, D> noise(Index rows, double mean, double deviation, std::uint64_t seed = 5) {
  Random random(seed);
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<Real>(mean + deviation * random.normal());
  }
  return x;
}

template <class Real, Index D>
Index differences(const Sequence<Real, D>& a, const Sequence<Real, D>& b) {
  REQUIRE(a.rows() == b.rows());
  Index count = 0;
  for (Index i = 0; i < a.size(); ++i) count += a.data()[i] != b.data()[i];
  return count;
}

using Steps = std::vector<Index>;

}  // namespace

TEST_CASE("A leaky membrane and its resets: cases by hand", "[spiking][lif]") {
  const auto x = constant<double>(0.75, 6);
  using Now = Lif<LifConfig{.d_model = 1}, double>;
  REQUIRE(train<Now>(x) == Steps{1, 3, 5});
  Now::State state{};
  const double after[] = {0.75, 0.125, 0.8125, 0.15625, 0.828125, 0.1640625};
  for (Index t = 0; t < 6; ++t) {
    Now{}.step(x.row(t), state);
    REQUIRE(state.v[0] == after[t]);
  }
  using Next = Lif<LifConfig{.d_model = 1, .when = When::next}, double>;
  REQUIRE(train<Next>(x) == Steps{1, 4});
  Next::State later{};
  const double fired[] = {0.75, 1.125, 0.3125, 0.90625, 1.203125, 0.3515625};
  for (Index t = 0; t < 6; ++t) {
    Next{}.step(x.row(t), later);
    REQUIRE(later.v[0] == fired[t]);
  }
  REQUIRE(train<Lif<LifConfig{.d_model = 1, .reset = Reset::to_value}, double>>(x) ==
          Steps{1, 3, 5});
  REQUIRE(train<Lif<LifConfig{.d_model = 1, .reset = Reset::to_value, .when = When::next}, double>>(
              x) == Steps{1, 3, 5});
  // The input decays too: twice the input gives the same train.
  REQUIRE(train<Lif<spikingjelly_lif(1), double>>(constant<double>(1.5, 6)) == Steps{1, 3, 5});
  // A membrane that stands at its threshold.
  const Sequence<double, 1> equal{{1}, {0}, {1}, {0}};
  REQUIRE(train<Now>(equal) == Steps{0, 2});
  REQUIRE(train<Lif<LifConfig{.d_model = 1, .test = SpikeTest::gt}, double>>(equal) == Steps{2});
}

TEST_CASE("The way back through two steps: a case by hand", "[spiking][lif]") {
  const auto dx_of = [](auto layer) {
    using L = decltype(layer);
    typename L::Cache cache;
    L gradient;
    const auto s = forward(layer, Sequence<double, 1>{{1.2}, {0.4}}, cache);
    REQUIRE(s(0, 0) == 1);
    REQUIRE(s(1, 0) == 0);
    return backward(layer, Sequence<double, 1>{{1}, {1}}, cache, gradient);
  };
  const auto flowing = dx_of(Lif<LifConfig{.d_model = 1}, double>{});
  const auto detached = dx_of(Lif<LifConfig{.d_model = 1, .detach_reset = true}, double>{});
  REQUIRE(std::abs(flowing(1, 0) - 0.288400) < 5e-7);
  REQUIRE(std::abs(flowing(0, 0) - 0.757772) < 1.5e-6);
  REQUIRE(std::abs(detached(1, 0) - 0.288400) < 5e-7);
  REQUIRE(std::abs(detached(0, 0) - 0.861157) < 5e-7);
}

TEST_CASE("Without a leak no charge is lost", "[spiking][integrate_fire]") {
  using N = IntegrateFire<IntegrateFireConfig{.d_model = 1, .threshold = 1}, double>;
  REQUIRE(train<N>(Sequence<double, 1>{{0.5}, {0.25}, {0.5}, {0.75}, {0}}) == Steps{2, 3});
  REQUIRE(train<N>(Sequence<double, 1>{{3}, {0}, {0}, {0}}) == Steps{0, 1, 2});
  using Many = IntegrateFire<IntegrateFireConfig{.d_model = 37}, double>;
  const auto x = noise<double, 37>(200, 0.3, 0.4);
  Many::State state{};
  const auto s = Many{}.forward(x, state);
  for (Index c = 0; c < 37; ++c) {
    double charge = 0, count = 0;
    for (Index t = 0; t < x.rows(); ++t) charge += x(t, c), count += s(t, c);
    REQUIRE(count > 10);
    REQUIRE(std::abs(charge - (count + state.v[c])) < 1e-11);
  }
}

TEST_CASE("Reset to zero one step late is reset to zero at once", "[spiking][lif][peers]") {
  using Late = Lif<snntorch_leaky(50, 0.75, Reset::to_value), double>;
  constexpr LifConfig once = [] {
    LifConfig c = spikingjelly_lif(50, 4);  // τ = 1 / (1 - β)
    c.decay_input = false;
    return c;
  }();
  const auto x = noise<double, 50>(100, 0.3, 0.7);
  const auto late = forward(Late{}, x);
  REQUIRE(differences(late, forward(Lif<once, double>{}, x)) == 0);
  double spikes = 0;
  for (Index i = 0; i < late.size(); ++i) spikes += late.data()[i];
  REQUIRE(spikes > 500);
}

TEST_CASE("Subtraction one step late takes θ / β, since it escapes the leak",
          "[spiking][lif][peers]") {
  constexpr double beta = 0.75;
  using Late = Lif<snntorch_leaky(50, beta), double>;
  constexpr LifConfig plain{.d_model = 50, .decay = beta, .test = SpikeTest::gt};
  constexpr LifConfig more{
      .d_model = 50, .decay = beta, .test = SpikeTest::gt, .reset_by = 1 / beta};
  const auto x = noise<double, 50>(100, 0.3, 0.7);
  const auto late = forward(Late{}, x);
  REQUIRE(differences(late, forward(Lif<more, double>{}, x)) == 0);
  REQUIRE(differences(late, forward(Lif<plain, double>{}, x)) > 300);
}

TEST_CASE("A refractory neuron is silent for exactly so many steps", "[spiking][refractory]") {
  constexpr LifConfig config{.d_model = 1, .decay = 0.5, .reset = Reset::to_value, .refractory = 3};
  REQUIRE(train<Lif<config, double>>(constant<double>(0.75, 14)) == Steps{1, 6, 11});
  constexpr LifConfig strong{.d_model = 1, .decay = 1, .reset = Reset::to_value, .refractory = 3};
  REQUIRE(train<Lif<strong, double>>(Sequence<double, 1>{
              {0.5}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}, {2}}) ==
          Steps{1, 5, 9, 13});
  using L = Lif<strong, double>;
  L::State state{};
  const double wait[] = {3, 2, 1, 0, 3};
  for (const double left : wait) {
    L{}.step(Sequence<double, 1>{{2}}.row(0), state);
    REQUIRE(state.wait[0] == left);
    REQUIRE(state.v[0] == 0);
  }
}

TEST_CASE("A constant current makes a neuron fire at the known rate", "[spiking][lif][peers]") {
  constexpr BiologicalLif cell{.refractory_ms = 3};
  constexpr double dt = 0.5, current = 1.3;  // nA
  using L = Lif<genn_lif(1, dt, cell), double>;
  const auto spikes = train<L>(constant<double>(current, 4000));
  REQUIRE(spikes.size() > 20);
  const double drive = cell.resistance * current, level = cell.threshold_mv - cell.rest_mv;
  const double rise = cell.tau_ms * std::log(drive / (drive - level)) / dt;
  const auto period = static_cast<Index>(std::ceil(rise)) + refractory_steps(3, dt);
  for (std::size_t k = 1; k < spikes.size(); ++k) REQUIRE(spikes[k] - spikes[k - 1] == period);
}

TEST_CASE("Only what a config learns is a parameter, and starts where it says", "[spiking][lif]") {
  Random random(1);
  REQUIRE(parameter_count(Lif<LifConfig{.d_model = 9}>{}) == 0);
  constexpr LifConfig config{.d_model = 9,
                             .decay = 0.8,
                             .gain = 0.5,
                             .threshold = 2,
                             .learn_decay = Learned::each,
                             .learn_gain = Learned::together,
                             .learn_threshold = Learned::each};
  const auto layer = Lif<config, double>::initialized(random);
  REQUIRE(parameter_count(layer) == 9 + 1 + 9);
  constexpr LifConfig fixed{.d_model = 9, .decay = 0.8, .gain = 0.5, .threshold = 2};
  const auto x = noise<double, 9>(50, 1, 1);
  REQUIRE(differences(forward(layer, x), forward(Lif<fixed, double>{}, x)) == 0);
}

TEST_CASE("A sequence is its steps, bit for bit", "[spiking][lif]") {
  constexpr LifConfig config{.d_model = 37,
                             .decay = 0.9,
                             .reset = Reset::to_value,
                             .refractory = 1,
                             .learn_decay = Learned::each};
  using L = Lif<config>;
  Random random(1);
  const auto layer = L::initialized(random);
  const auto x = noise<float, 37>(300, 0.2, 1);
  L::State at_once{}, by_steps{}, trained{};
  L::Cache cache;
  const auto s = layer.forward(x, at_once);
  REQUIRE(differences(s, layer.forward(Sequence(x), trained, cache)) == 0);
  for (Index t = 0; t < x.rows(); ++t) {
    const auto s_t = layer.step(x.row(t), by_steps);
    for (Index c = 0; c < 37; ++c) REQUIRE(s_t[c] == s(t, c));
  }
  REQUIRE(at_once.v.values == by_steps.v.values);
  REQUIRE(at_once.v.values == trained.v.values);
  REQUIRE(at_once.wait.values == by_steps.wait.values);
}

TEST_CASE("Two threads give the bits of one", "[spiking][lif]") {
  constexpr LifConfig config{.d_model = 301,
                             .decay_input = true,
                             .learn_decay = Learned::together,
                             .learn_threshold = Learned::each};
  using L = Lif<config>;
  Random random(1);
  const auto layer = L::initialized(random);
  const auto x = noise<float, 301>(400, 0.7, 1), dy = noise<float, 301>(400, 0, 1, 6);
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    typename L::Cache cache;
    auto gradient = std::make_unique<L>();
    auto s = forward(layer, Sequence(x), cache);
    auto dx = backward(layer, dy, cache, *gradient);
    return std::tuple(std::move(s), std::move(dx), std::move(gradient));
  };
  const auto [s1, dx1, g1] = run(1);
  const auto [s2, dx2, g2] = run(2);
  REQUIRE(differences(s1, s2) == 0);
  REQUIRE(differences(dx1, dx2) == 0);
  REQUIRE(g1->decay == g2->decay);
  REQUIRE(g1->threshold == g2->threshold);
  REQUIRE(g1->decay[0] != 0);
}

TEST_CASE("What a neuron cannot be is refused", "[spiking][lif]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  STATIC_REQUIRE(detail::lif_decays({.decay = 1}));
  STATIC_REQUIRE(!detail::lif_decays({.decay = 1.001}));
  STATIC_REQUIRE(!detail::lif_decays({.decay = -0.001}));
  STATIC_REQUIRE(!detail::lif_decays({.decay = nan}));
  STATIC_REQUIRE(!detail::lif_is_finite({.gain = std::numeric_limits<double>::infinity()}));
  STATIC_REQUIRE(!detail::lif_is_finite({.reset_to = nan}));
  STATIC_REQUIRE(!detail::lif_resets_below({.reset = Reset::to_value, .reset_to = 1}));
  STATIC_REQUIRE(detail::lif_resets_below({.reset = Reset::subtract, .reset_to = 1}));
  STATIC_REQUIRE(!detail::lif_subtracts({.threshold = 0}));
  STATIC_REQUIRE(!detail::lif_subtracts({.reset_by = -1}));
  STATIC_REQUIRE(detail::lif_subtracts({.threshold = -51, .reset_by = 20}));
  STATIC_REQUIRE(!detail::lif_can_wait({.rest = -1, .when = When::next}));
  STATIC_REQUIRE(
      !detail::lif_can_wait({.reset = Reset::to_value, .reset_to = -1, .when = When::next}));
}
