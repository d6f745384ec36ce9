#pragma once
/// @file  Izhikevich's neuron: two equations that burst, chatter, adapt and resonate.
///
///   if v >= 30:  s = 1,  v = c,  u = u + d     else s = 0        the peak the step before left
///   v = v + h (0.04 v² + 5 v + 140 - u + I),  h = dt / substeps,  substeps times, u held
///   u = u + dt a (b v - u)                                        with the new v
///
///   I [T x N] input, s [T x N] 0 or 1. State: v in mV and u. a, b, c, d [N], one set per neuron.
///   The start is v = -65, u = b v.
///
/// The number of sub-steps is part of the model: with others the same neuron fires at other times.
/// The defaults are those of the paper's program, steps of 1 ms, v in two halves. v overshoots its
/// peak within a step, by hundreds of mV; `membrane` shows it cut off at the peak, the state and u
/// see all of it. Sub-steps beyond two leave a neuron past its peak as it is, for v would overflow.
///
/// Spike times hang on rounding: float and double agree for a handful of spikes, then in rate only.
///
/// Forward only: the slope of v² along a spike is useless to learn by. Train what reads the spikes.
///
/// Izhikevich, "Simple Model of Spiking Neurons", IEEE Transactions on Neural Networks 14, 2003.

#include <new>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// The four numbers of a neuron, in the paper's letters.
struct IzhikevichNeuron {
  double a = 0.02;  ///< how fast u follows, per ms
  double b = 0.2;   ///< how much of v it follows
  double c = -65;   ///< mV, where a spike leaves v
  double d = 8;     ///< what a spike adds to u
};

/// The paper's figure 2.
namespace izhikevich {
inline constexpr IzhikevichNeuron regular_spiking{0.02, 0.2, -65, 8};
inline constexpr IzhikevichNeuron intrinsically_bursting{0.02, 0.2, -55, 4};
inline constexpr IzhikevichNeuron chattering{0.02, 0.2, -50, 2};
inline constexpr IzhikevichNeuron fast_spiking{0.1, 0.2, -65, 2};
inline constexpr IzhikevichNeuron low_threshold_spiking{0.02, 0.25, -65, 2};
inline constexpr IzhikevichNeuron thalamo_cortical{0.02, 0.25, -65, 0.05};
inline constexpr IzhikevichNeuron resonator{0.1, 0.26, -65, 2};
}  // namespace izhikevich

struct IzhikevichConfig {
  Index d = 0;                                            ///< N, neurons
  IzhikevichNeuron neuron = izhikevich::regular_spiking;  ///< what all of them start as
  double dt_ms = 1;                                       ///< of a step
  int substeps = 2;                                       ///< of v in a step
  double peak = 30;                                       ///< mV
  double start = -65;                                     ///< mV, v at rest
};

template <IzhikevichConfig C, class Real>
struct IzhikevichState {
  Fixed<Real, C.d> v = everywhere(C.start);               ///< mV
  Fixed<Real, C.d> u = everywhere(C.neuron.b * C.start);  ///< recovery

 private:
  static constexpr Fixed<Real, C.d> everywhere(double value) {
    Fixed<Real, C.d> all;
    for (Real& one : all.values) one = static_cast<Real>(value);
    return all;
  }
};

template <IzhikevichConfig C, class S = float>
struct Izhikevich {
  static constexpr bool finite(double x) { return x - x == 0; }
  static_assert(C.d > 0, "Izhikevich: .d must be positive");
  static_assert(C.dt_ms > 0 && finite(C.dt_ms), "Izhikevich: .dt_ms must be positive");
  static_assert(C.substeps > 0, "Izhikevich: .substeps must be at least 1");
  static_assert(finite(C.neuron.a) && finite(C.neuron.b) && finite(C.neuron.c) &&
                    finite(C.neuron.d) && finite(C.start),
                "Izhikevich: .neuron and .start must be finite");
  static_assert(C.peak > C.neuron.c, "Izhikevich: .peak must lie above .neuron.c");

  static constexpr IzhikevichConfig config = C;
  static constexpr Index N = C.d, in = N, out = N;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Izhikevich<C, T>;

  // ── What each neuron is ────────────────────────────────────────────────────────────────────────
  Tensor<Real, N> a, b, c, d;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("a", l.a...);
    f("b", l.b...);
    f("c", l.c...);
    f("d", l.d...);
  }

  static Izhikevich initialized(Random&) {
    Izhikevich layer;
    fill(layer.a, C.neuron.a);
    fill(layer.b, C.neuron.b);
    fill(layer.c, C.neuron.c);
    fill(layer.d, C.neuron.d);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = IzhikevichState<C, Real>;

  Sequence<Real, N> forward(SequenceView<Real, N> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, N> s(x.rows());
    Buffer<State> from_rest(batch.carries() ? 0 : 1);  // may be too large for the stack
    for (Index k = 0; k < batch.count(); ++k) {
      if (!batch.carries()) ::new (static_cast<void*>(from_rest.data())) State;
      State& state = batch.carries() ? batch[k] : from_rest[0];
      for (Index t = batch.begin(k); t < batch.end(k, x.rows()); ++t) {
        move_on(x.row(t).data(), state, s.row_data(t));
      }
    }
    return s;
  }

  Vector<Real, N> step(VectorView<Real, N> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, N> s;
    move_on(x.data(), state, s.data());
    return s;
  }

  /// v as a figure shows it, no higher than the peak.
  static Vector<Real, N> membrane(const State& state) noexcept {
    Vector<Real, N> v;
    const Real peak = static_cast<Real>(config.peak);
    for (Index n = 0; n < N; ++n) v[n] = state.v[n] > peak ? peak : state.v[n];
    return v;
  }

 private:
  void move_on(const Real* x, State& state, Real* s) const noexcept {
    using V = simd::Vec<Real>;
    const V one(Real(1)), none(Real(0)), peak(static_cast<Real>(config.peak));
    const V h(static_cast<Real>(config.dt_ms / C.substeps)), dt(static_cast<Real>(config.dt_ms));
    Real *v_at = state.v.data(), *u_at = state.u.data();
    simd::for_each<Real>(N, [&](Index n, auto load, auto store) {
      V v = load(v_at + n), u = load(u_at + n);
      const auto peaked = v >= peak;
      store(s + n, simd::select(peaked, one, none));
      v = simd::select(peaked, load(c.data() + n), v);
      u = u + simd::select(peaked, load(d.data() + n), none);
      const V drive = V(Real(140)) - u + load(x + n);
      for (int k = 0; k < C.substeps; ++k) {
        const V slope = simd::fma(simd::fma(V(Real(0.04)), v, V(Real(5))), v, drive);
        const V next = simd::fma(h, slope, v);
        v = C.substeps > 2 ? simd::select(v >= peak, v, next) : next;
      }
      u = simd::fma(dt * load(a.data() + n), simd::fma(load(b.data() + n), v, -u), u);
      store(v_at + n, v);
      store(u_at + n, u);
    });
  }
};

}  // namespace limen::inline LIMEN_ABI
