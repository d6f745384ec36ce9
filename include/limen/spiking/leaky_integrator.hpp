#pragma once
/// @file  A neuron that leaks and does not fire: the readout of a spiking network.
///
///   v_t = a v_{t-1} + g x_t,   y_t = v_t        x, y [T x D]
///
/// The membrane is a low-pass of the spikes that reach it, so a loss on it at every step, at the
/// last, or on its maximum has a gradient that needs no surrogate. `LI` of Norse: a = 1 - dt/τ, g =
/// dt/τ. With a = 1 it counts.

#include <cmath>

#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/synapse.hpp>
#include <limen/spiking/neuron.hpp>
#include <limen/spiking/spike.hpp>

namespace limen::inline LIMEN_ABI {

struct LeakyIntegratorConfig {
  Index d_model = 0;                  ///< D, neurons
  double decay = 0.9;                 ///< a, what a step leaves of the membrane
  double gain = 1;                    ///< g
  bool decay_input = false;           ///< g = gain (1 - a), for an `a` that is not learned
  Learned learn_decay = Learned::no;  ///< a = σ(decay)
  Learned learn_gain = Learned::no;
};

template <class Real, Index D>
struct LeakyIntegratorState {
  Fixed<Real, D> v;  ///< membrane

  NeuronArrays<Real, 1> arrays() { return {v.data()}; }
};

template <LeakyIntegratorConfig C, class S = float>
struct LeakyIntegrator {
  static_assert(C.d_model > 0, "LeakyIntegrator: .d_model must be positive");
  static_assert(C.decay >= 0 && C.decay <= 1, "LeakyIntegrator: .decay must be from 0 to 1");
  static_assert(detail::finite(C.gain), "LeakyIntegrator: .gain must be finite");
  static_assert(
      C.learn_decay == Learned::no || (C.decay > 0 && C.decay < 1 && !C.decay_input),
      "LeakyIntegrator: a .decay that is learned starts between 0 and 1, and .decay_input "
      "is for one that is not");

  static constexpr LeakyIntegratorConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = LeakyIntegrator<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  LearnedDecay<C.learn_decay, S, D> decay;    ///< a = σ(decay)
  LearnedNumber<C.learn_gain, Real, D> gain;  ///< g

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("decay", l.decay...);
    f("gain", l.gain...);
  }

  static LeakyIntegrator initialized(Random&) {
    LeakyIntegrator layer;
    fill_number(layer.decay, std::log(config.decay / (1 - config.decay)));
    fill_number(layer.gain, start_gain);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * D; }

  // ── One step of it, for layers built on these neurons ──────────────────────────────────────────
  static constexpr double start_gain =
      C.decay_input ? config.gain * (1 - config.decay) : config.gain;
  static constexpr bool learns_decay = C.learn_decay != Learned::no,
                        learns_gain = C.learn_gain != Learned::no,
                        own_decay = C.learn_decay == Learned::each,
                        own_gain = C.learn_gain == Learned::each;
  /// Numbers that each neuron has of its own.
  static constexpr Index own_numbers = own_decay + own_gain;
  using Unit = LeakyUnit<learns_decay, learns_gain, Real, NeuronNumber<Real, own_decay>,
                         NeuronNumber<Real, own_gain>>;

  Unit unit(Real* room) const noexcept {
    using V = simd::Vec<Real>;
    Unit u{};
    room = set_decay(u.a, decay, config.decay, D, room);
    set_number(u.g, gain, start_gain, D, room, [](const V& v) { return v; });
    return u;
  }

  void add_gradients(const Unit& u, Real* sums, LeakyIntegrator& gradient) const {
    if constexpr (learns_decay) add_decay_gradient(u.a, sums, D, gradient.decay);
    if constexpr (learns_gain) {
      add_neuron_gradient(sums + static_cast<Index>(Unit::of_gain) * D, D, gradient.gain);
    }
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = LeakyIntegratorState<Real, D>;

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

  /// δ_t = dy_t + a δ_{t+1},  dx = g δ,  da = Σ δ_t v_{t-1},  dg = Σ δ_t x_t
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             LeakyIntegrator& gradient) const
    requires(!is_prepared<S>)
  {
    return neurons_backward(*this, dy, batch, cache, gradient);
  }
};

}  // namespace limen::inline LIMEN_ABI
