#pragma once
/// @file  A refractory period for any neuron (a unit of kernel/neurons.hpp).
///
///   wait > 0   s = 0, the membrane (the first array of the state) stays as it was, wait ← wait - 1
///   else       the neuron's own step; where it fires, wait ← R
///
/// so exactly R silent steps follow a spike. What else the neuron has (currents, adaptation) goes
/// on. On the way back a silent step hands the gradient of the membrane on and drops that of the
/// spike.

#include <limen/core/tensor.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

template <class Neuron>
struct RefractoryUnit {
  using Real = typename Neuron::Real;
  using V = simd::Vec<Real>;
  static constexpr int states = Neuron::states + 1, keeps = Neuron::keeps + 1, sums = Neuron::sums;
  static constexpr bool wants_x = Neuron::wants_x;
  static constexpr std::size_t n_states = Neuron::states, n_keeps = Neuron::keeps;

  Neuron neuron;
  Real steps;  ///< R

  /// `wait` is a number like all states; 1/2 is between waiting and not.
  static LIMEN_INLINE auto waits(const V& wait) { return wait > V(Real(0.5)); }

  template <class At>
  LIMEN_INLINE V forward(const At& at, const V& x, std::array<V, n_states + 1>& state,
                         std::array<V, n_keeps + 1>& keep) const {
    std::array<V, n_states> inner;
    std::array<V, n_keeps> kept;
    for (std::size_t k = 0; k < n_states; ++k) inner[k] = state[k];
    const V fired = neuron.forward(at, x, inner, kept), wait = state[n_states], zero(Real(0));
    const auto silent = waits(wait);
    const V s = simd::select(silent, zero, fired);
    inner[0] = simd::select(silent, state[0], inner[0]);
    for (std::size_t k = 0; k < n_states; ++k) state[k] = inner[k];
    for (std::size_t k = 0; k < n_keeps; ++k) keep[k] = kept[k];
    state[n_states] =
        simd::select(silent, wait - V(Real(1)), simd::select(s > V(Real(0.5)), V(steps), zero));
    keep[n_keeps] = wait;
    return s;
  }

  template <class At>
  LIMEN_INLINE V backward(const At& at, const V& ds, const V& x,
                          const std::array<V, n_keeps + 1>& kept,
                          std::array<V, n_states + 1>& d_state, std::array<V, sums>& d_sums) const {
    std::array<V, n_states> d;
    std::array<V, n_keeps> own;
    for (std::size_t k = 0; k < n_keeps; ++k) own[k] = kept[k];
    for (std::size_t k = 0; k < n_states; ++k) d[k] = d_state[k];
    const V zero(Real(0)), membrane = d[0];
    const auto silent = waits(kept[n_keeps]);
    d[0] = simd::select(silent, zero, membrane);
    const V dx = neuron.backward(at, simd::select(silent, zero, ds), x, own, d, d_sums);
    d[0] = simd::select(silent, membrane, d[0]);
    for (std::size_t k = 0; k < n_states; ++k) d_state[k] = d[k];
    d_state[n_states] = simd::select(silent, d_state[n_states], zero);
    return dx;
  }
};

/// The state of a neuron, and how many steps it still waits.
template <class Neuron, class Real, Index D>
struct RefractoryState : Neuron {
  Fixed<Real, D> wait;

  auto arrays() {
    const auto own = Neuron::arrays();
    NeuronArrays<Real, static_cast<int>(own.size()) + 1> all;
    for (std::size_t k = 0; k < own.size(); ++k) all[k] = own[k];
    all[own.size()] = wait.data();
    return all;
  }
};

}  // namespace limen::inline LIMEN_ABI
