#pragma once
/// @file  Leaky integrate-and-fire neurons, in every published form.
///
///   h_t = ρ + a (v_{t-1} - ρ) + g x_t        membrane: a of it is left, the input adds to it
///   s_t = H(h_t - θ)                         spike, 0 or 1
///   v_t = h_t - b s_t                        Reset::subtract, b = θ unless .reset_by says else
///       = c where s_t, else h_t              Reset::to_value, c = .reset_to
///       = h_t                                Reset::none
///
///   x, s [T x D]      a in [0, 1], θ above c and, where it is subtracted, above 0
///
/// With When::next the membrane is handed on as it fired, and the reset is paid by the next step,
/// with r_t = H(v_{t-1} - θ):  h_t = a v_{t-1} + g x_t - b r_t,  or  a (1 - r_t) v_{t-1} + g x_t.
///
/// What is remembered is v - ρ, so a state of zeros is a neuron at rest. The way back goes through
/// time with a surrogate for the slope of H (spiking/surrogate.hpp; equations in kernel/lif.hpp),
/// through the reset too unless `.detach_reset`; with When::next the reset is always a constant.
///
/// Which library means which of these: spiking/presets.hpp, docs/spiking.md.
/// Gerstner, Kistler, Naud & Paninski, Neuronal Dynamics, 2014, section 1.3; Neftci, Mostafa &
/// Zenke, arXiv:1901.09948; Eshraghian et al., arXiv:2109.12894 (snnTorch); Fang et al.,
/// arXiv:2310.16620 (SpikingJelly).

#include <cmath>

#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/refractory.hpp>
#include <limen/spiking/lif_config.hpp>
#include <limen/spiking/neuron.hpp>
#include <limen/spiking/surrogate.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real, Index D>
struct LifState {
  Fixed<Real, D> v;  ///< membrane above rest

  NeuronArrays<Real, 1> arrays() { return {v.data()}; }
};

template <LifConfig C, class S = float, auto Phi = ArcTan{}>
struct Lif {
  static_assert(C.d_model > 0, "Lif: .d_model must be positive");
  static_assert(detail::lif_decays(C), "Lif: .decay must be from 0 to 1");
  static_assert(detail::lif_is_finite(C), "Lif: every number must be finite");
  static_assert(detail::lif_subtracts(C), "Lif: what a spike subtracts must be positive");
  static_assert(detail::lif_resets_below(C), "Lif: .reset_to must be below .threshold");
  static_assert(C.rest < C.threshold || C.reset == Reset::subtract,
                "Lif: .rest must be below .threshold");
  static_assert(detail::lif_can_wait(C), "Lif: .when = next needs .rest = 0 and .reset_to = 0");
  static_assert(!C.reset_clears_input || (C.when == When::next && C.reset == Reset::to_value),
                "Lif: .reset_clears_input needs .when = next and .reset = to_value");
  static_assert(C.refractory >= 0, "Lif: .refractory is a number of steps, not negative");
  static_assert(C.refractory == 0 || C.when == When::now, "Lif: .refractory needs .when = now");
  static_assert(C.learn_decay == Learned::no || (C.decay > 0 && C.decay < 1),
                "Lif: a .decay that is learned starts between 0 and 1");
  static_assert(C.learn_reset_to == Learned::no ||
                    (C.reset == Reset::to_value && C.when == When::now),
                "Lif: .learn_reset_to needs .reset = to_value and .when = now");
  static_assert(Surrogate<std::remove_const_t<decltype(Phi)>> && sound(Phi),
                "Lif: the surrogate needs a derivative, and positive numbers");

