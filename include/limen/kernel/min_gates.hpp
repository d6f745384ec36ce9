#pragma once
/// @file  The gates of minGRU and minLSTM for a vector of channels, and their derivatives.
///
///   hidden_of<G>(a)         g(a) = a + 1/2 where a >= 0, sigma(a) below; or a itself
///   MinGru   z = sigma(p_z)                             h = (1 - z) h + z g(p_h)
///   MinLstm  f = sigma(p_f) / (sigma(p_f) + sigma(p_i)), i = 1 - f        h = f h + i g(p_h)
///
/// p: pre-activations of one row, its groups of E channels side by side, [hidden | gates].

#include <limen/core/simd.hpp>
#include <limen/kernel/affine_scan.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// What becomes of the candidate state.
enum class Candidate {
  positive,  ///< g(a): never below zero, as the log-space form of the paper needs it
  plain      ///< a
};

namespace detail {

template <class V>
struct Slope {
  V value, slope;
};

template <Candidate G, class V>
LIMEN_INLINE V candidate(const V& a) {
  using Real = typename V::value_type;
  if constexpr (G == Candidate::plain) {
    return a;
  } else {
    return simd::select(a >= V(Real(0)), a + V(Real(0.5)), math::sigmoid(a));
  }
}

template <Candidate G, class V>
LIMEN_INLINE Slope<V> candidate_and_slope(const V& a) {
  using Real = typename V::value_type;
  const V one(Real(1));
  if constexpr (G == Candidate::plain) {
    return {a, one};
  } else {
    const V s = math::sigmoid(a);
    const auto above = a >= V(Real(0));
    return {simd::select(above, a + V(Real(0.5)), s), simd::select(above, one, s * (one - s))};
  }
}

/// f, i and sigma(-p_f), sigma(-p_i).
template <class V>
struct MinLstmGates {
  V f, i, not_f, not_i;
};

/// With u = e^-p: f = (1 + u_i) / (2 + u_i + u_f). Everything is scaled by e^-m, m = max(0, -p_f,
/// -p_i), so that nothing overflows and each term stays exact to its last bits, however far both
/// gates are closed.
template <class V>
LIMEN_INLINE MinLstmGates<V> min_lstm_gates(const V& p_f, const V& p_i) {
  using Real = typename V::value_type;
  const V m = simd::max(V(Real(0)), simd::max(-p_f, -p_i));
  const V one = math::exp(-m), u_f = math::exp(-p_f - m), u_i = math::exp(-p_i - m);
  const V from_f = one + u_f, from_i = one + u_i;
  const V scale = math::reciprocal(from_f + from_i);
  return {from_i * scale, from_f * scale, math::sigmoid(-p_f), math::sigmoid(-p_i)};
}

}  // namespace detail

/// The recurrence of minGRU: {a, b} of h = a h + b, and what λ means for p.
struct MinGruGates {
  static constexpr Index groups = 2;  ///< [hidden | z]
  static constexpr double vector_ns = 5, back_ns = 6;

  template <Candidate G, class Load>
  static LIMEN_INLINE auto coefficients(const auto* p, Index E, Load load) {
    using V = decltype(load(p));
    using Real = typename V::value_type;
    const V z = math::sigmoid(load(p + E));
    return Affine<V>{V(Real(1)) - z, z * detail::candidate<G>(load(p))};
  }

  /// dp_z = λ (h̃ - h_{t-1}) z (1 - z),  dp_h = λ z g'.  Returns a.
  template <Candidate G, class V, class Load, class Store>
  static LIMEN_INLINE V gradients(const auto* p, auto* dp, Index E, const V& lambda,
                                  const V& previous, Load load, Store store) {
    using Real = typename V::value_type;
    const V z = math::sigmoid(load(p + E)), a = V(Real(1)) - z;
    const auto c = detail::candidate_and_slope<G>(load(p));
    const V lz = lambda * z;
    store(dp, lz * c.slope);
    store(dp + E, lz * a * (c.value - previous));
    return a;
  }
};

/// The recurrence of minLSTM.
struct MinLstmGates {
  static constexpr Index groups = 3;  ///< [hidden | f | i]
  static constexpr double vector_ns = 8, back_ns = 12;

  template <Candidate G, class Load>
  static LIMEN_INLINE auto coefficients(const auto* p, Index E, Load load) {
    using V = decltype(load(p));
    const auto k = detail::min_lstm_gates<V>(load(p + E), load(p + 2 * E));
    return Affine<V>{k.f, k.i * detail::candidate<G>(load(p))};
  }

  /// df = λ (h_{t-1} - h̃),  dp_f = df f i sigma(-p_f),  dp_i = -df f i sigma(-p_i),
  /// dp_h = λ i g'.  Returns a.
  template <Candidate G, class V, class Load, class Store>
  static LIMEN_INLINE V gradients(const auto* p, auto* dp, Index E, const V& lambda,
                                  const V& previous, Load load, Store store) {
    const auto k = detail::min_lstm_gates<V>(load(p + E), load(p + 2 * E));
    const auto c = detail::candidate_and_slope<G>(load(p));
    const V li = lambda * k.i, d = li * k.f * (previous - c.value);
    store(dp, li * c.slope);
    store(dp + E, d * k.not_f);
    store(dp + 2 * E, -d * k.not_i);
    return k.f;
  }
};

/// h [T x E] from p [T x groups E], one pass.
template <class Gates, Candidate G, class Real>
void scan_gates(std::type_identity_t<MatrixView<const Real>> p, MatrixView<Real> h,
                const std::type_identity_t<Batch<Real>>& states) {
  const Index E = h.cols;
  scan_affine(h, states, Gates::vector_ns,
              [&](Index t, Index c, auto load, auto) __attribute__((always_inline)) {
                return Gates::template coefficients<G>(p.row(t) + c, E, load);
              });
}

/// dp [T x groups E] from dh [T x E], one pass.
template <class Gates, Candidate G, class Real>
void scan_gates_backward(std::type_identity_t<MatrixView<const Real>> p,
                         std::type_identity_t<MatrixView<const Real>> h, const Real* before,
                         std::type_identity_t<MatrixView<const Real>> dh, MatrixView<Real> dp,
                         const std::type_identity_t<Batch<Real>>& d_states) {
  using V = simd::Vec<Real>;
  const Index E = h.cols;
  scan_affine_back<Real>(h, before, dh, d_states, Gates::back_ns,
                         [&](Index t, Index c, const V& lambda, const V& previous, auto load,
                             auto store) __attribute__((always_inline)) {
                           return Gates::template gradients<G>(p.row(t) + c, dp.row(t) + c, E,
                                                               lambda, previous, load, store);
                         });
}

}  // namespace limen::inline LIMEN_ABI
