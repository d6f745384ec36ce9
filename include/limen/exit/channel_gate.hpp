#pragma once
/// @file  Which channels of a layer an input needs: a gate g [T x O] from its input x [T x P I].
///
///   s = mean_p |x_p|                       saliency of each input channel, [I]
///   e = W s + b                            W [O x I], b [O]
///
///   kind               g                                                 way back
///   top                relu(e) of the ceil(δ O) largest, else 0          through what is kept
///   straight_through   1[e > 0]                                          dL/de := dL/dg σ'(e)
///   gumbel             1[ẽ > 0], ẽ = e + log u - log(1 - u)              dL/dg σ'(ẽ / τ) / τ
///   hard_concrete      clip(1.2 s - 0.1, 0, 1), s = σ(ẽ / τ)             through s where g moves
///   filter             1[e > 0], e = W softmax(mean_p x_p) + b           filter_selection.hpp
///
/// Of equals the lower channel is kept. u is drawn in (0, 1) from the run's generator; without one,
/// and in inference, ẽ = e, and s = σ(e). `.soft` is the twin of straight_through and gumbel that
/// has the same way back and is a function with that slope: g = σ(e), σ(ẽ / τ).
///
/// `.price` is what channels cost: backward adds the slope of price · mean_t Σ_o r(e_to), with
///
///   r = relu(e) for top,  σ(e) for straight_through and gumbel,  σ(e - τ log(0.1 / 1.1)) for
///   hard_concrete: the last three are the chance that the channel is open
///
/// Gao et al., "Dynamic channel pruning: feature boosting and suppression", arXiv:1810.05331 (price
/// 1e-8); Bengio et al., arXiv:1308.3432; Jang et al., arXiv:1611.01144; Louizos et al., "Learning
/// sparse neural networks through L0 regularization", arXiv:1712.01312; Elkerdawy et al.,
/// arXiv:2110.08232.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

enum class GateKind { filter, top, straight_through, gumbel, hard_concrete };

struct ChannelGateConfig {
  Index d_in = 0;                    ///< I, channels
  Index d_out = 0;                   ///< O
  Index positions = 1;               ///< P, of the input
  GateKind kind = GateKind::filter;  ///< how it decides
  double density = 0.5;              ///< δ of `top`, in (0, 1]
  double tau = 2.0 / 3;              ///< τ of `gumbel` and `hard_concrete`
  bool soft = false;                 ///< the twin without a decision
  double price = 0;                  ///< of what is open, in the mean of rows; not for `filter`
  double bias = 1;                   ///< b at the start: above 0, else nothing would be open
};

template <ChannelGateConfig C, class S = float>
struct ChannelGate {
  static_assert(C.d_in > 0 && C.d_out > 0 && C.positions > 0,
                "ChannelGate: sizes must be positive");
  static_assert(C.density > 0 && C.density <= 1, "ChannelGate: .density must be in (0, 1]");
  static_assert(C.tau > 0, "ChannelGate: .tau must be positive");
  static_assert(!C.soft || C.kind == GateKind::straight_through || C.kind == GateKind::gumbel,
                "ChannelGate: only straight_through and gumbel have a .soft twin");
  static_assert(C.price >= 0 && (C.price == 0 || C.kind != GateKind::filter),
                "ChannelGate: .price must be 0 or more, and `filter` has none");

  static constexpr ChannelGateConfig config = C;
  static constexpr Index I = C.d_in, O = C.d_out, P = C.positions, in = P * I, out = O;
  /// Channels that `top` keeps:  ceil(δ O)
  static constexpr Index kept = [] {
    const double share = config.density * static_cast<double>(O);
    const auto whole = static_cast<Index>(share);
    return static_cast<double>(whole) < share ? whole + 1 : whole;
  }();
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = ChannelGate<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, O, I> weight;  ///< W
  Tensor<Real, O> bias;    ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static ChannelGate initialized(Random& random) {
    ChannelGate gate;
    fill_fan_in(gate.weight, random);
    fill(gate.bias, config.bias);
    return gate;
  }

