#pragma once
/// @file  One step of neurons whose membrane drives itself, forward and back (units of
/// kernel/neurons.hpp). Membranes are counted from rest.
///
///   h = v + k (f(v) + R x - w)          exponential:  f = -v + Δ e^z,  z = (v - θ_r) / Δ
///   s = H(h - θ)                        quadratic:    f = q v (v - v_c)
///   v ← h - θ s,  or c where s, else h
///   w ← w + m (p v - w) + j s           with the v before the step; adaptive neurons only
///
///   cs = ds + j dw - θ dv,  or ds + j dw + (c - h) dv         detached: ds + j dw
///   δ = dv + φ cs,  or (1 - s) dv + φ cs,  dx = k R δ
///   dv ← (1 + k f'(v)) δ + m p dw,  dw ← (1 - m) dw - k δ     f' = -1 + e^z, q (2 v - v_c)
///
/// z stops at a limit: above it f goes on as a constant and f' is -1, in value and in gradient, so
/// that no input makes inf, and no inf makes NaN.

#include <limen/kernel/fire.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

struct NonlinearFireRules {
  bool quadratic = false;
  bool adapts = false;  ///< has w
  SpikeTest test = SpikeTest::ge;
  Reset reset = Reset::to_value;
  bool detach_reset = false;
};

template <NonlinearFireRules R, auto Phi, class RealT>
struct NonlinearFireUnit {
  using Real = RealT;
  using V = simd::Vec<Real>;
  static constexpr auto phi = Phi;
  static constexpr bool to_value = R.reset == Reset::to_value;
  static constexpr int states = R.adapts ? 2 : 1, keeps = 2, sums = 0;
  static constexpr bool wants_x = false;

  Real k, gain, theta, to;         ///< k, R, θ, c
  Real sharpness, rheobase, most;  ///< Δ, θ_r, the limit of z
  Real curvature, critical;        ///< q, v_c
  Real m, pull, jump;              ///< m, p, j

  /// e^z where z is below its limit, else 0: what its slope is made of.
  LIMEN_INLINE V rise(const V& v, bool value) const {
    const V z = (v - V(rheobase)) / V(sharpness), limit(most);
    const V e = math::exp(simd::min(z, limit));
    return value ? e : simd::select(z < limit, e, V(Real(0)));
  }

  template <class At>
  LIMEN_INLINE V forward(const At&, const V& x, std::array<V, states>& state,
                         std::array<V, 2>& keep) const {
    const V v = state[0];
    V drive = V(gain) * x;
    if constexpr (R.quadratic) {
      drive = simd::fma(V(curvature) * v, v - V(critical), drive);
    } else {
      drive = simd::fma(V(sharpness), rise(v, true), drive - v);
    }
    if constexpr (R.adapts) drive = drive - state[1];
    const V h = simd::fma(V(k), drive, v), u = h - V(theta), s = spike<R.test>(phi, u);
    keep[0] = h;
    keep[1] = v;
    if constexpr (R.adapts) {
      const V w = simd::fma(V(m), simd::fma(V(pull), v, -state[1]), state[1]);
      state[1] = simd::fma(V(jump), s, w);
    }
    if constexpr (!to_value) {
      state[0] = simd::fnma(V(theta), s, h);
    } else if constexpr (is_soft<decltype(Phi)>) {
      state[0] = simd::fma(s, V(to) - h, h);
    } else {
      state[0] = simd::select(fires<R.test>(u), V(to), h);
    }
    return s;
  }

  template <class At>
  LIMEN_INLINE V backward(const At&, const V& ds, const V&, const std::array<V, 2>& kept,
                          std::array<V, states>& d, std::array<V, 0>&) const {
    const V h = kept[0], v = kept[1], u = h - V(theta), lambda = d[0];
    V cs = ds, through = lambda;
    if constexpr (R.adapts) cs = simd::fma(V(jump), d[1], cs);
    if constexpr (to_value) {
      through = simd::fnma(spike<R.test>(phi, u), lambda, lambda);
      if constexpr (!R.detach_reset) cs = simd::fma(V(to) - h, lambda, cs);
    } else {
      if constexpr (!R.detach_reset) cs = simd::fnma(V(theta), lambda, cs);
    }
    const V delta = simd::fma(phi.derivative(u), cs, through);
    V slope = V(Real(0));
    if constexpr (R.quadratic) {
      slope = V(curvature) * (v + v - V(critical));
    } else {
      slope = rise(v, false) - V(Real(1));
    }
    d[0] = simd::fma(V(k) * slope, delta, delta);
    if constexpr (R.adapts) {
      const V mu = d[1];
      d[0] = simd::fma(V(m) * V(pull), mu, d[0]);
      d[1] = simd::fnma(V(k), delta, simd::fnma(V(m), mu, mu));
    }
    return V(k) * V(gain) * delta;
  }
};

}  // namespace limen::inline LIMEN_ABI
