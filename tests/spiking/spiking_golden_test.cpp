// What snnTorch, SpikingJelly and Norse compute: trains, last states, and gradients of inputs,
// first states and parameters, by each of their conventions.

#include <cmath>
#include <memory>

#include <limen/spiking/alpha.hpp>
#include <limen/spiking/integrate_fire.hpp>
#include <limen/spiking/leaky_integrator.hpp>
#include <limen/spiking/presets.hpp>
#include <limen/spiking/recurrent.hpp>
#include <limen/spiking/synaptic.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/spiking_neurons.hpp"

using namespace limen;
using golden::Numbers;

namespace {

constexpr Index D = 3;

/// One array of a state: where it starts, where it ends, and their gradients.
struct Part {
  Numbers first, last, d_last, d_first;
};

struct Run {
  Numbers x, s, ds, dx;
};

template <class State>
auto arrays(State& state) {
  if constexpr (requires { state.arrays(); }) {
    return state.arrays();
  } else {  // of a Recurrent
    const auto own = state.neuron.arrays();
    std::array<typename std::remove_cvref_t<decltype(own)>::value_type, own.size() + 1> all;
    for (std::size_t k = 0; k < own.size(); ++k) all[k] = own[k];
    all[own.size()] = state.s.data();
    return all;
  }
}

template <class State>
void fill(State& state, std::initializer_list<Part> parts, Numbers Part::* which) {
  std::size_t k = 0;
  const auto to = arrays(state);
  REQUIRE(to.size() == parts.size());
  for (const Part& part : parts) {
    for (Index c = 0; c < D; ++c) {
      using Real = std::remove_reference_t<decltype(to[k][c])>;
      to[k][c] = static_cast<Real>((part.*which)[static_cast<std::size_t>(c)]);
    }
    ++k;
  }
}

template <class State>
void compare(const char* what, State& state, std::initializer_list<Part> parts,
             Numbers Part::* which, double tolerance) {
  std::size_t k = 0;
  const auto from = arrays(state);
  for (const Part& part : parts) {
    golden::same(what, std::span(from[k], D), part.*which, tolerance);
    ++k;
  }
}

template <class L>
void check_one(const Run& run, std::initializer_list<Part> parts, const L& layer, L& gradient,
               double tolerance) {
  using Real = typename L::Real;
  typename L::State state{}, d_state{};
  fill(state, parts, &Part::first);
  fill(d_state, parts, &Part::d_last);
  typename L::Cache cache;
  const auto s = layer.forward(golden::rows_of<Real, D>(run.x), state, cache);
  golden::same("spikes", s, run.s, 1e-15 + (tolerance > 1e-8 ? tolerance : 1e-12));
  compare("last state", state, parts, &Part::last, tolerance);
  const auto dx = layer.backward(golden::rows_of<Real, D>(run.ds), d_state, cache, gradient);
  golden::same("dx", dx, run.dx, tolerance);
  compare("d first state", d_state, parts, &Part::d_first, tolerance);
}

/// `set` gives the layer its parameters, `see` looks at their gradients.
template <class L, class Set, class See>
void agrees(const Run& run, std::initializer_list<Part> parts, Set set, See see,
            double fine = 1e-11) {
  const auto both = [&]<class Layer>(std::type_identity<Layer>, double tolerance) {
    Random random(1);
    Layer layer = Layer::initialized(random);
    set(layer);
    const auto gradient = std::make_unique<Layer>();
    check_one(run, parts, layer, *gradient, tolerance);
    see(*gradient, tolerance);
  };
  both(std::type_identity<typename L::template with_scalar<double>>{}, fine);
  both(std::type_identity<typename L::template with_scalar<float>>{}, 2e-4);
}

template <class L>
void agrees(const Run& run, std::initializer_list<Part> parts) {
  agrees<L>(run, parts, [](auto&) {}, [](auto&, double) {});
}

/// d a of what is learned as a = σ(decay).
template <class Real>
double through_sigmoid(Numbers d_a, double a, const Tensor<Real, 1>& got, double tolerance) {
  REQUIRE(d_a.size() == 1);
  const double expected = d_a[0] * a * (1 - a);
  INFO("got " << got[0] << ", expected " << expected);
  REQUIRE(std::abs(static_cast<double>(got[0]) - expected) < tolerance * (1 + std::abs(expected)));
  return expected;
}

template <class Real, Index... N>
void set(Tensor<Real, N...>& tensor, Numbers values) {
  REQUIRE(static_cast<std::size_t>(tensor.size) == values.size());
  for (Index i = 0; i < tensor.size; ++i) {
    tensor[i] = static_cast<Real>(values[static_cast<std::size_t>(i)]);
  }
}

}  // namespace

