// What SpikingJelly and Norse compute, and the equations of the LSNN by automatic differentiation:
// trains, last states, and gradients of inputs, first states and parameters. Then by hand.

#include <cmath>
#include <initializer_list>

#include <limen/spiking/alif.hpp>
#include <limen/spiking/eif.hpp>
#include <limen/spiking/glif.hpp>
#include <limen/spiking/plif.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/spiking_more.hpp"

using namespace limen;
using golden::Numbers;

namespace {

constexpr Index D = 3;

struct Part {
  Numbers first, last, d_last, d_first;
};
struct Run {
  Numbers x, s, ds, dx;
};

template <class Real>
void put(Real* to, Numbers from) {
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<Real>(from[i]);
}

template <class L, class Set, class See>
void agrees_in(const Run& run, std::initializer_list<Part> parts, Set set, See see,
               double tolerance) {
  using Real = typename L::Real;
  Random random(1);
  L layer = L::initialized(random), gradient{};
  set(layer);
  typename L::State state{}, d_state{};
  auto at = state.arrays(), d_at = d_state.arrays();
  REQUIRE(at.size() == parts.size());
  std::size_t k = 0;
  for (const Part& part : parts) put(at[k], part.first), put(d_at[k++], part.d_last);
  typename L::Cache cache;
  golden::same("spikes", layer.forward(golden::rows_of<Real, D>(run.x), state, cache), run.s,
               1e-12);
  k = 0;
  for (const Part& part : parts) golden::same("last", std::span(at[k++], D), part.last, tolerance);
  golden::same("dx", layer.backward(golden::rows_of<Real, D>(run.ds), d_state, cache, gradient),
               run.dx, tolerance);
  k = 0;
  for (const Part& part : parts) {
    golden::same("d first", std::span(d_at[k++], D), part.d_first, tolerance);
  }
  see(gradient, tolerance);
}

template <class L, class Set, class See>
void agrees(const Run& run, std::initializer_list<Part> parts, Set set, See see) {
  agrees_in<typename L::template with_scalar<double>>(run, parts, set, see, 1e-11);
  agrees_in<typename L::template with_scalar<float>>(run, parts, set, see, 5e-4);
}

template <class L>
void agrees(const Run& run, std::initializer_list<Part> parts) {
  agrees<L>(run, parts, [](auto&) {}, [](auto&, double) {});
}

void same_number(double got, double expected, double tolerance) {
  INFO("got " << got << ", expected " << expected);
  REQUIRE(std::abs(got - expected) <= tolerance * (1 + std::abs(expected)));
}

}  // namespace

#define RUN(c)                                                                              \
  Run {                                                                                     \
    goldens::spiking_more::c::x, goldens::spiking_more::c::s, goldens::spiking_more::c::ds, \
        goldens::spiking_more::c::dx                                                        \
  }
#define PART(c, k)                                                                  \
  Part {                                                                            \
    goldens::spiking_more::c::first_##k, goldens::spiking_more::c::last_##k,        \
        goldens::spiking_more::c::d_last_##k, goldens::spiking_more::c::d_first_##k \
  }

TEST_CASE("Plif computes what SpikingJelly's PLIF computes", "[spiking][plif][golden]") {
#define PLIF(name, kind, detached, decayed)                                                       \
  agrees<Plif<PlifConfig{.d_model = D,                                                            \
                         .decay_input = decayed,                                                  \
                         .threshold = 0.75,                                                       \
                         .reset = kind,                                                           \
                         .reset_to = -0.125,                                                      \
                         .detach_reset = detached}>>(                                             \
      RUN(name), {PART(name, 0)}, [](auto& layer) { layer.decay[0] = 0.75F; },                    \
      [](auto& gradient, double tolerance) {                                                      \
        same_number(-static_cast<double>(gradient.decay[0]), goldens::spiking_more::name::d_w[0], \
                    tolerance);                                                                   \
      })
  PLIF(plif_value, Reset::to_value, false, false);
  PLIF(plif_value_decayed, Reset::to_value, false, true);
  PLIF(plif_value_detached_decayed, Reset::to_value, true, true);
  PLIF(plif_soft, Reset::subtract, false, false);
  PLIF(plif_soft_decayed, Reset::subtract, false, true);
  PLIF(plif_soft_detached, Reset::subtract, true, false);
#undef PLIF
}

