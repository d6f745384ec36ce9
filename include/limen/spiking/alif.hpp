#pragma once
/// @file  Leaky neurons that tire: each spike raises the threshold, which sinks back slowly (ALIF).
///
///   b_t = ρ b_{t-1} + s_{t-1}                      how tired
///   v_t = a v_{t-1} + g x_t - θ s_{t-1}            membrane; the reset takes the base θ
///   s_t = H(v_t - A_t),   A_t = θ + β b_t          x, s [T x D]
///
/// Neurons of long memory for recurrent networks (LSNN): ρ = e^(-dt/τ) with τ of 100 to 2000 ms, β
/// from 0.07 to 1.8, Phi = Triangle{.gamma = 0.3}.
///
/// With When::now the reset and the jump of b are paid in the step of the spike:
///   b' = ρ b_{t-1},  h = a v_{t-1} + g x_t,  s = H(h - θ - β b'),  b_t = b' + s
///   v_t = h - θ s, or c where s, else h
/// which is the LSNN of Norse (its threshold is our A, its b our θ + β b: `norse_lsnn`).
///
/// `.detach_reset` cuts the gradient through the reset alone. That from a spike to the threshold it
/// raises stays: without it a neuron could not learn to tire.
///
/// Bellec, Salaj, Subramoney, Legenstein & Maass, Long short-term memory and learning-to-learn in
/// networks of spiking neurons, arXiv:1803.09574; Bellec et al., A solution to the learning dilemma
/// for recurrent networks of spiking neurons, Nature Communications 11, 2020, equations 6 to 9.

#include <cmath>

#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/adaptive.hpp>
#include <limen/kernel/math.hpp>
#include <limen/spiking/neuron.hpp>
#include <limen/spiking/spike.hpp>
#include <limen/spiking/surrogate.hpp>

namespace limen::inline LIMEN_ABI {

struct AlifConfig {
  Index d_model = 0;               ///< D, neurons
  double decay = 0.95;             ///< a, what a step leaves of the membrane
  double gain = 1;                 ///< g
  double threshold = 1;            ///< θ
  double adaptation_decay = 0.99;  ///< ρ, what a step leaves of b
  double adaptation = 0.1;         ///< β, at least 0
  SpikeTest test = SpikeTest::ge;  ///< whether A itself fires
  Reset reset = Reset::subtract;   ///< by θ; to_value needs When::now
  double reset_to = 0;             ///< c
  When when = When::next;          ///< when a spike is paid for
  bool detach_reset = false;       ///< no gradient through the spike of the reset
  Learned learn = Learned::no;     ///< a, ρ, β and θ
};

/// `norse.torch.functional.lsnn`, behind a Synaptic with Current::previous. Its time constant of
/// adaptation is 800 s by default, which is none: here it is in milliseconds, like the others.
constexpr AlifConfig norse_lsnn(Index d_model, double beta = 1.8, double dt_ms = 1,
                                double tau_mem_ms = 10, double tau_adapt_ms = 800) {
  return {.d_model = d_model,
          .decay = euler_decay(dt_ms, tau_mem_ms),
          .gain = dt_ms / tau_mem_ms,
          .adaptation_decay = euler_decay(dt_ms, tau_adapt_ms),
          .adaptation = beta,
          .test = SpikeTest::gt,
          .reset = Reset::to_value,
          .when = When::now};
}

template <class Real, Index D, bool Next>
struct AlifState {
  Fixed<Real, D> v;  ///< membrane
  Fixed<Real, D> b;  ///< how tired

  NeuronArrays<Real, 2> arrays() { return {v.data(), b.data()}; }
};
template <class Real, Index D>
struct AlifState<Real, D, true> {
  Fixed<Real, D> v;  ///< membrane
  Fixed<Real, D> b;  ///< how tired
  Fixed<Real, D> s;  ///< spikes that are not paid for yet