#define RUN(c)                                                               \
  Run {                                                                      \
    goldens::spiking::c::x, goldens::spiking::c::s, goldens::spiking::c::ds, \
        goldens::spiking::c::dx                                              \
  }
#define PART(c, k)                                                        \
  Part {                                                                  \
    goldens::spiking::c::first_##k, goldens::spiking::c::last_##k,        \
        goldens::spiking::c::d_last_##k, goldens::spiking::c::d_first_##k \
  }

namespace {

constexpr LifConfig learning(LifConfig c) {
  c.threshold = 0.75;
  c.learn_decay = Learned::together;
  c.learn_threshold = Learned::together;
  return c;
}

}  // namespace

TEST_CASE("Lif computes what snnTorch's Leaky computes", "[spiking][lif][golden][snntorch]") {
#define LEAKY(name, reset)                                                                \
  agrees<Lif<learning(snntorch_leaky(D, 0.75, reset)), float, ArcTan{.alpha = 2}>>(       \
      RUN(name), {PART(name, 0)}, [](auto&) {},                                           \
      [](auto& gradient, double tolerance) {                                              \
        through_sigmoid(goldens::spiking::name::d_beta, 0.75, gradient.decay, tolerance); \
        golden::same("d threshold", gradient.threshold.flat(),                            \
                     goldens::spiking::name::d_threshold, tolerance);                     \
      },                                                                                  \
      1e-7 /* its spikes, and what is summed over them, are float32 */)
  LEAKY(snntorch_leaky_subtract, Reset::subtract);
  LEAKY(snntorch_leaky_zero, Reset::to_value);
  LEAKY(snntorch_leaky_none, Reset::none);
#undef LEAKY
}

TEST_CASE("Lif computes what snnTorch's Lapicque computes", "[spiking][lif][golden][snntorch]") {
  agrees<Lif<snntorch_lapicque(D, 4, 0.5), float, FastSigmoid{.k = 25}>>(
      RUN(snntorch_lapicque_subtract), {PART(snntorch_lapicque_subtract, 0)});
  agrees<Lif<snntorch_lapicque(D, 4, 0.5, 1, Reset::to_value), float, FastSigmoid{.k = 25}>>(
      RUN(snntorch_lapicque_zero), {PART(snntorch_lapicque_zero, 0)});
}

namespace {

template <Reset R>
constexpr LifConfig synaptic_membrane = [] {
  LifConfig c = snntorch_synaptic_membrane(D, 0.75, R);
  c.learn_decay = Learned::together;
  return c;
}();

}  // namespace

TEST_CASE("Synaptic computes what snnTorch's Synaptic computes",
          "[spiking][synaptic][golden][snntorch]") {
  constexpr SynapticConfig synapse{.decay = 0.5, .learn_decay = Learned::together};
#define SYNAPTIC(name, reset)                                                                     \
  agrees<Synaptic<Lif<synaptic_membrane<reset>, float, Sigmoid{.k = 4}>, synapse>>(               \
      RUN(name), {PART(name, 0), PART(name, 1)}, [](auto&) {},                                    \
      [](auto& gradient, double tolerance) {                                                      \
        through_sigmoid(goldens::spiking::name::d_beta, 0.75, gradient.neuron.decay, tolerance);  \
        through_sigmoid(goldens::spiking::name::d_alpha, 0.5, gradient.current_decay, tolerance); \
      })
  SYNAPTIC(snntorch_synaptic_subtract, Reset::subtract);
  SYNAPTIC(snntorch_synaptic_zero, Reset::to_value);
#undef SYNAPTIC
}

