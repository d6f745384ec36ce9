#pragma once
/// @file  Delays that are learned: a causal convolution whose taps have positions.
///
///   m = P + ⌊K/2⌋,  k_n = X_n / (Σ_j X_j + 1e-7),  W[n] = Σ_taps w k_n        n = 0..K-1
///
///     gaussian   X_n = exp(-((n - m)/σ)² / 2)     σ = |s| + 0.27
///     linear     X_n = max(0, 1 - |n - m|)        between the two nearest taps
///     triangle   X_n = max(0, σ - |n - m|)        σ = |s| + 1
///
///   y_t = b + Σ_n W[n] x_{t - (K-1-n)}        w, P, s [O, I, taps], x [T x I], y [T x O]
///
/// Tap n is a delay of K - 1 - n: the larger P, the shorter. Wide kernels find where to go, narrow
/// ones are delays; `DclsWidth` leads from one to the other, `clamp_positions` after each step of
/// the optimizer keeps P in the kernel, and at the end `synapses_of` rounds: that network, a
/// DelayLines, is the one to measure.
///
/// Hammouamri, Khalfaoui-Hassani & Masquelier, Learning delays in spiking neural networks using
/// dilated convolutions with learnable spacings, ICLR 2024, arXiv:2306.17670; package `dcls`.

#include <cmath>
#include <string>
#include <vector>

#include <limen/core/prepared.hpp>
#include <limen/kernel/math.hpp>
#include <limen/nn/causal_conv.hpp>
#include <limen/spiking/delay_lines.hpp>

namespace limen::inline LIMEN_ABI {

enum class DclsKernel { gaussian, linear, triangle };

struct DclsConfig {
  Index d_in = 0;    ///< I
  Index d_out = 0;   ///< O
  Index width = 25;  ///< K, odd: the longest delay is K - 1
  Index taps = 1;    ///< of each pair
  DclsKernel kernel = DclsKernel::gaussian;
  double spread = 0.23;       ///< s at the start
  bool learn_spread = false;  ///< one s for each tap, learned; else one for all, set by a schedule
  bool bias = true;           ///< add b
};

/// s over a training: geometrically from one width to the other in the first part, then constant.
struct DclsWidth {
  double from = 12.5, to = 0.23;
  double share = 0.25;  ///< of the training
  /// progress from 0 to 1
  double at(double progress) const {
    const double p = progress < 0 ? 0 : progress > share ? share : progress;
    return share > 0 ? from * std::pow(to / from, p / share) : to;
  }
};

template <DclsConfig C, class S = float>
struct Dcls {
  static_assert(C.d_in > 0, "Dcls: .d_in must be positive");
  static_assert(C.d_out > 0, "Dcls: .d_out must be positive");
  static_assert(C.width > 1 && C.width % 2 == 1, "Dcls: .width must be odd, 3 or more");
  static_assert(C.taps > 0, "Dcls: .taps must be positive");
  static_assert(C.spread - C.spread == 0, "Dcls: .spread must be finite");
  static_assert(!C.learn_spread || C.kernel != DclsKernel::linear,
                "Dcls: the linear kernel has no spread to learn");

  static constexpr DclsConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out, K = C.width, half = K / 2;
  static constexpr CausalConv1dConfig as_conv{.d_in = in, .d_out = out, .width = K, .bias = C.bias};
  using Scalar = S;
  using Real = S;
  using Conv = CausalConv1d<as_conv, Real>;
  template <class T>
  using with_scalar = Dcls<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, out, in, C.taps> weight;    ///< w
  Tensor<Real, out, in, C.taps> position;  ///< P, from -⌊K/2⌋ to ⌊K/2⌋
  std::conditional_t<C.learn_spread, Tensor<Real, out, in, C.taps>, Statistic<Real, 1>>
      spread;                                ///< s
  Optional<C.bias, Tensor<Real, out>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("position", l.position...);
    f("spread", l.spread...);
    f("bias", l.bias...);
  }

  static Dcls initialized(Random& random) {
    Dcls layer;
    fill_fan_in(layer.weight, random);
    fill_uniform(layer.position, static_cast<double>(half), random);
    for (Real& s : layer.spread.flat()) s = static_cast<Real>(config.spread);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{in}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * in * out * K; }

  /// The convolution that it is now.
  Conv conv() const {
    Conv c;
    if constexpr (C.bias) c.bias = bias;
    for (Index k = 0; k < in * out; ++k) build(k, c.weight.data() + k * K);
    return c;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename Conv::State;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    return conv().forward(x, batch);
  }

