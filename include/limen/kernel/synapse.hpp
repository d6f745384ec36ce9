#pragma once
/// @file  What stands before a membrane or without a threshold (units of kernel/neurons.hpp).
///
///   LeakyUnit     v ← a v + g x                y = v
///                 δ = dy + dv,  dx = g δ,  dv ← a δ,  da = δ v,  dg = δ x
///
///   SynapseUnit   i ← α i + x                  the neuron is driven by i, or by i as it was
///                 μ = di + what the neuron gives for its drive,  dx = μ,  di ← α μ,  dα = μ i
///
///   AlphaUnit     E ← α E + x,  I ← β I - x,  h = τ (E + I),  s = H(h - θ)
///                 all three are 0 where H(h - θ) held before, a constant on the way back
///                 δ = dh + φ ds,  dE ← α (dE + τ δ),  dI ← β (dI + τ δ),  dx = dE - dI before α, β

#include <limen/kernel/fire.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

/// Which current drives the membrane.
enum class Current {
  fresh,    ///< that of this step
  previous  ///< that of the step before: the membrane answers one step later
};

template <bool LearnsDecay, bool LearnsGain, class RealT, class Decay, class Gain>
struct LeakyUnit {
  using Real = RealT;
  using V = simd::Vec<Real>;
  static constexpr int states = 1, keeps = LearnsDecay, sums = LearnsDecay + LearnsGain;
  static constexpr bool wants_x = LearnsGain;
  static constexpr std::size_t of_gain = LearnsDecay;

  Decay a;
  Gain g;

  template <class At>
  LIMEN_INLINE V forward(const At& at, const V& x, std::array<V, 1>& state,
                         std::array<V, keeps>& keep) const {
    if constexpr (LearnsDecay) keep[0] = state[0];
    return state[0] = simd::fma(a(at), state[0], g(at) * x);
  }

  template <class At>
  LIMEN_INLINE V backward(const At& at, const V& dy, const V& x, const std::array<V, keeps>& kept,
                          std::array<V, 1>& d_state, std::array<V, sums>& d_sums) const {
    const V delta = dy + d_state[0];
    if constexpr (LearnsDecay) d_sums[0] += delta * kept[0];
    if constexpr (LearnsGain) d_sums[of_gain] += delta * x;
    d_state[0] = a(at) * delta;
    return g(at) * delta;
  }
};

template <class Neuron, Current Which, bool LearnsDecay, class Decay>
struct SynapseUnit {
  using Real = typename Neuron::Real;
  using V = simd::Vec<Real>;
  static constexpr bool fresh = Which == Current::fresh;
  static constexpr bool keeps_before = LearnsDecay || (Neuron::wants_x && !fresh),
                        keeps_now = Neuron::wants_x && fresh, wants_x = false;
  static constexpr int states = Neuron::states + 1,
                       keeps = Neuron::keeps + keeps_before + keeps_now,
                       sums = Neuron::sums + LearnsDecay;
  static constexpr std::size_t n_states = Neuron::states, n_keeps = Neuron::keeps,
                               n_sums = Neuron::sums;

  Neuron neuron;
  Decay alpha;

  template <class At>
  LIMEN_INLINE V forward(const At& at, const V& x, std::array<V, n_states + 1>& state,
                         std::array<V, keeps>& keep) const {
    std::array<V, n_states> inner;
    std::array<V, n_keeps> kept;
    for (std::size_t k = 0; k < n_states; ++k) inner[k] = state[k];
    const V before = state[n_states], now = simd::fma(alpha(at), before, x);
    const V s = neuron.forward(at, fresh ? now : before, inner, kept);
    for (std::size_t k = 0; k < n_states; ++k) state[k] = inner[k];
    for (std::size_t k = 0; k < n_keeps; ++k) keep[k] = kept[k];
    if constexpr (keeps_before) keep[n_keeps] = before;
    if constexpr (keeps_now) keep[n_keeps + keeps_before] = now;
    state[n_states] = now;
    return s;
  }

  template <class At>
  LIMEN_INLINE V backward(const At& at, const V& ds, const V&, const std::array<V, keeps>& kept,
                          std::array<V, n_states + 1>& d_state, std::array<V, sums>& d_sums) const {
    std::array<V, n_states> d;
    std::array<V, n_keeps> own;
    std::array<V, n_sums> own_sums;
    for (std::size_t k = 0; k < n_states; ++k) d[k] = d_state[k];
    for (std::size_t k = 0; k < n_keeps; ++k) own[k] = kept[k];
    for (std::size_t k = 0; k < n_sums; ++k) own_sums[k] = d_sums[k];
    V drive(Real(0));
    if constexpr (Neuron::wants_x) drive = kept[n_keeps + (fresh ? keeps_before : 0)];
    const V d_drive = neuron.backward(at, ds, drive, own, d, own_sums);
    for (std::size_t k = 0; k < n_states; ++k) d_state[k] = d[k];
    for (std::size_t k = 0; k < n_sums; ++k) d_sums[k] = own_sums[k];
    const V mu = fresh ? d_state[n_states] + d_drive : d_state[n_states];
    if constexpr (LearnsDecay) d_sums[n_sums] += mu * kept[n_keeps];
    d_state[n_states] = fresh ? alpha(at) * mu : simd::fma(alpha(at), mu, d_drive);
    return mu;
  }
};

template <SpikeTest Test, auto Phi, class RealT>
struct AlphaUnit {
  using Real = RealT;
  using V = simd::Vec<Real>;
  static constexpr auto phi = Phi;
  static constexpr int states = 3, keeps = 2, sums = 0;
  static constexpr bool wants_x = false;

  Real alpha, beta, tau, theta;

  template <class At>
  LIMEN_INLINE V forward(const At&, const V& x, std::array<V, 3>& state,
                         std::array<V, 2>& keep) const {
    const V zero(Real(0)), level(theta);
    const auto was_above = fires<Test>(state[0] - level);
    state[1] = simd::select(was_above, zero, simd::fma(V(alpha), state[1], x));
    state[2] = simd::select(was_above, zero, simd::fma(V(beta), state[2], -x));
    keep[1] = simd::select(was_above, zero, V(Real(1)));
    state[0] = keep[0] = V(tau) * (state[1] + state[2]);
    return spike<Test>(phi, state[0] - level);
  }

  template <class At>
  LIMEN_INLINE V backward(const At&, const V& ds, const V&, const std::array<V, 2>& kept,
                          std::array<V, 3>& d_state, std::array<V, 0>&) const {
    const V delta = simd::fma(phi.derivative(kept[0] - V(theta)), ds, d_state[0]);
    const V dE = kept[1] * simd::fma(V(tau), delta, d_state[1]);
    const V dI = kept[1] * simd::fma(V(tau), delta, d_state[2]);
    d_state[0] = V(Real(0));
    d_state[1] = V(alpha) * dE;
    d_state[2] = V(beta) * dI;
    return dE - dI;
  }
};

}  // namespace limen::inline LIMEN_ABI