TEST_CASE("Alpha computes what snnTorch's Alpha computes", "[spiking][alpha][golden][snntorch]") {
  agrees<Alpha<AlphaConfig{.d_model = D, .alpha = 0.75, .beta = 0.5}>>(
      RUN(snntorch_alpha),
      {PART(snntorch_alpha, 0), PART(snntorch_alpha, 1), PART(snntorch_alpha, 2)});
}

TEST_CASE("Recurrent computes what snnTorch's RLeaky computes",
          "[spiking][recurrent][golden][snntorch]") {
  constexpr RecurrentConfig full{.self_connections = true, .bias = true};
#define RLEAKY(name, membrane)                                                                \
  agrees<Recurrent<Lif<membrane>, full>>(                                                     \
      RUN(name), {PART(name, 0), PART(name, 1)},                                              \
      [](auto& layer) {                                                                       \
        set(layer.recurrent, goldens::spiking::name::weight);                                 \
        set(layer.bias, goldens::spiking::name::bias);                                        \
      },                                                                                      \
      [](auto& gradient, double tolerance) {                                                  \
        golden::same("d V", gradient.recurrent.flat(), goldens::spiking::name::d_weight,      \
                     tolerance);                                                              \
        golden::same("d b", gradient.bias.flat(), goldens::spiking::name::d_bias, tolerance); \
      },                                                                                      \
      1e-6)
  RLEAKY(snntorch_rleaky_subtract, snntorch_leaky(D, 0.75));
  RLEAKY(snntorch_rleaky_zero, snntorch_synaptic_membrane(D, 0.75, Reset::to_value));
#undef RLEAKY
}

namespace {

constexpr LifConfig jelly(bool decay_input, Reset reset, double to, bool detach) {
  LifConfig c = spikingjelly_lif(D, 4, reset);
  c.decay_input = decay_input;
  c.reset_to = c.rest = to;
  c.detach_reset = detach;
  return c;
}

}  // namespace

TEST_CASE("Lif computes what SpikingJelly's LIFNode computes",
          "[spiking][lif][golden][spikingjelly]") {
#define LIF(name, ...) agrees<Lif<jelly(__VA_ARGS__)>>(RUN(name), {PART(name, 0)})
  LIF(spikingjelly_lif_decayed_zero, true, Reset::to_value, 0, false);
  LIF(spikingjelly_lif_decayed_zero_detached, true, Reset::to_value, 0, true);
  LIF(spikingjelly_lif_decayed_value, true, Reset::to_value, -0.125, false);
  LIF(spikingjelly_lif_decayed_value_detached, true, Reset::to_value, -0.125, true);
  LIF(spikingjelly_lif_decayed_soft, true, Reset::subtract, 0, false);
  LIF(spikingjelly_lif_decayed_soft_detached, true, Reset::subtract, 0, true);
  LIF(spikingjelly_lif_whole_zero, false, Reset::to_value, 0, false);
  LIF(spikingjelly_lif_whole_zero_detached, false, Reset::to_value, 0, true);
  LIF(spikingjelly_lif_whole_value, false, Reset::to_value, -0.125, false);
  LIF(spikingjelly_lif_whole_value_detached, false, Reset::to_value, -0.125, true);
  LIF(spikingjelly_lif_whole_soft, false, Reset::subtract, 0, false);
  LIF(spikingjelly_lif_whole_soft_detached, false, Reset::subtract, 0, true);
#undef LIF
}

TEST_CASE("IntegrateFire and Synaptic compute what SpikingJelly's nodes compute",
          "[spiking][integrate_fire][synaptic][golden][spikingjelly]") {
  constexpr IntegrateFireConfig hard{.d_model = D, .reset = Reset::to_value}, soft{.d_model = D};
  agrees<IntegrateFire<hard, float, Sigmoid{.k = 4}>>(RUN(spikingjelly_if_zero),
                                                      {PART(spikingjelly_if_zero, 0)});
  agrees<IntegrateFire<soft, float, Sigmoid{.k = 4}>>(RUN(spikingjelly_if_soft),
                                                      {PART(spikingjelly_if_soft, 0)});
  constexpr LifConfig membrane{.d_model = D, .decay = 0.75, .threshold = 0.5};
  agrees<Synaptic<Lif<membrane, float, SoftSign{.alpha = 2}>, SynapticConfig{.decay = 0.5}>>(
      RUN(spikingjelly_cuba), {PART(spikingjelly_cuba, 0), PART(spikingjelly_cuba, 1)});
}