  /// Builds every kernel again: `prepare` has built them once.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    const auto past = [&](Index n) {  // row n of the window
      if (n + 1 == K) return x.data();
      const Index row = static_cast<Index>(state.oldest) + n;
      return static_cast<const Real*>(state.past.data() + (row < K - 1 ? row : row - K + 1) * in);
    };
    for (Index o = 0; o < out; ++o) {
      Real sum = 0;
      if constexpr (C.bias) sum = bias[o];
      for (Index i = 0; i < in; ++i) {
        Real taps[K] = {};
        build(o * in + i, taps);
        for (Index n = 0; n < K; ++n) sum += taps[n] * past(n)[i];
      }
      y[o] = sum;
    }
    std::memcpy(state.past.data() + static_cast<Index>(state.oldest) * in, x.data(),
                sizeof(Real) * std::size_t{in});
    state.oldest = state.oldest + 1 == K - 1 ? 0 : state.oldest + 1;
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Conv conv;
    typename Conv::Cache of_conv;
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    const FlushDenormals guard;
    cache.conv = conv();
    return cache.conv.forward(std::move(x), batch, cache.of_conv);
  }

  /// With c = dW, X' slopes of X:  dw = Σ c_n k_n,  dX_n = w (c_n - Σ c_j k_j) / (Σ X + 1e-7),
  /// dP = Σ dX_n X'_n(m),  ds = sign(s) Σ dX_n X'_n(σ)
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Dcls& gradient) const {
    const FlushDenormals guard;
    Conv d;
    auto dx = cache.conv.backward(dy, batch, cache.of_conv, d);
    if (dx.rows() != dy.rows()) return dx;
    for (Index k = 0; k < in * out * C.taps; ++k) {
      const Real* c = d.weight.data() + k / C.taps * K;
      const Real s = spread_of(k), sigma = width_of(s), m = position[k] + Real(half);
      Real X[K], sum = little;
      shape(m, sigma, X);
      for (Index n = 0; n < K; ++n) sum += X[n];
      Real dw = 0;
      for (Index n = 0; n < K; ++n) dw += c[n] * X[n] / sum;
      gradient.weight[k] += dw;
      Real dm = 0, d_sigma = 0;
      for (Index n = 0; n < K; ++n) {
        const Real dX = weight[k] * (c[n] - dw) / sum, u = (Real(n) - m) / sigma;
        if constexpr (C.kernel == DclsKernel::gaussian) {
          dm += dX * X[n] * u / sigma;
          d_sigma += dX * X[n] * u * u / sigma;
        } else if (X[n] > Real(0)) {
          dm += u > Real(0) ? dX : u < Real(0) ? -dX : Real(0);
          d_sigma += dX;
        }
      }
      gradient.position[k] += dm;
      if constexpr (C.learn_spread) gradient.spread[k] += s < Real(0) ? -d_sigma : d_sigma;
    }
    if constexpr (C.bias) {
      for (Index o = 0; o < out; ++o) gradient.bias[o] += d.bias[o];
    }
    return dx;
  }

 private:
  static constexpr Real little = static_cast<Real>(1e-7);  // as published

  Real spread_of(Index k) const { return spread[C.learn_spread ? k : 0]; }
  static Real width_of(Real s) {
    return C.kernel == DclsKernel::linear
               ? Real(1)
               : std::abs(s) +
                     (C.kernel == DclsKernel::gaussian ? static_cast<Real>(0.27) : Real(1));
  }

  /// X_n
  static void shape(Real m, Real sigma, Real* X) noexcept {
    if constexpr (C.kernel == DclsKernel::gaussian) {
      for (Index n = 0; n < K; ++n) {
        const Real u = (Real(n) - m) / sigma;
        X[n] = u * u * Real(-0.5);
      }
      simd::transform(X, X, K, [](auto v) { return math::exp(v); });
    } else {
      for (Index n = 0; n < K; ++n) {
        const Real x = sigma - std::abs(Real(n) - m);
        X[n] = x > Real(0) ? x : Real(0);
      }
    }
  }

  /// Adds the taps of pair k to W [K].
  void build(Index pair, Real* W) const noexcept {
    Real X[K];
    for (Index k = pair * C.taps; k < (pair + 1) * C.taps; ++k) {
      Real sum = little;
      shape(position[k] + Real(half), width_of(spread_of(k)), X);
      for (Index n = 0; n < K; ++n) sum += X[n];
      for (Index n = 0; n < K; ++n) W[n] += weight[k] * X[n] / sum;
    }
  }
};

/// The inference form: the convolution that it is.
template <DclsConfig C, class R>
struct Dcls<C, Prepared<R>> {
  using From = Dcls<C, R>;
  static constexpr DclsConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out;
  using Scalar = R;
  using State = typename From::State;
  template <class T>
  using with_scalar = Dcls<C, T>;

  CausalConv1d<From::as_conv, Prepared<R>> conv;

  void prepare_from(const From& layer) { conv = limen::prepare(layer.conv()); }
  static constexpr Index macs(Index rows) { return From::macs(rows); }

  Sequence<R, out> forward(SequenceView<R, in> x, Batch<State> batch) const {
    return conv.forward(x, batch);
  }
  Vector<R, out> step(VectorView<R, in> x, State& state) const noexcept {
    return conv.step(x, state);
  }
};

/// P to the nearest place within the kernel; to be called after each step of the optimizer.
template <DclsConfig C, class Real>
void clamp_positions(Dcls<C, Real>& layer) {
  const Real most = Dcls<C, Real>::half;
  for (Real& p : layer.position.flat()) p = p > most ? most : p < -most ? -most : p;
}

/// Sets the s that all taps share.
template <DclsConfig C, class Real>
  requires(!C.learn_spread)
void set_spread(Dcls<C, Real>& layer, double s) {
  layer.spread[0] = static_cast<Real>(s);
}

/// Positions rounded to whole delays, half to even, and clamped to the kernel.
template <DclsConfig C, class Real>
std::vector<DelayedSynapse> synapses_of(const Dcls<C, Real>& layer) {
  constexpr Index half = C.width / 2;
  std::vector<DelayedSynapse> synapses;
  for (Index k = 0; k < layer.weight.size; ++k) {
    const double p = static_cast<double>(layer.position[k]);
    if (p - p != 0) {
      fail({"Dcls: position " + std::to_string(k), "a number", std::to_string(p)});
      return {};
    }
    const double most = static_cast<double>(half), in_kernel = p > most    ? most
                                                               : p < -most ? -most
                                                                           : p;
    const auto whole = static_cast<Index>(std::nearbyint(in_kernel));
    synapses.push_back({k / C.taps % C.d_in, k / (C.taps * C.d_in), half - whole,
                        static_cast<double>(layer.weight[k])});
  }
  return synapses;
}

}  // namespace limen::inline LIMEN_ABI