  NeuronArrays<Real, 3> arrays() { return {v.data(), b.data(), s.data()}; }
};

template <AlifConfig C, class S = float, auto Phi = ArcTan{}>
struct Alif {
  static_assert(C.d_model > 0, "Alif: .d_model must be positive");
  static_assert(C.decay >= 0 && C.decay <= 1, "Alif: .decay must be from 0 to 1");
  static_assert(C.adaptation_decay >= 0 && C.adaptation_decay <= 1,
                "Alif: .adaptation_decay must be from 0 to 1");
  static_assert(C.adaptation >= 0 && detail::finite(C.adaptation),
                "Alif: .adaptation must not be negative");
  static_assert(detail::finite(C.gain) && detail::finite(C.reset_to) &&
                    detail::positive(C.threshold),
                "Alif: .threshold must be positive, every number finite");
  static_assert(C.reset != Reset::none, "Alif: .reset must be subtract or to_value");
  static_assert(C.reset == Reset::subtract || (C.when == When::now && C.reset_to < C.threshold),
                "Alif: .reset = to_value needs .when = now and .reset_to below .threshold");
  static_assert(C.learn == Learned::no || (C.decay > 0 && C.decay < 1 && C.adaptation_decay > 0 &&
                                           C.adaptation_decay < 1),
                "Alif: a decay that is learned starts between 0 and 1");
  static_assert(Surrogate<std::remove_const_t<decltype(Phi)>> && sound(Phi),
                "Alif: the surrogate needs a derivative, and positive numbers");

  static constexpr AlifConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Alif<C, T, Phi>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  LearnedDecay<C.learn, S, D> decay;             ///< a = σ(decay)
  LearnedDecay<C.learn, S, D> adaptation_decay;  ///< ρ = σ(adaptation_decay)
  LearnedNumber<C.learn, Real, D> adaptation;    ///< β
  LearnedNumber<C.learn, Real, D> threshold;     ///< θ

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("decay", l.decay...);
    f("adaptation_decay", l.adaptation_decay...);
    f("adaptation", l.adaptation...);
    f("threshold", l.threshold...);
  }

  static Alif initialized(Random&) {
    Alif layer;
    fill_number(layer.decay, std::log(config.decay / (1 - config.decay)));
    fill_number(layer.adaptation_decay,
                std::log(config.adaptation_decay / (1 - config.adaptation_decay)));
    fill_number(layer.adaptation, config.adaptation);
    fill_number(layer.threshold, config.threshold);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * 3 * D; }

  // ── One step of it, for layers built on these neurons ──────────────────────────────────────────
  static constexpr bool own = C.learn == Learned::each;
  static constexpr Index own_numbers = own ? 4 : 0;
  using Unit = AlifUnit<AlifRules{.test = C.test,
                                  .reset = C.reset,
                                  .when = C.when,
                                  .detach_reset = C.detach_reset,
                                  .learns = C.learn != Learned::no},
                        Phi, Real, NeuronNumber<Real, own>>;

  Unit unit(Real* room) const noexcept {
    using V = simd::Vec<Real>;
    Unit u{};
    const auto same = [](const V& v) { return v; };
    room = set_decay(u.a, decay, config.decay, D, room);
    room = set_decay(u.rho, adaptation_decay, config.adaptation_decay, D, room);
    room = set_number(u.beta, adaptation, config.adaptation, D, room, same);
    set_number(u.theta, threshold, config.threshold, D, room, same);
    u.g = static_cast<Real>(config.gain);
    u.to = static_cast<Real>(config.reset_to);
    return u;
  }

  /// From the sums of the unit [sums][D], which are used up.
  void add_gradients(const Unit& u, Real* sums, Alif& gradient) const {
    if constexpr (C.learn != Learned::no) {
      add_decay_gradient(u.a, sums, D, gradient.decay);
      add_decay_gradient(u.rho, sums + D, D, gradient.adaptation_decay);
      add_neuron_gradient(sums + 2 * D, D, gradient.adaptation);
      add_neuron_gradient(sums + 3 * D, D, gradient.threshold);
    }
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = AlifState<Real, D, C.when == When::next>;

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

  /// Equations in kernel/adaptive.hpp.
  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Alif& gradient) const
    requires(!is_prepared<S>)
  {
    return neurons_backward(*this, ds, batch, cache, gradient);
  }
};

}  // namespace limen::inline LIMEN_ABI
