#pragma once
/// @file  Integrate-and-fire neurons that start their own spikes: exponential, adaptive, quadratic.
///
///   h_t = v + dt/τ (f(v) + R x_t - w)                   v, w: of the step before
///   s_t = H(h_t - θ),   v_t = c where s_t, else h_t     or h_t - θ' s_t, θ' above rest
///
///   exponential  f = -(v - ρ) + Δ e^((v - θ_r) / Δ)     Eif; adaptive, with w, AdEx
///   quadratic    f = q (v - ρ) (v - v_c)                Qif
///   w_t = w + dt/τ_w (p (v - ρ) - w) + j s_t
///
///   x, s [T x D]. State: v - ρ, and w.       θ_r: above it the membrane runs away by itself
///
/// All by explicit Euler steps, as published. The exponent stops at `.most`, in value and gradient.
/// Above rheobase the slope of a step is above 1 and gradients grow with time: `.detach_reset`, and
/// short sequences, are advised.
///
/// Presets: `spikingjelly_eif`, `spikingjelly_qif`, `norse_lif_ex` and `norse_lif_adex` (behind a
/// Synaptic). Fourcaud-Trocmé, Hansel, van Vreeswijk & Brunel, Journal of Neuroscience 23, 2003;
/// Brette & Gerstner, Journal of Neurophysiology 94, 2005 (AdEx); Gerstner et al., Neuronal
/// Dynamics, 2014, chapters 5 and 6.

#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/nonlinear_fire.hpp>
#include <limen/spiking/neuron.hpp>
#include <limen/spiking/spike.hpp>
#include <limen/spiking/surrogate.hpp>

namespace limen::inline LIMEN_ABI {

/// What the membrane does by itself.
enum class Onset {
  exponential,  ///< Eif
  quadratic     ///< Qif
};

struct EifConfig {
  Index d_model = 0;                 ///< D, neurons
  Onset onset = Onset::exponential;  ///< f
  double dt = 1;                     ///< of a step, in the unit of τ
  double tau = 2;                    ///< τ
  double gain = 1;                   ///< R
  double rest = 0;                   ///< ρ
  double threshold = 1;              ///< θ
  double sharpness = 1;              ///< Δ
  double rheobase = 0.8;             ///< θ_r, at most θ
  double most = 20;                  ///< where the exponent stops
  double curvature = 1;              ///< q
  double critical = 0.8;             ///< v_c
  SpikeTest test = SpikeTest::ge;    ///< whether θ itself fires
  Reset reset = Reset::to_value;     ///< what a spike does to the membrane
  double reset_to = -0.1;            ///< c
  bool detach_reset = false;         ///< no gradient through the spike of the reset
  bool adapts = false;               ///< has w (AdEx)
  double tau_w = 2;                  ///< τ_w
  double pull = 0;                   ///< p
  double jump = 0;                   ///< j
};

/// `spikingjelly.activation_based.neuron.EIFNode(tau)`.
constexpr EifConfig spikingjelly_eif(Index d_model, double tau = 2) {
  return {.d_model = d_model, .tau = tau};
}

/// `spikingjelly.activation_based.neuron.QIFNode(tau)`.
constexpr EifConfig spikingjelly_qif(Index d_model, double tau = 2) {
  return {.d_model = d_model, .onset = Onset::quadratic, .tau = tau};
}

/// The membrane of `norse.torch.functional.lif_ex`, in milliseconds, behind a Synaptic.
constexpr EifConfig norse_lif_ex(Index d_model, double dt_ms = 1, double tau_mem_ms = 10) {
  return {.d_model = d_model,
          .dt = dt_ms,
          .tau = tau_mem_ms,
          .sharpness = 0.5,
          .rheobase = 1,
          .test = SpikeTest::gt,
          .reset_to = 0};
}

/// That of `norse.torch.functional.lif_adex`, whose τ_w is 500 ms by its defaults.
constexpr EifConfig norse_lif_adex(Index d_model, double dt_ms = 1, double tau_mem_ms = 10,
                                   double tau_w_ms = 500) {
  EifConfig c = norse_lif_ex(d_model, dt_ms, tau_mem_ms);
  c.adapts = true;
  c.tau_w = tau_w_ms;
  c.pull = 4;
  c.jump = 0.02;
  return c;
}

template <class Real, Index D, bool Adapts>
struct EifState {
  Fixed<Real, D> v;  ///< membrane above rest

