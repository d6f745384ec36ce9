// The laws, for neurons that spike and for their soft twins. A twin's spike is the primitive of its
// surrogate, so its way back, resets included, must be the slope of what it computes.

#include <limen/spiking/lif.hpp>

#include <cmath>
#include <vector>

#include "laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Lif keeps the laws of layers", "[spiking][lif][laws]", ((LifConfig C), C),
                       (LifConfig{.d_model = 1}),
                       (LifConfig{.d_model = 17,
                                  .decay = 0.7,
                                  .gain = 0.5,
                                  .threshold = 0.4,
                                  .rest = -0.3,
                                  .reset = Reset::to_value,
                                  .reset_to = -0.2,
                                  .learn_decay = Learned::each,
                                  .learn_gain = Learned::together,
                                  .learn_threshold = Learned::each,
                                  .learn_reset_to = Learned::together}),
                       (LifConfig{.d_model = 5,
                                  .decay_input = true,
                                  .threshold = 0.5,
                                  .learn_decay = Learned::together,
                                  .learn_gain = Learned::each,
                                  .learn_threshold = Learned::together})) {
  spiking::twin_keeps_the_laws<Lif<C, double, Soft{ArcTan{}}>>();
  spiking::keeps_the_laws<Lif<C>>();
}

/// A reset that is paid later is a constant on the way back, and so is a refractory time: a twin
/// has jumps there, which the narrow differences in double do not meet.
TEMPLATE_TEST_CASE_SIG("Lif keeps the laws of layers where a decision is a constant",
                       "[spiking][lif][refractory][laws]", ((LifConfig C), C),
                       (LifConfig{.d_model = 16,
                                  .decay = 0.8,
                                  .threshold = 0.5,
                                  .when = When::next,
                                  .learn_decay = Learned::each,
                                  .learn_threshold = Learned::each}),
                       (LifConfig{.d_model = 3,
                                  .threshold = 0.5,
                                  .test = SpikeTest::gt,
                                  .reset = Reset::to_value,
                                  .when = When::next,
                                  .reset_clears_input = true,
                                  .learn_decay = Learned::together,
                                  .learn_gain = Learned::each}),
                       (LifConfig{.d_model = 7,
                                  .threshold = 0.3,
                                  .reset = Reset::to_value,
                                  .refractory = 2,
                                  .learn_decay = Learned::each,
                                  .learn_threshold = Learned::together})) {
  spiking::twin_keeps_the_laws<Lif<C, double, Soft{FastSigmoid{.k = 2}}>>({}, true);
  spiking::keeps_the_laws<Lif<C>>();
}

namespace {

constexpr LifConfig detached(Reset reset) {
  return {.d_model = 1,
          .decay = 0.7,
          .threshold = 0.6,
          .reset = reset,
          .reset_to = -0.1,
          .detach_reset = true};
}

/// The loss Σ r_t s_t + q v_T of the soft twin, its resets made by given spikes.
double loss(const LifConfig& c, const std::vector<double>& x, const std::vector<double>& resets,
            const std::vector<double>& r, double q, std::vector<double>* spikes = nullptr) {
  double v = 0, sum = 0;
  for (std::size_t t = 0; t < x.size(); ++t) {
    const double h = c.decay * v + c.gain * x[t];
    const double s = ArcTan{}.primitive(h - c.threshold);
    if (spikes != nullptr) spikes->push_back(s);
    const double by = spikes != nullptr ? s : resets[t];
    v = c.reset == Reset::subtract ? h - c.threshold * by : (1 - by) * h + by * c.reset_to;
    sum += r[t] * s;
  }
  return sum + q * v;
}

template <LifConfig C>
void detached_is_the_slope() {
  using L = Lif<C, double, Soft{ArcTan{}}>;
  Random random(3);
  std::vector<double> x(9), r(9), spikes;
  for (double& v : x) v = random.normal();
  for (double& v : r) v = random.normal();
  const double q = 0.7;
  loss(C, x, {}, r, q, &spikes);
  Sequence<double, 1> rows(9), dy(9);
  for (Index t = 0; t < 9; ++t) {
    rows(t, 0) = x[static_cast<std::size_t>(t)];
    dy(t, 0) = r[static_cast<std::size_t>(t)];
  }
  typename L::Cache cache;
  typename L::State state{}, d_state{};
  d_state.v[0] = q;
  L layer, gradient;
  layer.forward(std::move(rows), state, cache);
  const auto dx = layer.backward(dy, d_state, cache, gradient);
  for (std::size_t t = 0; t < x.size(); ++t) {
    const double h = 1e-6, before = x[t];
    x[t] = before + h;
    const double above = loss(C, x, spikes, r, q);
    x[t] = before - h;
    const double below = loss(C, x, spikes, r, q);
    x[t] = before;
    INFO("step " << t);
    REQUIRE(std::abs(dx(static_cast<Index>(t), 0) - (above - below) / (2 * h)) < 1e-8);
  }
}

}  // namespace

TEST_CASE("A detached reset is the slope where the spikes of resets are given",
          "[spiking][lif][laws]") {
  detached_is_the_slope<detached(Reset::subtract)>();
  detached_is_the_slope<detached(Reset::to_value)>();
}
