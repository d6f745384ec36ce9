#pragma once
/// @file  One step of leaky integrate-and-fire neurons, forward and back (for kernel/neurons.hpp).
///
///   now   h = a v + g x            next   r = H(v - θ), a constant on the way back
///         s = H(h - θ)                    h = a v + g x - r b      subtract
///         v ← h - s b   subtract          h = a (1 - r) v + g x    to_value, which is 0
///         v ← c where s, else h           s = H(h - θ),  v ← h
///
/// Membranes are counted from rest. With e = ds and λ what arrives at the new v:
///   now   cs = e - b λ               subtract        δ = λ + φ cs
///         cs = e + (c - h) λ         to_value        δ = (1 - s) λ + φ cs
///         cs = e                     detached
///   next  δ = λ + φ e,               dv = a k δ      k = 1 - r for to_value, else 1
///   dx = g δ,  dv = a δ,  da = δ v,  dg = δ x,  dθ = -φ cs,  db = -s λ (next: -r δ),  dc = s λ
/// where φ, the slope of a spike, is taken at h - θ.

#include <limen/kernel/fire.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

/// The choices that are made when the program is compiled.
struct LifRules {
  SpikeTest test = SpikeTest::ge;
  Reset reset = Reset::subtract;
  When when = When::now;
  bool detach_reset = false;      ///< no gradient through the spike of the reset
  bool clears_input = false;      ///< next, to_value: h = (1 - r) (a v + g x)
  bool by_threshold = true;       ///< subtract: b is θ, as a parameter too
  bool learns_decay = false;      ///< sums da
  bool learns_gain = false;       ///< sums dg
  bool learns_threshold = false;  ///< sums dθ
  bool learns_value = false;      ///< sums dc

  constexpr bool operator==(const LifRules&) const = default;
};

template <LifRules R, auto Phi, class RealT, class Decay, class Gain, class Threshold, class Value>
struct LifUnit {
  using Real = RealT;
  using V = simd::Vec<Real>;
  static constexpr auto phi = Phi;
  static constexpr bool soft = is_soft<decltype(Phi)>;
  static constexpr bool next = R.when == When::next && R.reset != Reset::none;
  static constexpr bool subtracts = R.reset == Reset::subtract;
  static constexpr bool to_value = R.reset == Reset::to_value;
  static constexpr bool keeps_v =
      R.learns_decay || (next && (to_value || (R.learns_threshold && R.by_threshold)));
  static constexpr int states = 1, keeps = keeps_v ? 2 : 1;
  static constexpr int sums = R.learns_decay + R.learns_gain + R.learns_threshold + R.learns_value;
  static constexpr bool wants_x = R.learns_gain;
  /// Where each sum lies.
  static constexpr std::size_t of_gain = R.learns_decay, of_threshold = of_gain + R.learns_gain,
                               of_value = of_threshold + R.learns_threshold;

  Decay a;          ///< a
  Gain g;           ///< g
  Threshold theta;  ///< θ, above rest
  Real by;          ///< b - θ where by_threshold (which is the rest), else b
  Value to;         ///< c, above rest

  template <class At>
  LIMEN_INLINE V amount(const At& at) const {
    if constexpr (R.by_threshold) {
      return theta(at) + V(by);
    } else {
      return V(by);
    }
  }

  template <class At>
  LIMEN_INLINE V forward(const At& at, const V& x, std::array<V, 1>& state,
                         std::array<V, keeps>& keep) const {
    const V v = state[0], level = theta(at);
    V h = simd::fma(a(at), v, g(at) * x);
    if constexpr (next) {
      const auto r = fires<R.test>(v - level);
      const V zero(Real(0));
      if constexpr (subtracts) {
        h = h - simd::select(r, amount(at), zero);
      } else if constexpr (R.clears_input) {
        h = simd::select(r, zero, h);
      } else {
        h = simd::select(r, g(at) * x, h);
      }
    }
    const V u = h - level, s = spike<R.test>(phi, u);
    keep[0] = h;
    if constexpr (keeps_v) keep[1] = v;
    state[0] = h;
    if constexpr (!next && subtracts) {
      state[0] = simd::fnma(amount(at), s, h);
    } else if constexpr (!next && to_value && soft) {
      state[0] = simd::fma(s, to(at) - h, h);
    } else if constexpr (!next && to_value) {
      state[0] = simd::select(fires<R.test>(u), to(at), h);
    }
    return s;
  }

  template <class At>
  LIMEN_INLINE V backward(const At& at, const V& ds, const V& x, const std::array<V, keeps>& kept,
                          std::array<V, 1>& d_state, std::array<V, sums>& d_sums) const {
    const V zero(Real(0)), one(Real(1)), lambda = d_state[0], h = kept[0], u = h - theta(at);
    const V slope = phi.derivative(u);
    V cs = ds, through = lambda, s = zero, dx_share = one;
    V d_theta = zero;
    if constexpr (!next && R.reset != Reset::none) {
      s = spike<R.test>(phi, u);
      if constexpr (subtracts) {
        if constexpr (!R.detach_reset) cs = simd::fnma(amount(at), lambda, ds);
        if constexpr (R.by_threshold) d_theta = -(s * lambda);
      } else {
        if constexpr (!R.detach_reset) cs = simd::fma(to(at) - h, lambda, ds);
        through = lambda - s * lambda;
        if constexpr (R.learns_value) d_sums[of_value] += s * lambda;
      }
    }
    const V delta = simd::fma(slope, cs, through), v = kept[keeps_v ? 1 : 0];
    V k = one;
    if constexpr (next && keeps_v) {
      const V r = simd::select(fires<R.test>(v - theta(at)), one, zero);
      if constexpr (to_value) k = one - r;
      if constexpr (subtracts && R.by_threshold) d_theta = -(r * delta);
      if constexpr (to_value && R.clears_input) dx_share = k;
    }
    if constexpr (R.learns_threshold) d_sums[of_threshold] += d_theta - slope * cs;
    if constexpr (R.learns_decay) d_sums[0] += delta * k * v;
    if constexpr (R.learns_gain) d_sums[of_gain] += delta * dx_share * x;
    d_state[0] = a(at) * k * delta;
    return g(at) * dx_share * delta;
  }
};

}  // namespace limen::inline LIMEN_ABI