  NeuronArrays<Real, 1> arrays() { return {v.data()}; }
};
template <class Real, Index D>
struct EifState<Real, D, true> {
  Fixed<Real, D> v;  ///< membrane above rest
  Fixed<Real, D> w;  ///< what pulls it back

  NeuronArrays<Real, 2> arrays() { return {v.data(), w.data()}; }
};

template <EifConfig C, class S = float, auto Phi = ArcTan{}>
struct Eif {
  static constexpr bool all_finite() {
    for (const double x : {C.gain, C.rest, C.threshold, C.rheobase, C.curvature, C.critical,
                           C.reset_to, C.pull, C.jump}) {
      if (!detail::finite(x)) return false;
    }
    return true;
  }
  static constexpr bool quadratic = C.onset == Onset::quadratic;
  static_assert(C.d_model > 0, "Eif: .d_model must be positive");
  static_assert(all_finite(), "Eif: every number must be finite");
  static_assert(detail::positive(C.dt) && C.tau > C.dt, "Eif: .tau must be longer than .dt");
  static_assert(!C.adapts || C.tau_w >= C.dt, "Eif: .tau_w must not be shorter than .dt");
  static_assert(detail::positive(C.sharpness), "Eif: .sharpness must be positive");
  static_assert(detail::positive(C.most) && C.most <= 80, "Eif: .most must be from 0 to 80");
  static_assert(quadratic || C.rheobase <= C.threshold,
                "Eif: .rheobase must not be above .threshold");
  static_assert(C.reset != Reset::none, "Eif: .reset must be subtract or to_value");
  static_assert(C.reset != Reset::to_value || C.reset_to < C.threshold,
                "Eif: .reset_to must be below .threshold");
  static_assert(C.rest < C.threshold, "Eif: .rest must be below .threshold");
  static_assert(Surrogate<std::remove_const_t<decltype(Phi)>> && sound(Phi),
                "Eif: the surrogate needs a derivative, and positive numbers");

  static constexpr EifConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Eif<C, T, Phi>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}  // learns nothing

  static Eif initialized(Random&) { return {}; }

  static constexpr Index macs(Index rows) { return rows * (C.adapts ? 6 : 4) * D; }

  // ── One step of it, for layers built on these neurons ──────────────────────────────────────────
  static constexpr Index own_numbers = 0;
  using Unit = NonlinearFireUnit<NonlinearFireRules{.quadratic = quadratic,
                                                    .adapts = C.adapts,
                                                    .test = C.test,
                                                    .reset = C.reset,
                                                    .detach_reset = C.detach_reset},
                                 Phi, Real>;

  static Unit unit(Real* = nullptr) noexcept {
    const auto real = [](double x) { return static_cast<Real>(x); };
    return {.k = real(config.dt / config.tau),
            .gain = real(config.gain),
            .theta = real(config.threshold - config.rest),
            .to = real(config.reset_to - config.rest),
            .sharpness = real(config.sharpness),
            .rheobase = real(config.rheobase - config.rest),
            .most = real(config.most),
            .curvature = real(config.curvature),
            .critical = real(config.critical - config.rest),
            .m = real(config.dt / config.tau_w),
            .pull = real(config.pull),
            .jump = real(config.jump)};
  }
  static void add_gradients(const Unit&, Real*, Eif&) {}

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = EifState<Real, D, C.adapts>;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    return neurons_forward(*this, x, batch);
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    return neurons_step(*this, x, state);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = NeuronCache<Unit, D>;

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    return neurons_forward(*this, std::move(x), batch, cache);
  }

  /// Equations in kernel/nonlinear_fire.hpp.
  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Eif& gradient) const
    requires(!is_prepared<S>)
  {
    return neurons_backward(*this, ds, batch, cache, gradient);
  }
};

}  // namespace limen::inline LIMEN_ABI