namespace {

constexpr LifConfig norse_membrane(bool detach, Index refractory) {
  LifConfig c = norse_lif_membrane(D, 1, 4);
  c.detach_reset = detach;
  c.refractory = refractory;
  return c;
}
constexpr FastSigmoid superspike{.k = 1};  // Norse 1.1.0 takes no other k, whatever it is told
constexpr SynapticConfig norse_synapse{.decay = euler_decay(1, 2)};

}  // namespace

TEST_CASE("Lif and Synaptic compute what Norse's neurons compute",
          "[spiking][synaptic][golden][norse]") {
  agrees<Lif<norse_lif_box(D), float, superspike>>(RUN(norse_lif_box), {PART(norse_lif_box, 0)});
  agrees<Synaptic<Lif<norse_membrane(false, 0), float, superspike>, norse_synapse>>(
      RUN(norse_lif), {PART(norse_lif, 0), PART(norse_lif, 1)});
  agrees<Recurrent<Synaptic<Lif<norse_membrane(true, 0), float, superspike>, norse_synapse>>>(
      RUN(norse_lif_recurrent),
      {PART(norse_lif_recurrent, 0), PART(norse_lif_recurrent, 1), PART(norse_lif_recurrent, 2)},
      [](auto& layer) { set(layer.recurrent, goldens::spiking::norse_lif_recurrent::weight); },
      [](auto& gradient, double tolerance) {
        const Numbers d = goldens::spiking::norse_lif_recurrent::d_weight;
        for (Index i = 0; i < D * D; ++i) {
          const double expected = i % (D + 1) == 0 ? 0 : d[static_cast<std::size_t>(i)];
          REQUIRE(std::abs(static_cast<double>(gradient.recurrent[i]) - expected) <
                  tolerance * (1 + std::abs(expected)));
        }
      });
  agrees<Synaptic<LeakyIntegrator<LeakyIntegratorConfig{.d_model = D, .decay = 0.75, .gain = 0.25}>,
                  norse_synapse>>(RUN(norse_leaky_integrator), {PART(norse_leaky_integrator, 0),
                                                                PART(norse_leaky_integrator, 1)});
}

TEST_CASE("A refractory neuron computes what Norse's computes",
          "[spiking][refractory][golden][norse]") {
  using L = Synaptic<Lif<norse_membrane(false, 3), double, superspike>, norse_synapse>;
  namespace g = goldens::spiking::norse_lif_refractory;
  L::State state{}, d_state{};
  L::Cache cache;
  L layer, gradient;
  for (Index c = 0; c < D; ++c) {
    const auto k = static_cast<std::size_t>(c);
    state.v[c] = g::first_0[k];
    state.i[c] = g::first_1[k];
    state.wait[c] = std::max(0.0, std::nearbyint(g::first_2[k]));
    d_state.v[c] = g::d_last_0[k];
    d_state.i[c] = g::d_last_1[k];
  }
  const auto s = layer.forward(golden::rows_of<double, D>(g::x), state, cache);
  golden::same("spikes", s, g::s, 1e-12);
  golden::same("v", state.v.values, g::last_0, 1e-12);
  golden::same("i", state.i.values, g::last_1, 1e-12);
  golden::same("steps left", state.wait.values, g::last_2, 1e-12);
  const auto dx = layer.backward(golden::rows_of<double, D>(g::ds), d_state, cache, gradient);
  golden::same("dx", dx, g::dx, 1e-11);
  golden::same("d v", d_state.v.values, g::d_first_0, 1e-11);
  golden::same("d i", d_state.i.values, g::d_first_1, 1e-11);
}
