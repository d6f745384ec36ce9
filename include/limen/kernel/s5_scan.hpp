#pragma once
/// @file  The scan of one complex diagonal system with P states, and the way back.
///
///   h_t = a ⊙ h_{t-1} + k ⊙ v_t        v, h [T x 2P]: real parts, then imaginary ones; a, k [2P]
///
/// Lanes are states. `states` is the part of the batch that holds the first number of each state:
/// batch.part([](State& s) -> Real& { return s.h[0]; }).

#include <cstring>
#include <type_traits>

#include <limen/core/batch.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
struct S5System {
  Index P;
  const Real *a, *k;  ///< [2P]
};

/// From v to h, in place.
template <class Real>
void s5_scan(const S5System<Real>& s, MatrixView<Real> h,
             const std::type_identity_t<Batch<Real>>& states) noexcept {
  using V = simd::Vec<Real>;
  const Index P = s.P;
  for (Index b = 0; b < states.count(); ++b) {
    const Real* before = states.carries() ? &states[b] : nullptr;
    const Index last = states.end(b, h.rows);
    for (Index t = states.begin(b); t < last; before = h.row(t), ++t) {
      Real *re = h.row(t), *im = re + P;
      simd::for_each<Real>(P, [&](Index n, auto load, auto store) {
        const V a_re = load(s.a + n), a_im = load(s.a + P + n);
        const V k_re = load(s.k + n), k_im = load(s.k + P + n);
        const V v_re = load(re + n), v_im = load(im + n);
        V h_re = simd::fnma(k_im, v_im, k_re * v_re), h_im = simd::fma(k_im, v_re, k_re * v_im);
        if (before != nullptr) {
          const V past_re = load(before + n), past_im = load(before + P + n);
          h_re = simd::fnma(a_im, past_im, simd::fma(a_re, past_re, h_re));
          h_im = simd::fma(a_im, past_re, simd::fma(a_re, past_im, h_im));
        }
        store(re + n, h_re);
        store(im + n, h_im);
      });
    }
    if (states.carries() && last > states.begin(b)) {
      std::memcpy(&states[b], h.row(last - 1), sizeof(Real) * static_cast<std::size_t>(2 * P));
    }
  }
}

/// What forward left: v, the states after each row, the first ones [B x 2P] (null: all from rest).
template <class Real>
struct S5Kept {
  MatrixView<const Real> v, h;
  const Real* before;
};

/// With g the gradient of h without what comes from later rows, λ_t = g_t + ā ⊙ λ_{t+1}:
///   g ← k̄ ⊙ λ, in place;  da += Σ_t h̄_{t-1} ⊙ λ_t,  dk += Σ_t v̄_t ⊙ λ_t        (z̄: conjugate)
/// `d_states` come in as gradients of the last states and go out as those of the first.
template <class Real>
void s5_scan_backward(const S5System<Real>& s, const std::type_identity_t<S5Kept<Real>>& kept,
                      MatrixView<Real> g, const std::type_identity_t<Batch<Real>>& d_states,
                      Real* da, Real* dk) {
  using V = simd::Vec<Real>;
  const Index P = s.P;
  Buffer<Real> rest(d_states.carries() ? 0 : 2 * P);
  for (Index b = 0; b < d_states.count(); ++b) {
    for (Real& r : rest) r = 0;
    Real* const to = d_states.carries() ? &d_states[b] : rest.data();
    const Index first = d_states.begin(b);
    for (Index t = d_states.end(b, g.rows) - 1; t >= first; --t) {
      const Real* past = kept.before == nullptr ? nullptr : kept.before + b * 2 * P;
      if (t > first) past = kept.h.row(t - 1);
      const Real* v = kept.v.row(t);
      Real *re = g.row(t), *im = re + P;
      simd::for_each<Real>(P, [&](Index n, auto load, auto store) {
        const V a_re = load(s.a + n), a_im = load(s.a + P + n);
        const V k_re = load(s.k + n), k_im = load(s.k + P + n);
        const V l_re = load(re + n) + load(to + n), l_im = load(im + n) + load(to + P + n);
        const auto gather = [&](Real* sum, V z_re, V z_im) {
          store(sum + n, simd::fma(z_im, l_im, simd::fma(z_re, l_re, load(sum + n))));
          store(sum + P + n, simd::fnma(z_im, l_re, simd::fma(z_re, l_im, load(sum + P + n))));
        };
        if (past != nullptr) gather(da, load(past + n), load(past + P + n));
        gather(dk, load(v + n), load(v + P + n));
        store(to + n, simd::fma(a_im, l_im, a_re * l_re));
        store(to + P + n, simd::fnma(a_im, l_re, a_re * l_im));
        store(re + n, simd::fma(k_im, l_im, k_re * l_re));
        store(im + n, simd::fnma(k_im, l_re, k_re * l_im));
      });
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
