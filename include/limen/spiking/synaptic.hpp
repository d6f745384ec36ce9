#pragma once
/// @file  A synapse before a neuron: spikes make a current, the current fills the membrane.
///
///   i_t = α i_{t-1} + x_t        current, [T x D]
///   s_t = the neuron, driven by i_t (or, with Current::previous, by i_{t-1})
///
/// The membrane answers smoothly and late. A spike resets the membrane; the current stays.
///
///     using N = Synaptic<Lif<membrane>, SynapticConfig{.decay = 0.8}>;
///
///   snnTorch Synaptic         before snntorch_synaptic_membrane (spiking/presets.hpp)
///   Norse LIF                 .decay = 1 - dt/τ_syn before norse_lif_membrane
///   SpikingJelly CUBALIFNode  .decay = 0.5 before a Lif with .decay = 0.75, .threshold = 0.5
///   exact integration         .gain of the membrane from exact_current_gain
///
/// Norse hands out the current after its decay: its i is α times this one.

#include <limen/kernel/synapse.hpp>
#include <limen/spiking/lif.hpp>

namespace limen::inline LIMEN_ABI {

struct SynapticConfig {
  double decay = 0.8;                 ///< α, what a step leaves of the current
  Current current = Current::fresh;   ///< which one drives the membrane
  Learned learn_decay = Learned::no;  ///< α = σ(current_decay)
};

/// The gain that makes a step exact where the current decays during it, for τ_mem v' = -v + i:
/// τ_syn / (τ_mem - τ_syn) (e^(-dt/τ_mem) - e^(-dt/τ_syn)), and its limit where both are equal.
constexpr double exact_current_gain(double dt_ms, double tau_mem_ms, double tau_syn_ms) {
  const double fast = exact_decay(dt_ms, tau_mem_ms < tau_syn_ms ? tau_mem_ms : tau_syn_ms);
  const double slow = exact_decay(dt_ms, tau_mem_ms < tau_syn_ms ? tau_syn_ms : tau_mem_ms);
  const double gap = tau_mem_ms < tau_syn_ms ? tau_syn_ms - tau_mem_ms : tau_mem_ms - tau_syn_ms;
  const double d = dt_ms * gap / tau_mem_ms / tau_syn_ms;  // fast = slow e^-d
  if (!(d < 0.5)) return dt_ms / tau_mem_ms * (slow - fast) / d;
  double series = 1;  // (1 - e^-d) / d
  for (int k = 14; k > 0; --k) series = 1 - d / (k + 1) * series;
  return dt_ms / tau_mem_ms * slow * series;
}

/// The state of the neuron, and its current.
template <class Neuron, class Real, Index D>
struct SynapticState : Neuron {
  Fixed<Real, D> i;

  auto arrays() {
    const auto own = Neuron::arrays();
    NeuronArrays<Real, static_cast<int>(own.size()) + 1> all;
    for (std::size_t k = 0; k < own.size(); ++k) all[k] = own[k];
    all[own.size()] = i.data();
    return all;
  }
};

template <class Neuron, SynapticConfig C = SynapticConfig{}>
struct Synaptic {
  static_assert(C.decay >= 0 && C.decay <= 1, "Synaptic: .decay must be from 0 to 1");
  static_assert(C.learn_decay == Learned::no || (C.decay > 0 && C.decay < 1),
                "Synaptic: a .decay that is learned starts between 0 and 1");

  static constexpr SynapticConfig config = C;
  static constexpr Index D = Neuron::D, in = D, out = D;
  using Scalar = typename Neuron::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Synaptic<typename Neuron::template with_scalar<T>, C>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Neuron neuron;
  LearnedDecay<C.learn_decay, std::conditional_t<Trainable<Neuron>, Real, Prepared<Real>>, D>
      current_decay;  ///< α = σ(current_decay)

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("neuron", l.neuron...);
    f("current_decay", l.current_decay...);
  }

  static Synaptic initialized(Random& random) {
    Synaptic layer{.neuron = Neuron::initialized(random), .current_decay = {}};
    fill_number(layer.current_decay, std::log(config.decay / (1 - config.decay)));
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * D + Neuron::macs(rows); }

  // ── One step of it, for layers built on these neurons ──────────────────────────────────────────
  static constexpr bool learns_decay = C.learn_decay != Learned::no,
                        own_decay = C.learn_decay == Learned::each;
  static constexpr Index own_numbers = Neuron::own_numbers + own_decay;
  using Unit =
      SynapseUnit<typename Neuron::Unit, C.current, learns_decay, NeuronNumber<Real, own_decay>>;

  Unit unit(Real* room) const noexcept {
    Unit u{.neuron = neuron.unit(room), .alpha = {}};
    set_decay(u.alpha, current_decay, config.decay, D, room + Neuron::own_numbers * D);
    return u;
  }

  void add_gradients(const Unit& u, Real* sums, Synaptic& gradient) const {
    if constexpr (learns_decay) {
      add_decay_gradient(u.alpha, sums + static_cast<Index>(Unit::n_sums) * D, D,
                         gradient.current_decay);
    }
    neuron.add_gradients(u.neuron, sums, gradient.neuron);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = SynapticState<typename Neuron::State, Real, D>;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    return neurons_forward(*this, x, batch);
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    return neurons_step(*this, x, state);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = NeuronCache<Unit, D>;

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires Trainable<Neuron>
  {
    return neurons_forward(*this, std::move(x), batch, cache);
  }

  /// dx_t = μ_t = what the neuron gives for its drive + α μ_{t+1},  dα = Σ μ_t i_{t-1}
  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Synaptic& gradient) const
    requires Trainable<Neuron>
  {
    return neurons_backward(*this, ds, batch, cache, gradient);
  }
};

}  // namespace limen::inline LIMEN_ABI
