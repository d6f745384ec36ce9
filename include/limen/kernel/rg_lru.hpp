#pragma once
/// @file  The gates of a real-gated linear recurrent unit, and the way back through them.
///
///   r = σ(p_r),  i = σ(p_i),  log a = -8 r softplus(Λ),  m = √(1 - a²)
///   s_t = a_t ⊙ s_{t-1} + m_t ⊙ i_t ⊙ x_t          where a sequence starts: a = 0, m = 1
///
/// All [T x E], Λ [E]. 1 - a² is tanh(-log a)(1 + a²): exact where a is near 1.

#include <limen/kernel/affine_scan.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// r and i are in p [T x 2E], before their σ.
template <class Real>
struct RgLruRows {
  MatrixView<const Real> x;     ///< [T x E]
  MatrixView<const Real> p;     ///< [T x 2E]: p_r, then p_i
  const Real* rate;             ///< 8 softplus(Λ) [E]
  const unsigned char* starts;  ///< [T], not 0 where a sequence starts
};

namespace detail {

template <class V>
struct RgLruGates {
  V r, i, a, m;
};

template <class V>
LIMEN_INLINE RgLruGates<V> rg_lru_gates(const V& p_r, const V& p_i, const V& rate, bool start) {
  using Real = typename V::value_type;
  const V one(Real(1)), r = math::sigmoid(p_r), i = math::sigmoid(p_i);
  if (start) return {r, i, V(Real(0)), one};
  const V v = r * rate, a = math::exp(-v);
  return {r, i, a, simd::sqrt(math::tanh(v) * simd::fma(a, a, one))};
}

}  // namespace detail

/// s [T x E] from the states and to them.
template <class Real>
void rg_lru(const RgLruRows<Real>& in, MatrixView<Real> s,
            const std::type_identity_t<Batch<Real>>& states) {
  const Index E = s.cols;
  scan_affine(
      s, states, 8.0, [&, E](Index t, Index c, auto load, auto) __attribute__((always_inline)) {
        const auto g = detail::rg_lru_gates(load(in.p.row(t) + c), load(in.p.row(t) + E + c),
                                            load(in.rate + c), in.starts[t] != 0);
        return Affine<simd::Vec<Real>>{g.a, g.m * g.i * load(in.x.row(t) + c)};
      });
}

/// With λ_t = ds_t + a_{t+1} ⊙ λ_{t+1}:
///   dx = λ m i,  dp_i = λ m x i (1 - i),
///   dlog a = λ s_{t-1} a - λ i x a² / max(m, 1/2000)     (0 at a start)
///   dp_r = -rate dlog a r (1 - r),  d_rate += Σ_t -r dlog a
/// The bound on 1 / m is that of the authors' code: no infinite slope where a reaches 1.
template <class Real>
void rg_lru_backward(const RgLruRows<Real>& in, std::type_identity_t<MatrixView<const Real>> s,
                     const std::type_identity_t<Real>* before,
                     std::type_identity_t<MatrixView<const Real>> ds, MatrixView<Real> dx,
                     MatrixView<Real> dp, Real* d_rate,
                     const std::type_identity_t<Batch<Real>>& d_states) {
  using V = simd::Vec<Real>;
  const Index E = s.cols;
  const V one(Real(1)), zero(Real(0)), bound(Real(1) / 2000);
  scan_affine_back<Real>(
      s, before, ds, d_states, 16.0,
      [&, E](Index t, Index c, V lambda, V previous, auto load, auto store)
          __attribute__((always_inline)) {
            const bool start = in.starts[t] != 0;
            const V x = load(in.x.row(t) + c);
            const auto g = detail::rg_lru_gates(load(in.p.row(t) + c), load(in.p.row(t) + E + c),
                                                load(in.rate + c), start);
            store(dx.row(t) + c, lambda * g.m * g.i);
            store(dp.row(t) + E + c, lambda * g.m * x * g.i * (one - g.i));
            const V through_m = lambda * g.i * x * g.a * g.a / simd::max(bound, g.m);
            const V dlog_a = start ? zero : simd::fma(lambda * previous, g.a, -through_m);
            store(dp.row(t) + c, dlog_a);  // for now
            return g.a;
          });
  for (Index t = 0; t < s.rows; ++t) {
    simd::for_each<Real>(E, [&](Index c, auto load, auto store) {
      const V r = math::sigmoid(load(in.p.row(t) + c)), dlog_a = load(dp.row(t) + c);
      store(d_rate + c, simd::fnma(r, dlog_a, load(d_rate + c)));
      store(dp.row(t) + c, -load(in.rate + c) * dlog_a * r * (one - r));
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
