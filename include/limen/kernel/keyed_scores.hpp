#pragma once
/// @file  Queries against keys that each decay at a pace of their own, inside a chunk of 16 rows.
///
///   M_ij = Σ_n q_in k_jn E_ijn,   E_ijn = a_{j+1,n} ... a_{i,n}        for i >= j
///
/// One side of the sum runs down the rows and decays as it goes: no quotient, no exponential, and
/// each E at most 1.

#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Rows of a chunk of keyed decays.
inline constexpr Index keyed_chunk = 16;

/// f(integral_constant<Index, 0>), ..., f(integral_constant<Index, 15>): registers have no index.
template <class F>
LIMEN_INLINE void for_each_row(F&& f) {
  [&]<Index... I>(std::integer_sequence<Index, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<Index, I>{}), ...);
  }(std::make_integer_sequence<Index, keyed_chunk>{});
}

/// M of one chunk, turned: to[j][i] = Σ_n q_in k_jn E_ijn for i >= j, 0 elsewhere.
/// Rows of q, k, a [16][N] are `row` apart; zeros in those that are not there.
template <class Real>
LIMEN_NOINLINE void keyed_scores(const Real* q, const Real* k, const Real* a, Index N, Index row,
                                 Real* to) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index Q = keyed_chunk, width = simd::lanes<Real>;
  constexpr Index together = width < Q ? width : Q;  // rows whose sums are folded at once
  for_each_row([&](auto column) __attribute__((always_inline)) {
    constexpr Index j = column;
    V sum[Q];
    LIMEN_UNROLL for (Index i = 0; i < Q; ++i) sum[i] = V(Real(0));
    simd::for_each<Real>(N, [&](Index n, auto load, auto) __attribute__((always_inline)) {
      V key = load(k + j * row + n);
      sum[j] = simd::fma(load(q + j * row + n), key, sum[j]);
      LIMEN_UNROLL for (Index i = j + 1; i < Q; ++i) {
        key = key * load(a + i * row + n);
        sum[i] = simd::fma(load(q + i * row + n), key, sum[i]);
      }
    });
    LIMEN_UNROLL for (Index i = 0; i < Q; i += together) {
      simd::store(to + j * Q + i,
                  simd::reduce_add_each<static_cast<std::size_t>(together)>(sum + i), together);
    }
  });
}

/// dq_i += Σ_{j <= i} dM_ij k_j E_ij and dk_j += Σ_{i >= j} dM_ij q_i E_ij.  dM [16][16].
template <class Real>
LIMEN_NOINLINE void keyed_scores_backward(const Real* dm, const Real* q, const Real* k,
                                          const Real* a, Index N, Index row, Real* dq,
                                          Real* dk) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index Q = keyed_chunk;
  simd::for_each<Real>(N, [&](Index n, auto load, auto store) {
    V sum[Q];
    LIMEN_UNROLL for (Index i = 0; i < Q; ++i) sum[i] = load(dq + i * row + n);
    for_each_row([&](auto column) __attribute__((always_inline)) {
      constexpr Index j = column;
      V key = load(k + j * row + n);
      sum[j] = simd::fma(V(dm[j * Q + j]), key, sum[j]);
      LIMEN_UNROLL for (Index i = j + 1; i < Q; ++i) {
        key = key * load(a + i * row + n);
        sum[i] = simd::fma(V(dm[i * Q + j]), key, sum[i]);
      }
    });
    LIMEN_UNROLL for (Index i = 0; i < Q; ++i) store(dq + i * row + n, sum[i]);
    LIMEN_UNROLL for (Index j = 0; j < Q; ++j) sum[j] = load(dk + j * row + n);
    for_each_row([&](auto line) __attribute__((always_inline)) {
      constexpr Index i = line;
      V query = load(q + i * row + n);
      sum[i] = simd::fma(V(dm[i * Q + i]), query, sum[i]);
      LIMEN_UNROLL for (Index j = i - 1; j >= 0; --j) {
        query = query * load(a + (j + 1) * row + n);
        sum[j] = simd::fma(V(dm[i * Q + j]), query, sum[j]);
      }
    });
    LIMEN_UNROLL for (Index j = 0; j < Q; ++j) store(dk + j * row + n, sum[j]);
  });
}

}  // namespace limen::inline LIMEN_ABI::detail