namespace {
constexpr EifConfig reset_as(EifConfig c, Reset reset, bool detached) {
  c.reset = reset;
  c.reset_to = -0.125;
  c.detach_reset = detached;
  return c;
}
constexpr EifConfig adaptive = [] {
  EifConfig c = norse_lif_adex(D, 1, 8, 16);
  c.pull = 0.25;
  c.jump = 0.5;
  return c;
}();
}  // namespace

TEST_CASE("Eif computes what SpikingJelly's EIF and QIF compute", "[spiking][eif][golden]") {
#define EIF(preset, name, kind, detached) \
  agrees<Eif<reset_as(preset(D), kind, detached)>>(RUN(name), {PART(name, 0)})
  EIF(spikingjelly_eif, eif_value, Reset::to_value, false);
  EIF(spikingjelly_eif, eif_value_detached, Reset::to_value, true);
  EIF(spikingjelly_eif, eif_soft, Reset::subtract, false);
  EIF(spikingjelly_eif, eif_soft_detached, Reset::subtract, true);
  EIF(spikingjelly_qif, qif_value, Reset::to_value, false);
  EIF(spikingjelly_qif, qif_value_detached, Reset::to_value, true);
  EIF(spikingjelly_qif, qif_soft, Reset::subtract, false);
  EIF(spikingjelly_qif, qif_soft_detached, Reset::subtract, true);
#undef EIF
}

// The spike function of Norse 1.1.0 has the slope 1 / (1 + |u|)², whatever its alpha.

TEST_CASE("Eif computes what Norse's exponential neurons compute", "[spiking][eif][golden]") {
  agrees<Eif<norse_lif_ex(D, 1, 8), float, FastSigmoid{.k = 1}>>(RUN(norse_lif_ex),
                                                                 {PART(norse_lif_ex, 0)});
  agrees<Eif<adaptive, float, FastSigmoid{.k = 1}>>(
      RUN(norse_lif_adex), {PART(norse_lif_adex, 0), PART(norse_lif_adex, 1)});
}

TEST_CASE("Alif computes what Norse's LSNN computes", "[spiking][alif][golden]") {
  agrees<Alif<norse_lsnn(D, 0.5, 1, 8, 16), float, FastSigmoid{.k = 1}>>(
      RUN(norse_lsnn), {PART(norse_lsnn, 0), PART(norse_lsnn, 1)});
}

TEST_CASE("Alif is the slope of the equations of the LSNN", "[spiking][alif][golden]") {
#define LSNN(name, detached)                                                               \
  agrees<Alif<AlifConfig{.d_model = D,                                                     \
                         .decay = 0.75,                                                    \
                         .threshold = 0.625,                                               \
                         .adaptation_decay = 0.875,                                        \
                         .adaptation = 0.5,                                                \
                         .detach_reset = detached,                                         \
                         .learn = Learned::together},                                      \
              float, PiecewiseQuadratic{}>>(                                               \
      RUN(name), {PART(name, 0), PART(name, 1), PART(name, 2)}, [](auto&) {},              \
      [](auto& gradient, double tolerance) {                                               \
        namespace g = goldens::spiking_more::name;                                         \
        same_number(gradient.decay[0], g::d_a[0] * 0.75 * 0.25, tolerance);                \
        same_number(gradient.adaptation_decay[0], g::d_rho[0] * 0.875 * 0.125, tolerance); \
        same_number(gradient.adaptation[0], g::d_beta[0], tolerance);                      \
        same_number(gradient.threshold[0], g::d_theta[0], tolerance);                      \
      })
  LSNN(lsnn, false);
  LSNN(lsnn_detached, true);
#undef LSNN
}

TEST_CASE("Glif computes what SpikingJelly's gated LIF computes", "[spiking][glif][golden]") {
  namespace g = goldens::spiking_more::glif;
  using Layer = Glif<GlifConfig{.d_model = D, .steps = 12}>;
  const auto set = [](auto& layer) {
    put(layer.alpha.data(), g::alpha);
    put(layer.beta.data(), g::beta);
    put(layer.gamma.data(), g::gamma);
    put(layer.tau.data(), g::tau);
    put(layer.threshold.data(), g::threshold);
    put(layer.linear_decay.data(), g::linear_decay);
    put(layer.reset_by.data(), g::reset_by);
    put(layer.conductance.data(), g::conductance);
  };
  agrees<Layer>(
      RUN(glif), {PART(glif, 0), PART(glif, 1)}, set, [](auto& gradient, double tolerance) {
        golden::same("alpha", gradient.alpha.flat(), g::d_alpha, tolerance);
        golden::same("beta", gradient.beta.flat(), g::d_beta, tolerance);
        golden::same("gamma", gradient.gamma.flat(), g::d_gamma, tolerance);
        golden::same("tau", gradient.tau.flat(), g::d_tau, tolerance);
        golden::same("threshold", gradient.threshold.flat(), g::d_threshold, tolerance);
        golden::same("linear_decay", gradient.linear_decay.flat(), g::d_linear_decay, tolerance);
        golden::same("reset_by", gradient.reset_by.flat(), g::d_reset_by, tolerance);
        golden::same("conductance", gradient.conductance.flat(), g::d_conductance, tolerance);
      });
}

