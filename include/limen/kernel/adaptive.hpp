#pragma once
/// @file  One step of neurons whose threshold rises when they fire, forward and back (units of
/// kernel/neurons.hpp). A = θ + β b is the threshold.
///
///   next   b ← ρ b + s,  v ← a v + g x - θ s,  s ← H(v - A)           s: of the step before
///          cs = ds + d(s),  δ = dv + φ cs,  ε = db - β φ cs
///          d(s) ← ε - θ δ       detached: ε        the spike still raises the threshold
///
///   now    b' = ρ b,  h = a v + g x,  s = H(h - θ - β b'),  b ← b' + s
///          v ← h - θ s,  or c where s, else h
///          cs = ds + db - θ dv,  or ds + db + (c - h) dv      detached: ds + db
///          δ = dv + φ cs,  or (1 - s) dv + φ cs,  ε = db - β φ cs
///
///   dx = g δ,  dv ← a δ,  db ← ρ ε,  da = δ v,  dρ = ε b,  dβ = -φ cs b',  dθ = -φ cs - δ s

#include <limen/kernel/fire.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

struct AlifRules {
  SpikeTest test = SpikeTest::ge;
  Reset reset = Reset::subtract;
  When when = When::next;
  bool detach_reset = false;
  bool learns = false;  ///< sums da, dρ, dβ, dθ
};

template <AlifRules R, auto Phi, class RealT, class Number>
struct AlifUnit {
  using Real = RealT;
  using V = simd::Vec<Real>;
  static constexpr auto phi = Phi;
  static constexpr bool next = R.when == When::next, to_value = R.reset == Reset::to_value;
  static constexpr int states = next ? 3 : 2;
  /// u, then h (now, to_value), then v, b, s (next) as they were.
  static constexpr bool keeps_h = !next && to_value;
  static constexpr int keeps = 1 + keeps_h + (R.learns ? (next ? 3 : 2) : 0);
  static constexpr std::size_t before = 1 + keeps_h;
  static constexpr int sums = R.learns ? 4 : 0;
  static constexpr bool wants_x = false;

  Number a, rho, beta, theta;
  Real g, to;

  template <class At>
  LIMEN_INLINE V forward(const At& at, const V& x, std::array<V, states>& state,
                         std::array<V, keeps>& keep) const {
    const V level = theta(at);
    if constexpr (R.learns) {
      for (std::size_t k = 0; k < state.size(); ++k) keep[before + k] = state[k];
    }
    V h = simd::fma(a(at), state[0], V(g) * x), b = rho(at) * state[1];
    if constexpr (next) {
      h = simd::fnma(level, state[2], h);
      b = b + state[2];
    }
    const V u = simd::fnma(beta(at), b, h - level), s = spike<R.test>(phi, u);
    keep[0] = u;
    state[0] = h;
    state[1] = b;
    if constexpr (next) {
      state[2] = s;
    } else {
      state[1] = b + s;
      if constexpr (to_value) {
        keep[1] = h;
        state[0] = is_soft<decltype(Phi)> ? simd::fma(s, V(to) - h, h)
                                          : simd::select(fires<R.test>(u), V(to), h);
      } else {
        state[0] = simd::fnma(level, s, h);
      }
    }
    return s;
  }

  template <class At>
  LIMEN_INLINE V backward(const At& at, const V& ds, const V&, const std::array<V, keeps>& kept,
                          std::array<V, states>& d, std::array<V, sums>& d_sums) const {
    const V level = theta(at), u = kept[0], slope = phi.derivative(u);
    V cs = ds, through = d[0], d_level(Real(0));
    if constexpr (next) {
      cs = cs + d[2];
    } else {
      const V s = spike<R.test>(phi, u);
      cs = cs + d[1];
      if constexpr (to_value) {
        if constexpr (!R.detach_reset) cs = simd::fma(V(to) - kept[1], d[0], cs);
        through = simd::fnma(s, d[0], d[0]);
      } else {
        if constexpr (!R.detach_reset) cs = simd::fnma(level, d[0], cs);
        d_level = -(s * d[0]);
      }
    }
    const V fired = slope * cs, delta = through + fired,
            epsilon = simd::fnma(beta(at), fired, d[1]);
    if constexpr (R.learns) {
      V b = rho(at) * kept[before + 1];
      if constexpr (next) {
        b = b + kept[before + 2];
        d_level = -(delta * kept[before + 2]);
      }
      d_sums[0] += delta * kept[before];
      d_sums[1] += epsilon * kept[before + 1];
      d_sums[2] += -(fired * b);
      d_sums[3] += d_level - fired;
    }
    d[0] = a(at) * delta;
    d[1] = rho(at) * epsilon;
    if constexpr (next) d[2] = R.detach_reset ? epsilon : simd::fnma(level, delta, epsilon);
    return V(g) * delta;
  }
};

}  // namespace limen::inline LIMEN_ABI