  static constexpr Index macs(Index rows) { return rows * I * O; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, O> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, O> g(x.rows());
    for (Index t = 0; t < x.rows(); ++t) one(x.row(t), g.row_data(t));
    return g;
  }
  Vector<Real, O> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, O> g;
    one(x, g.data());
    return g;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;    ///< [T x P I]
    Sequence<Real, I> u;     ///< [T x I], what W sees
    Sequence<Real, O> e;     ///< [T x O], with its noise; of hard_concrete what σ takes
    Sequence<Real, O> pull;  ///< [T x O], slope of the price
    double cost = 0;         ///< mean Σ r(e)
    bool noisy = false;

    double loss() const { return config.price * cost; }
  };

  Sequence<Real, O> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    cache.u = Sequence<Real, I>(x.rows());
    cache.e = Sequence<Real, O>(x.rows());
    Sequence<Real, O> g(x.rows());
    cache.pull = Sequence<Real, O>(config.price > 0 ? x.rows() : 0);
    cache.cost = 0;
    cache.noisy = draws && batch.context != nullptr && batch.context->random != nullptr;
    Random random = cache.noisy ? batch.context->random->split() : Random();
    for (Index t = 0; t < x.rows(); ++t) {
      features(x.row(t).data(), cache.u.row_data(t));
      Real* const e = cache.e.row_data(t);
      logits(cache.u.row(t), e);
      if constexpr (config.price > 0) cache.cost += cost(e, x.rows(), cache.pull.row_data(t));
      for (Index o = 0; cache.noisy && o < O; ++o) {
        const double u = std::fma(random.uniform(), 1 - 0x1p-53, 0x1p-54);  // never 0 or 1
        e[o] += static_cast<Real>(std::log(u) - std::log1p(-u));
        if constexpr (C.kind == GateKind::hard_concrete) e[o] /= temperature;
      }
      decide(e, g.row_data(t));
    }
    cache.x = std::move(x);
    return g;
  }

  /// de as above,  dW = deᵀ u,  db = Σ de,  ds = de W,  dx_p = ds sign(x_p) / P
  Sequence<Real, in> backward(SequenceView<Real, O> dg, Batch<State>, const Cache& cache,
                              ChannelGate& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dg.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    auto dx = Sequence<Real, in>::zeros(dg.rows());
    if constexpr (C.kind != GateKind::filter) {
      auto de = dg.copy();
      for (Index t = 0; t < de.rows(); ++t) {
        slope(cache.e.row(t).data(), cache.noisy, de.row_data(t));
      }
      if constexpr (config.price > 0)
        add_rows<Real>(std::as_const(cache.pull).matrix(), de.matrix());
      add_linear_weight_gradient<Real, O, I>(de, cache.u, gradient.weight);
      add_bias_gradient<Real, O>(de, gradient.bias);
      const auto ds = linear_input_gradient<Real, O, I>(de, weight);
      for (Index t = 0; t < dx.rows(); ++t) {
        for (Index n = 0; n < in; ++n) {
          const Real x = cache.x(t, n);
          dx(t, n) = ds(t, n % I) * Real((x > 0) - (x < 0)) / Real(P);
        }
      }
    }
    return dx;
  }

  /// What W sees of x [P I]: mean |x|, or softmax(mean x).
  static void features(const Real* x, Real* u) noexcept {
    using V = simd::Vec<Real>;
    constexpr bool magnitude = C.kind != GateKind::filter;
    for (Index i = 0; i < I; ++i) u[i] = 0;
    for (Index p = 0; p < P; ++p, x += I) {
      simd::for_each<Real>(I, [&](Index i, auto load, auto store) {
        const V v = load(x + i);
        store(u + i, load(u + i) + (magnitude ? simd::max(v, V(Real(0)) - v) : v));
      });
    }
    for (Index i = 0; i < I; ++i) u[i] /= Real(P);
    if constexpr (!magnitude) softmax<Real>(MatrixView<const Real>{u, 1, I, I}, {u, 1, I, I});
  }

  void logits(VectorView<Real, I> u, Real* e) const noexcept {
    product_nt<Real>(u.matrix(), detail::operand(weight), MatrixView<Real>{e, 1, O, O},
                     {.bias = bias.data()});
  }

 private:
  void one(VectorView<Real, in> x, Real* g) const noexcept {
    Vector<Real, I> u;
    features(x.data(), u.data());
    logits(u, g);
    decide(g, g);
  }

  static Real sigmoid(Real x) noexcept { return 1 / (1 + std::exp(-x)); }

  /// g from e; in place if asked.
  static void decide(const Real* e, Real* g) noexcept {
    if constexpr (C.kind == GateKind::top) {
      const auto least = threshold(e);
      for (Index o = 0, equal = least.equals; o < O; ++o) {
        const Real v = e[o];
        const bool keep = v > least.value || (v == least.value && equal-- > 0);
        g[o] = keep && v > 0 ? v : 0;
      }
    } else if constexpr (C.kind == GateKind::hard_concrete) {
      for (Index o = 0; o < O; ++o) {
        g[o] = std::clamp(Real(1.2) * sigmoid(e[o]) - Real(0.1), Real(0), Real(1));
      }
    } else if constexpr (C.soft) {
      for (Index o = 0; o < O; ++o) g[o] = sigmoid(e[o] / temperature);
    } else {
      for (Index o = 0; o < O; ++o) g[o] = e[o] > 0 ? 1 : 0;
    }
  }

  /// de from dg in place.
  static void slope(const Real* e, [[maybe_unused]] bool noisy, Real* d) noexcept {
    if constexpr (C.kind == GateKind::top) {
      Vector<Real, O> g;
      decide(e, g.data());
      for (Index o = 0; o < O; ++o) d[o] = g[o] > 0 ? d[o] : 0;
    } else if constexpr (C.kind == GateKind::hard_concrete) {
      const Real by = noisy ? Real(1.2) / temperature : Real(1.2);
      for (Index o = 0; o < O; ++o) {
        const Real s = sigmoid(e[o]), g = Real(1.2) * s - Real(0.1);
        d[o] *= g > 0 && g < 1 ? by * s * (1 - s) : 0;
      }
    } else {
      for (Index o = 0; o < O; ++o) {
        const Real s = sigmoid(e[o] / temperature);
        d[o] *= s * (1 - s) / temperature;
      }
    }
  }

  /// Σ r(e) / T; its slope times the price to `pull`.
  static double cost(const Real* e, Index rows, Real* pull) noexcept {
    const double T = static_cast<double>(rows);
    const double shift = C.kind == GateKind::hard_concrete ? config.tau * std::log(0.1 / 1.1) : 0;
    double sum = 0;
    for (Index o = 0; o < O; ++o) {
      const double a = static_cast<double>(e[o]), s = 1 / (1 + std::exp(shift - a));
      const bool top = C.kind == GateKind::top;
      sum += (top ? std::max(a, 0.0) : s) / T;
      pull[o] = static_cast<Real>(config.price / T * (top ? (a > 0 ? 1 : 0) : s * (1 - s)));
    }
    return sum;
  }

  static constexpr bool draws = C.kind == GateKind::gumbel || C.kind == GateKind::hard_concrete;
  static constexpr Real temperature = draws ? static_cast<Real>(config.tau) : Real(1);

  struct Least {
    Real value;    ///< the smallest that is kept
    Index equals;  ///< how many of that value are
  };
  static Least threshold(const Real* e) noexcept {
    Vector<Real, O> sorted;
    std::copy_n(e, O, sorted.data());
    std::nth_element(sorted.data(), sorted.data() + kept - 1, sorted.data() + O,
                     [](Real a, Real b) { return a > b; });
    const Real least = sorted[kept - 1];
    Index above = 0;
    for (Index o = 0; o < O; ++o) above += e[o] > least ? 1 : 0;
    return {least, kept - above};
  }
};

}  // namespace limen::inline LIMEN_ABI