// ── By hand ──────────────────────────────────────────────────────────────────────────────────────

TEST_CASE("A neuron that tires, by hand", "[spiking][alif]") {
  using Layer =
      Alif<AlifConfig{.d_model = 1, .decay = 0.5, .adaptation_decay = 0.9, .adaptation = 0.5},
           double>;
  const double v[] = {0.8, 1.2, 0.4, 1.0, 1.3, 1.45, 0.525, 1.0625};
  Layer::State state;
  for (int t = 0; t < 8; ++t) {
    const double s = Layer{}.step(Vector<double, 1>{0.8}, state)[0];
    REQUIRE(std::abs(state.v[0] - v[t]) < 1e-12);
    REQUIRE(s == (t == 1 || t == 5 ? 1 : 0));
  }
}

TEST_CASE("An exponential neuron, by hand, and with an input that would overflow",
          "[spiking][eif]") {
  Eif<spikingjelly_eif(1), double>::State fine;
  Eif<spikingjelly_eif(1), double>{}.step(Vector<double, 1>{0.5}, fine);
  REQUIRE(std::abs(fine.v[0] - 0.474665) < 1e-6);

  constexpr EifConfig soft = reset_as(spikingjelly_eif(1), Reset::subtract, false);
  const Eif<soft> layer;
  Eif<soft>::Cache cache;
  Eif<soft> gradient;
  const auto s = forward(layer, Sequence<float, 1>{{1e3F}, {1e3F}, {0}, {0}}, cache);
  const auto dx = backward(layer, Sequence<float, 1>{{1}, {1}, {1}, {1}}, cache, gradient);
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(s(t, 0) == 1);
    REQUIRE(std::isfinite(dx(t, 0)));
  }
}

TEST_CASE("A Glif with its gates wide open is a neuron with a hard reset", "[spiking][glif]") {
  using Layer = Glif<GlifConfig{.d_model = 1, .decay = 0.5}, double>;
  Random random(1);
  Layer layer = Layer::initialized(random);
  layer.alpha[0] = layer.beta[0] = layer.gamma[0] = 60;
  Layer::State state;
  double v = 0, s = 0;
  for (const double x : {0.5, 1.0, 0.75, 0.25, 2.0, 0.5}) {
    v = 0.5 * v * (1 - s) + 0.5 * x;
    s = v >= 0.5 ? 1 : 0;
    REQUIRE(layer.step(Vector<double, 1>{x}, state)[0] == s);
    REQUIRE(std::abs(state.v[0] - v) < 1e-12);
  }
}

TEST_CASE("A Glif made for so many steps refuses more", "[spiking][glif]") {
  using Layer = Glif<GlifConfig{.d_model = 1, .steps = 3}>;
  Random random(1);
  const Layer layer = Layer::initialized(random);
  Layer::State state;
  layer.forward(Sequence<float, 1>{{1}, {1}}, state);
  const float v = state.v[0];
  REQUIRE_THROWS_WITH(layer.forward(Sequence<float, 1>{{1}, {1}}, state),
                      has_part("at most 3") && has_part("found 4"));
  REQUIRE(state.v[0] == v);
  REQUIRE(std::isfinite(layer.step(Vector<float, 1>{1}, state)[0]));
  REQUIRE(std::isnan(layer.step(Vector<float, 1>{1}, state)[0]));
}

TEST_CASE("Neurons keep the concepts of layers", "[spiking]") {
  STATIC_REQUIRE(Layer<Alif<AlifConfig{.d_model = 3}>>);
  STATIC_REQUIRE(Layer<Eif<EifConfig{.d_model = 3}>>);
  STATIC_REQUIRE(Layer<Glif<GlifConfig{.d_model = 3}>>);
  STATIC_REQUIRE(Layer<Plif<PlifConfig{.d_model = 3}>>);
}
