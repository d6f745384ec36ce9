#pragma once
/// @file  One row of what kernel/squared_attention.hpp does for many. Nothing is allocated.
///
///   y  = Σ_{j <= p} max(0, q·k_j / n + b_{p-j})² v_j        squared_attention_step
///   y += q S                                                chunk_sums_step
///
///   q [s], k [p + 1 x s], v [p + 1 x e], S [s x e]  ->  y [e]      p: the place of the row in k

#include <algorithm>
#include <cstdint>

#include <limen/kernel/attention_few.hpp>
#include <limen/kernel/squared_attention.hpp>

namespace limen::inline LIMEN_ABI {

/// The row is the last of k and v; with a chunk, the rows are those of its chunk. y is written, and
/// q divided by n.
template <class Real>
void squared_attention_step(const SquaredRule<Real>& rule,
                            std::type_identity_t<MatrixView<const Real>> k,
                            std::type_identity_t<MatrixView<const Real>> v, Real* q,
                            Real* y) noexcept {
  const Index s = k.cols, e = v.cols, p = k.rows - 1;
  const Index n = rule.length > 0 ? rule.length : rule.chunk > 0 ? rule.chunk : k.rows;
  for (Index c = 0; c < s; ++c) q[c] /= static_cast<Real>(n);
  std::fill_n(y, e, Real(0));
  constexpr Index piece = 256;
  alignas(alignment) Real r[piece];
  for (Index j0 = 0; j0 < k.rows; j0 += piece) {
    const Index count = std::min(piece, k.rows - j0);
    detail::few_scores<1>(q, s, k.row(j0), k.stride, count, r, piece);
    detail::finish_squared_scores(rule, p, j0, count, r);
    detail::square(r, count);
    detail::few_values<1, true>(r, piece, v.row(j0), v.stride, count, y, e, e);
  }
}

/// y += q S; then k vᵀ / C goes into `next`, which takes the place of S where a chunk ends. The row
/// stands at `position` of its sequence.
template <class Real>
void chunk_sums_step(Index C, std::int64_t position, const Real* q, const Real* k, const Real* v,
                     std::type_identity_t<MatrixView<Real>> S, Real* next, Real* y) noexcept {
  const Index s = S.rows, e = S.cols;
  detail::few_values<1, true>(q, s, S.data, e, s, y, e, e);
  for (Index i = 0; i < s; ++i) {
    const simd::Vec<Real> by(k[i] / static_cast<Real>(C));
    Real* const to = next + i * e;
    simd::for_each<Real>(e, [&](Index c, auto load, auto store) {
      store(to + c, simd::fma(load(v + c), by, load(to + c)));
    });
  }
  if ((position + 1) % C == 0) std::copy_n(next, s * e, S.data);
}

}  // namespace limen::inline LIMEN_ABI
