#pragma once
/// @file  What minGRU (min_gru.hpp) and minLSTM (min_lstm.hpp) have in common: all but their gates.
///
///   p_t = W x_t + b
///   h_t = a(p_t) ⊙ h_{t-1} + c(p_t),   y = h        a, c: Gates, in kernel/min_gates.hpp
///
///   x [T x I], h, y [T x E]; weight [P x I], its rows in groups of E: [hidden | gates].
///
/// The gates do not see the state, so all of them are one product over all rows, and what is left
/// of time is one multiply-add per channel: training runs at the speed of a feed-forward layer.
///
/// Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, Were RNNs all we needed?, arXiv:2410.01201. Its
/// log-space form computes the same numbers and is not needed here: a and c are bounded, so the
/// plain scan is exact to rounding, for every sign of h.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/min_gates.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct MinRecurrentConfig {
  Index d_in = 0;                             ///< I
  Index d_hidden = 0;                         ///< E
  Candidate candidate = Candidate::positive;  ///< what becomes of the group `hidden`
  bool bias = false;                          ///< add b to all pre-activations
};

template <class Real, Index E>
struct MinRecurrentState {
  Fixed<Real, E> h;  ///< what the unit remembers
};

template <class Gates, MinRecurrentConfig C, class S = float>
struct MinRecurrent {
  static_assert(C.d_in > 0, "MinGru, MinLstm: .d_in must be positive");
  static_assert(C.d_hidden > 0, "MinGru, MinLstm: .d_hidden must be positive");

  static constexpr MinRecurrentConfig config = C;
  static constexpr Index I = C.d_in, E = C.d_hidden, P = Gates::groups * E, in = I, out = E;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = MinRecurrent<Gates, C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, P, I> weight;                  ///< W
  Optional<C.bias, Tensor<Real, P>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static MinRecurrent initialized(Random& random) {
    MinRecurrent layer;
    fill_fan_in(layer.weight, random);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{I}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * P * I; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = MinRecurrentState<Real, E>;

  /// x [T x I] -> h [T x E]
  Sequence<Real, E> forward(SequenceView<Real, I> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return scan(linear(x, weight, data_or_null(bias)), batch);
  }

  /// x [I] -> h [E].  Allocates nothing.
  Vector<Real, E> step(VectorView<Real, I> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto p = linear(x, weight, data_or_null(bias));
    Vector<Real, E> h;
    scan_gates<Gates, C.candidate, Real>(p.matrix(), h.matrix(), state.h[0]);
    return h;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, I> x;  ///< [T x I]
    Sequence<Real, P> p;  ///< [T x P], pre-activations
    Sequence<Real, E> h;  ///< [T x E]
    Buffer<Real> before;  ///< [B x E], the first states; empty if all started from rest
  };

  Sequence<Real, E> forward(Sequence<Real, I> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.before = first_states(states(batch), E);
    cache.p = linear(x, weight, data_or_null(bias));
    cache.h = scan(cache.p, batch);
    cache.x = std::move(x);
    return cache.h;
  }

  /// With λ_t = dy_t + a_{t+1} ⊙ λ_{t+1}, the gradient that arrives at h_t, and dp_t from it as the
  /// gates have it:  dW = dpᵀ x,  db = Σ_t dp_t,  dx = dp W
  Sequence<Real, I> backward(SequenceView<Real, E> dy, Batch<State> batch, const Cache& cache,
                             MinRecurrent& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const Index kept = cache.before.size() / E;
    if (kept > 0 && !fits_cache(batch.count(), kept, "sequences of the batch")) return {};
    const FlushDenormals guard;
    Sequence<Real, P> dp(dy.rows());
    scan_gates_backward<Gates, C.candidate, Real>(cache.p.matrix(), cache.h.matrix(),
                                                  cache.before.data(), dy.matrix(), dp.matrix(),
                                                  states(batch));
    add_linear_weight_gradient<Real, P, I>(dp, cache.x, gradient.weight);
    if constexpr (C.bias) add_bias_gradient<Real, P>(dp, gradient.bias);
    return linear_input_gradient<Real, P, I>(dp, weight);
  }

 private:
  static Batch<Real> states(const Batch<State>& batch) {
    return batch.part([](State& s) -> Real& { return s.h[0]; });
  }

  static Sequence<Real, E> scan(const Sequence<Real, P>& p, const Batch<State>& batch) {
    Sequence<Real, E> h(p.rows());
    scan_gates<Gates, C.candidate, Real>(p.matrix(), h.matrix(), states(batch));
    return h;
  }
};

}  // namespace limen::inline LIMEN_ABI
