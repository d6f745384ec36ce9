#pragma once
/// @file  A neuron whose answer to a spike is an alpha function: it rises, then falls.
///
///   E_t = α E_{t-1} + x_t,   I_t = β I_{t-1} - x_t        0 < β < α < 1
///   h_t = τ (E_t + I_t),     s_t = H(h_t - θ)             τ = ln α / (ln β - ln α) + 1
///
/// A difference of two exponentials: nothing in the step of the input itself, then a bump. After a
/// spike all three are 0 for one step, whatever arrives: `Alpha` of snnTorch with
/// `reset_mechanism="zero"`, whose code has this τ (its text another). Subtraction is not offered:
/// there is no amount of E and I that lowers h by θ and leaves its shape.

#include <cmath>

#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/synapse.hpp>
#include <limen/spiking/neuron.hpp>
#include <limen/spiking/spike.hpp>
#include <limen/spiking/surrogate.hpp>

namespace limen::inline LIMEN_ABI {

struct AlphaConfig {
  Index d_model = 0;               ///< D, neurons
  double alpha = 0.9;              ///< α, what a step leaves of the slow part
  double beta = 0.8;               ///< β, of the fast part
  double threshold = 1;            ///< θ
  SpikeTest test = SpikeTest::gt;  ///< whether θ itself fires
};

template <class Real, Index D>
struct AlphaState {
  Fixed<Real, D> h;           ///< membrane
  Fixed<Real, D> excitation;  ///< E
  Fixed<Real, D> inhibition;  ///< I

  NeuronArrays<Real, 3> arrays() { return {h.data(), excitation.data(), inhibition.data()}; }
};

template <AlphaConfig C, class S = float, auto Phi = ArcTan{}>
struct Alpha {
  static_assert(C.d_model > 0, "Alpha: .d_model must be positive");
  static_assert(C.beta > 0 && C.beta < C.alpha && C.alpha < 1,
                "Alpha: .alpha and .beta must be 0 < beta < alpha < 1");
  static_assert(C.threshold > 0, "Alpha: .threshold must be positive");
  static_assert(Surrogate<std::remove_const_t<decltype(Phi)>> && sound(Phi),
                "Alpha: the surrogate needs a derivative, and positive numbers");

  static constexpr AlphaConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Alpha<C, T, Phi>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}  // learns nothing

  static Alpha initialized(Random&) { return {}; }

  static constexpr Index macs(Index rows) { return rows * 3 * D; }

  // ── One step of it, for layers built on these neurons ──────────────────────────────────────────
  static constexpr Index own_numbers = 0;
  using Unit = AlphaUnit<C.test, Phi, Real>;

  static Unit unit(Real* = nullptr) noexcept {
    const double a = std::log(config.alpha), b = std::log(config.beta);
    return {static_cast<Real>(config.alpha), static_cast<Real>(config.beta),
            static_cast<Real>(a / (b - a) + 1), static_cast<Real>(config.threshold)};
  }
  static void add_gradients(const Unit&, Real*, Alpha&) {}

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = AlphaState<Real, D>;

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

  /// With k_t = 0 where the step was silenced, else 1, and δ_t = φ_t ds_t:
  ///   dE_t = k_t (τ δ_t + α dE_{t+1}),  dI_t = k_t (τ δ_t + β dI_{t+1}),  dx_t = dE_t - dI_t
  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Alpha& gradient) const
    requires(!is_prepared<S>)
  {
    return neurons_backward(*this, ds, batch, cache, gradient);
  }
};

}  // namespace limen::inline LIMEN_ABI
