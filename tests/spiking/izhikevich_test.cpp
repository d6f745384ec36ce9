#include <limen/spiking/izhikevich.hpp>

#include "../goldens/spiking_izhikevich.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

/// The times of all spikes of neuron 0 in a second, with I = 10 from 100 ms on.
template <class L>
std::vector<int> train_of(const L& layer) {
  using Real = typename L::Scalar;
  Sequence<Real, L::in> x = Sequence<Real, L::in>::zeros(1000);
  for (Index t = 100; t < 1000; ++t) {
    for (Index n = 0; n < L::in; ++n) x(t, n) = 10;
  }
  const auto s = forward(layer, x);
  std::vector<int> times;
  for (Index t = 0; t < 1000; ++t) {
    if (s(t, L::in - 1) == Real(1)) times.push_back(static_cast<int>(t));
  }
  return times;
}

template <IzhikevichNeuron neuron, class Real, Index N = 1>
std::vector<int> train() {
  constexpr IzhikevichConfig config{.d = N, .neuron = neuron};
  Random random(1);
  return train_of(Izhikevich<config, Real>::initialized(random));
}

/// Exactly at first, then at the same rate: what rounding did has grown as large as the spikes.
template <IzhikevichNeuron neuron>
void fires_like(const spiking_izhikevich::Train& golden) {
  const auto fine = train<neuron, double, 3>(), rough = train<neuron, float, 3>();
  for (const auto& times : {fine, rough}) {
    INFO(times.size() << " spikes, expected about " << golden.count);
    REQUIRE(std::abs(static_cast<double>(times.size()) - golden.count) <= 0.1 * golden.count);
  }
  for (std::size_t i = 0; i < 10; ++i) REQUIRE(fine[i] == golden.first[i]);
  for (std::size_t i = 0; i < 4; ++i) REQUIRE(rough[i] == golden.first[i]);
}

}  // namespace

TEMPLATE_TEST_CASE_SIG(
    "Izhikevich keeps the laws of layers", "[spiking][izhikevich][laws]", ((IzhikevichConfig C), C),
    (IzhikevichConfig{.d = 1}), (IzhikevichConfig{.d = 7, .neuron = izhikevich::chattering}),
    (IzhikevichConfig{.d = 17, .neuron = izhikevich::resonator, .dt_ms = 0.5, .substeps = 5})) {
  laws::hold_in_double_and_float<Izhikevich<C>>({.rows = 41, .amplitude = 40});
}

TEST_CASE("Each type of Izhikevich's neuron fires as the paper's program has it",
          "[spiking][izhikevich][golden]") {
  namespace golden = spiking_izhikevich;
  fires_like<izhikevich::regular_spiking>(golden::regular_spiking);
  fires_like<izhikevich::intrinsically_bursting>(golden::intrinsically_bursting);
  fires_like<izhikevich::chattering>(golden::chattering);
  fires_like<izhikevich::fast_spiking>(golden::fast_spiking);
  fires_like<izhikevich::low_threshold_spiking>(golden::low_threshold_spiking);
  fires_like<izhikevich::thalamo_cortical>(golden::thalamo_cortical);
  fires_like<izhikevich::resonator>(golden::resonator);
}

TEST_CASE("Izhikevich by hand: four steps to the first spike", "[spiking][izhikevich]") {
  using Layer = Izhikevich<IzhikevichConfig{.d = 1}, double>;
  Random random(1);
  const Layer layer = Layer::initialized(random);
  Layer::State state;
  REQUIRE(state.v[0] == -65);
  REQUIRE(state.u[0] == -13);
  const double v[] = {-58.105, -49.670243, -32.148437, 46.975147};
  for (const double expected : v) {
    REQUIRE(layer.step(Vector<double, 1>{10}, state)[0] == 0);
    REQUIRE(std::abs(state.v[0] - expected) < 1e-6);
    if (expected == v[0]) REQUIRE(std::abs(state.u[0] + 12.97242) < 1e-9);
  }
  REQUIRE(Layer::membrane(state)[0] == 30);  // the state keeps what a figure cuts off
  const double u = state.u[0];
  REQUIRE(layer.step(Vector<double, 1>{10}, state)[0] == 1);
  REQUIRE(state.v[0] < -50);
  REQUIRE(state.u[0] > u + 7);
}

TEST_CASE("A neuron of Izhikevich is its own", "[spiking][izhikevich]") {
  using Layer = Izhikevich<IzhikevichConfig{.d = 2}, double>;
  Random random(1);
  Layer layer = Layer::initialized(random);
  layer.a[1] = 0.1;
  layer.d[1] = 2;
  const auto times = train_of(layer);
  for (std::size_t i = 0; i < 10; ++i) {
    REQUIRE(times[i] == spiking_izhikevich::fast_spiking.first[i]);
  }
}

TEST_CASE("Many sub-steps and a strong input leave Izhikevich finite", "[spiking][izhikevich]") {
  using Layer = Izhikevich<IzhikevichConfig{.d = 1, .substeps = 20}, float>;
  Random random(1);
  const Layer layer = Layer::initialized(random);
  Layer::State state;
  float spikes = 0;
  for (int t = 0; t < 200; ++t) {
    spikes += layer.step(Vector<float, 1>{100}, state)[0];
    REQUIRE(std::isfinite(state.v[0]));
    REQUIRE(std::isfinite(state.u[0]));
  }
  REQUIRE(spikes > 10);
}

TEST_CASE("Izhikevich runs and streams but does not learn", "[spiking][izhikevich]") {
  using Layer = Izhikevich<IzhikevichConfig{.d = 3}>;
  STATIC_REQUIRE(Streaming<Layer>);
  STATIC_REQUIRE_FALSE(Trainable<Layer>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<Layer::State>);
}