  static constexpr LifConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Lif<C, T, Phi>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  LearnedDecay<C.learn_decay, S, D> decay;              ///< a = σ(decay)
  LearnedNumber<C.learn_gain, Real, D> gain;            ///< g
  LearnedNumber<C.learn_threshold, Real, D> threshold;  ///< θ
  LearnedNumber<C.learn_reset_to, Real, D> reset_to;    ///< c

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("decay", l.decay...);
    f("gain", l.gain...);
    f("threshold", l.threshold...);
    f("reset_to", l.reset_to...);
  }

  /// As the config says.
  static Lif initialized(Random&) {
    Lif layer;
    fill_number(layer.decay, std::log(config.decay / (1 - config.decay)));
    fill_number(layer.gain, config.gain);
    fill_number(layer.threshold, config.threshold);
    fill_number(layer.reset_to, config.reset_to);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * D; }

  // ── One step of it, for layers built on these neurons ──────────────────────────────────────────
  static constexpr LifRules rules = detail::lif_rules(C);
  static constexpr bool own_decay = C.learn_decay == Learned::each,
                        own_gain = C.learn_gain == Learned::each || (own_decay && C.decay_input),
                        own_threshold = C.learn_threshold == Learned::each,
                        own_value = C.learn_reset_to == Learned::each;
  /// Numbers that each neuron has of its own.
  static constexpr Index own_numbers = own_decay + own_gain + own_threshold + own_value;
  using Membrane =
      LifUnit<rules, Phi, Real, NeuronNumber<Real, own_decay>, NeuronNumber<Real, own_gain>,
              NeuronNumber<Real, own_threshold>, NeuronNumber<Real, own_value>>;
  using Unit = std::conditional_t<C.refractory == 0, Membrane, RefractoryUnit<Membrane>>;

  /// What the neurons compute with; numbers that each has of its own go to `room`.
  Unit unit(Real* room) const noexcept {
    Unit result{};
    Membrane& u = membrane(result);
    const auto above_rest = [](const V& v) { return v - V(static_cast<Real>(config.rest)); };
    room = set_decay(u.a, decay, config.decay, D, room);
    room = set_gain(u, room);
    room = set_number(u.theta, threshold, config.threshold - config.rest, D, room, above_rest);
    set_number(u.to, reset_to, config.reset_to - config.rest, D, room, above_rest);
    u.by = static_cast<Real>(rules.by_threshold ? config.rest : config.reset_by);
    if constexpr (C.refractory > 0) result.steps = static_cast<Real>(C.refractory);
    return result;
  }

  /// From the sums of the unit [sums][D], which are used up.
  void add_gradients(const Unit& of, Real* sums, Lif& gradient) const {
    const Membrane& u = membrane(of);
    Real* d_gain = sums + static_cast<Index>(Membrane::of_gain) * D;
    if constexpr (rules.learns_decay) {
      for (Index c = 0; C.decay_input && c < D; ++c) sums[c] -= raw_gain(c) * d_gain[c];
      add_decay_gradient(u.a, sums, D, gradient.decay);
    }
    if constexpr (C.learn_gain != Learned::no) {
      for (Index c = 0; C.decay_input && c < D; ++c) d_gain[c] *= 1 - decay_of(u, c);
      add_neuron_gradient(d_gain, D, gradient.gain);
    }
    if constexpr (rules.learns_threshold) {
      add_neuron_gradient(sums + static_cast<Index>(Membrane::of_threshold) * D, D,
                          gradient.threshold);
    }
    if constexpr (rules.learns_value) {
      add_neuron_gradient(sums + static_cast<Index>(Membrane::of_value) * D, D, gradient.reset_to);
    }
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = std::conditional_t<C.refractory == 0, LifState<Real, D>,
                                   RefractoryState<LifState<Real, D>, Real, D>>;

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

  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Lif& gradient) const
    requires(!is_prepared<S>)
  {
    return neurons_backward(*this, ds, batch, cache, gradient);
  }

 private:
  using V = simd::Vec<Real>;

  static auto& membrane(auto& u) {
    if constexpr (C.refractory > 0) {
      return u.neuron;
    } else {
      return u;
    }
  }

  Real* set_gain(Membrane& u, Real* room) const noexcept {
    if constexpr (own_gain) {
      for (Index c = 0; c < D; ++c) {
        room[c] = C.decay_input ? raw_gain(c) * (1 - decay_of(u, c)) : raw_gain(c);
      }
      u.g.value = room;
      return room + D;
    } else if constexpr (rules.learns_gain) {
      u.g.value = C.decay_input ? raw_gain(0) * (1 - decay_of(u, 0)) : raw_gain(0);
    } else {
      u.g.value = static_cast<Real>(C.decay_input ? config.gain * (1 - config.decay) : config.gain);
    }
    return room;
  }

  static Real decay_of(const Membrane& u, Index c) {
    if constexpr (own_decay) {
      return u.a.value[c];
    } else {
      return u.a.value;
    }
  }
  Real raw_gain(Index c) const {
    if constexpr (C.learn_gain == Learned::no) {
      return static_cast<Real>(config.gain);
    } else {
      return gain[C.learn_gain == Learned::each ? c : 0];
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
