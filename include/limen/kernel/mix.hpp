#pragma once
/// @file  Mixtures of an inventory of low-rank adapters, a head at a time.
///
///   A [S x I x R], B [S x R x O]    S adapters; head q: rows of A, columns of B, a Qth of each
///
///   mix_adapters             Ā_q = Σ_s α_qs A_sq,  B̄_q = Σ_s α_qs B_sq       α [Q x S]
///   add_mix_gradient         dA_sq += α_qs dĀ_q,  dB_sq += α_qs dB̄_q
///   mix_dots                 dα_qs = ⟨dĀ_q, A_sq⟩ + ⟨dB̄_q, B_sq⟩
///   shares                   α_qs = σ_qs / N_q,  N_q = Σ_s σ_qs
///   add_share_gradient       dz_qs += c σ_qs (1 - σ_qs) (dα_qs - Σ_l α_ql dα_ql) / N_q,  σ = σ(z)
///
/// Sums run over adapters in order. Q divides I and O.

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/reduce.hpp>

namespace limen::inline LIMEN_ABI {

struct AdapterSizes {
  Index adapters, heads, in, out, rank;  ///< S, Q, I, O, R

  Index of_a() const { return in * rank; }
  Index of_b() const { return rank * out; }
};

namespace detail {

/// f(head, first number, how many) for each run of numbers of one head in an A or B.
template <class F>
void for_each_head_run(const AdapterSizes& n, bool is_a, F f) {
  if (is_a) {
    const Index count = n.in / n.heads * n.rank;
    for (Index q = 0; q < n.heads; ++q) f(q, q * count, count);
  } else {
    const Index count = n.out / n.heads;
    for (Index r = 0; r < n.rank; ++r) {
      for (Index q = 0; q < n.heads; ++q) f(q, r * n.out + q * count, count);
    }
  }
}

/// y += c x
template <class Real>
void add_scaled(Index n, Real c, const Real* x, Real* y) noexcept {
  const simd::Vec<Real> factor(c);
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(y + i, simd::fma(factor, load(x + i), load(y + i)));
  });
}

template <class Real>
void mix(const AdapterSizes& n, bool is_a, const Real* alpha, const Real* all, Real* mixed) {
  const Index size = is_a ? n.of_a() : n.of_b();
  for (Index i = 0; i < size; ++i) mixed[i] = Real(0);
  for (Index s = 0; s < n.adapters; ++s) {
    for_each_head_run(n, is_a, [&](Index q, Index first, Index count) {
      add_scaled(count, alpha[q * n.adapters + s], all + s * size + first, mixed + first);
    });
  }
}

}  // namespace detail

/// mixed_a [I x R], mixed_b [R x O]
template <class Real>
void mix_adapters(const AdapterSizes& n, const Real* alpha, const Real* a, const Real* b,
                  Real* mixed_a, Real* mixed_b) noexcept {
  detail::mix(n, true, alpha, a, mixed_a);
  detail::mix(n, false, alpha, b, mixed_b);
}

template <class Real>
void add_mix_gradient(const AdapterSizes& n, const Real* alpha, const Real* d_mixed_a,
                      const Real* d_mixed_b, Real* da, Real* db) noexcept {
  const auto add = [&](bool is_a, const Real* d_mixed, Real* d) {
    const Index size = is_a ? n.of_a() : n.of_b();
    for (Index s = 0; s < n.adapters; ++s) {
      detail::for_each_head_run(n, is_a, [&](Index q, Index first, Index count) {
        detail::add_scaled(count, alpha[q * n.adapters + s], d_mixed + first, d + s * size + first);
      });
    }
  };
  add(true, d_mixed_a, da);
  add(false, d_mixed_b, db);
}

/// d_alpha [Q x S]
template <class Real>
void mix_dots(const AdapterSizes& n, const Real* a, const Real* b, const Real* d_mixed_a,
              const Real* d_mixed_b, Real* d_alpha) noexcept {
  for (Index i = 0; i < n.heads * n.adapters; ++i) d_alpha[i] = Real(0);
  const auto add = [&](bool is_a, const Real* all, const Real* d_mixed) {
    const Index size = is_a ? n.of_a() : n.of_b();
    for (Index s = 0; s < n.adapters; ++s) {
      detail::for_each_head_run(n, is_a, [&](Index q, Index first, Index count) {
        const Real* const x = all + s * size + first;
        d_alpha[q * n.adapters + s] += reduce_row<Real>(
            count, [&](Index i, auto load) { return load(x + i) * load(d_mixed + first + i); });
      });
    }
  };
  add(true, a, d_mixed_a);
  add(false, b, d_mixed_b);
}

namespace detail {
/// N of a head. Never 0, nor a matter of the other heads.
template <class Real>
Real sum_of_shares(const Real* sigma, Index count) noexcept {
  Real sum = Real(1e-12);
  for (Index s = 0; s < count; ++s) sum += sigma[s];
  return sum;
}
}  // namespace detail

/// sigma, alpha [Q x S], which may be one.
template <class Real>
void shares(const AdapterSizes& n, const Real* sigma, Real* alpha) noexcept {
  for (Index q = 0; q < n.heads; ++q, sigma += n.adapters, alpha += n.adapters) {
    const Real sum = detail::sum_of_shares(sigma, n.adapters);
    for (Index s = 0; s < n.adapters; ++s) alpha[s] = sigma[s] / sum;
  }
}

template <class Real>
void add_share_gradient(const AdapterSizes& n, const Real* sigma, const Real* alpha,
                        const Real* d_alpha, Real c, Real* dz) noexcept {
  for (Index q = 0; q < n.heads; ++q) {
    const Real sum = detail::sum_of_shares(sigma, n.adapters);
    Real mean = 0;
    for (Index s = 0; s < n.adapters; ++s) mean += alpha[s] * d_alpha[s];
    for (Index s = 0; s < n.adapters; ++s) {
      dz[s] += c * (d_alpha[s] - mean) / sum * sigma[s] * (Real(1) - sigma[s]);
    }
    sigma += n.adapters, alpha += n.adapters, d_alpha += n.adapters, dz += n.adapters;
  }
}

}  // namespace limen::inline LIMEN_ABI
