#pragma once
/// @file  One step of gated leaky neurons, forward and back (a unit of kernel/neurons.hpp). x has
/// been through its gate already; K = γ A.
///
///   v ← A v - L + x - (K v + R) s,  s ← H(v - θ)          on the right: v and s of the step before
///
///   cs = ds + d(s),  δ = dv + φ cs
///   dx = δ,  dv ← (A - K s) δ,  d(s) ← -(K v + R) δ
///   dA = δ v,  dL = -δ,  dK = -δ v s,  dR = -δ s,  dθ = -φ cs

#include <limen/kernel/fire.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

template <SpikeTest Test, auto Phi, class RealT>
struct GatedFireUnit {
  using Real = RealT;
  using V = simd::Vec<Real>;
  static constexpr auto phi = Phi;
  static constexpr int states = 2, keeps = 3, sums = 5;
  static constexpr bool wants_x = false;

  const Real *a, *l, *k, *r, *theta;  ///< A, L, K, R, θ

  template <class At>
  LIMEN_INLINE V forward(const At& at, const V& x, std::array<V, 2>& state,
                         std::array<V, 3>& keep) const {
    keep[1] = state[0];
    keep[2] = state[1];
    const V v = simd::fma(at(a), state[0], x - at(l));
    state[0] = keep[0] = simd::fnma(simd::fma(at(k), keep[1], at(r)), keep[2], v);
    return state[1] = spike<Test>(phi, state[0] - at(theta));
  }

  template <class At>
  LIMEN_INLINE V backward(const At& at, const V& ds, const V&, const std::array<V, 3>& kept,
                          std::array<V, 2>& d, std::array<V, 5>& d_sums) const {
    const V v = kept[1], s = kept[2];
    const V fired = phi.derivative(kept[0] - at(theta)) * (ds + d[1]), delta = d[0] + fired;
    d[0] = simd::fnma(at(k), s, at(a)) * delta;
    d[1] = -(simd::fma(at(k), v, at(r)) * delta);
    d_sums[0] += delta * v;
    d_sums[1] = d_sums[1] - delta;
    d_sums[2] = d_sums[2] - delta * v * s;
    d_sums[3] = d_sums[3] - delta * s;
    d_sums[4] = d_sums[4] - fired;
    return delta;
  }
};

}  // namespace limen::inline LIMEN_ABI
