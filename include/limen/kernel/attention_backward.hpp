#pragma once
/// @file  The gradients of kernel/attention.hpp, in memory proportional to the number of tokens.
///
///   P_ij  = exp(S_ij - L_i)                    once more, block by block, from q, k and L
///   dv_j  = Σ_i P_ij dy_i
///   dS_ij = P_ij (dy_i·v_j - D_i + dL_i)       D_i = dy_i·y_i
///   ds_ij = dS_ij (1 - (S_ij / c)²)            with a soft-cap, else dS_ij
///   dq_i  = scale Σ_j ds_ij k_j,   dk_j = scale Σ_i ds_ij q_i
///   dbias = ds,   dslope = -Σ ds |p_i - p_j|,   dsink = Σ_i exp(sink - L_i) (dL_i - D_i)
///
/// dk and dv of a key head are sums over its query heads (Dao et al., arXiv:2205.14135, without
/// their atomics: one task for each key head of each sequence adds in one order, so the bits do not
/// depend on the number of threads).

#include <limen/kernel/attention.hpp>
#include <limen/kernel/gemm.hpp>

namespace limen::inline LIMEN_ABI {

/// The gradients of one sequence. dq, dk, dv are written; dbias, dslopes and dsinks are added to.
template <class Real>
struct AttentionGradient {
  AttentionCall<Real> call;     ///< of the forward pass, with its y and L
  MatrixView<const Real> dy;    ///< [Tq x Hq dv]
  const Real* dlse = nullptr;   ///< [Tq][Hq], or null: zero
  MatrixView<Real> dq, dk, dv;  ///< as q, k, v
  Real* dbias = nullptr;        ///< as the bias of the call, or null
  Real* dslopes = nullptr;      ///< [Hq], or null
  Real* dsinks = nullptr;       ///< [Hq], or null
};

namespace detail {

/// What one row of scores s [n] (times log2 e) and of dy·v `dp` [n] becomes: s to P, dp to ds.
template <class Real>
struct RowBackward {
  Real lse2;   ///< L log2 e; infinite where the row saw nothing
  Real shift;  ///< dL - D
  Real cap2;   ///< c log2 e, or 0

  void operator()(Real* s, Real* dp, Index n) const {
    using V = simd::Vec<Real>;
    const V top(lse2), add(shift);
    if (cap2 > 0) {
      const V inverse(1 / cap2), one(Real(1));
      simd::for_each<Real>(n, [&](Index j, auto load, auto store) {
        const V score = load(s + j), p = math::exp2(score - top), t = score * inverse;
        const V slope = simd::select(p > V(Real(0)), simd::fnma(t, t, one), V(Real(0)));
        store(s + j, p);
        store(dp + j, p * (load(dp + j) + add) * slope);
      });
    } else {
      simd::for_each<Real>(n, [&](Index j, auto load, auto store) {
        const V p = math::exp2(load(s + j) - top);
        store(s + j, p);
        store(dp + j, p * (load(dp + j) + add));
      });
    }
  }
};

/// All of one key head: its keys block by block, for each all queries that may see them.
template <class Real>
void attend_back(const AttentionRule<Real>& rule, const AttentionGradient<Real>& g, Index kh) {
  constexpr Real log2_e = math::detail::log2_e<Real>;
  constexpr Index keys = key_block / 2;
  const auto& c = g.call;
  const Index group = rule.query_heads / rule.key_heads, Tq = c.q.rows, Tk = c.k.rows;
  const Index d = c.q.cols / rule.query_heads, dv = c.y.cols / rule.query_heads;
  const Real scale = scale_of(rule, d);
  const auto k_head = c.k.middle_cols(kh * d, d), v_head = c.v.middle_cols(kh * dv, dv);
  const auto dk_head = g.dk.middle_cols(kh * d, d), dv_head = g.dv.middle_cols(kh * dv, dv);
  for (Index j = 0; j < Tk; ++j) {
    std::fill(dk_head.row(j), dk_head.row(j) + d, Real(0));
    std::fill(dv_head.row(j), dv_head.row(j) + dv, Real(0));
  }
  Buffer<Real> space(2 * query_block * keys + query_block * (d + dv)), shift(group * Tq);
  const MatrixView<Real> s{space.data(), query_block, keys, keys};
  const MatrixView<Real> dp{s.data + query_block * keys, query_block, keys, keys};
  const MatrixView<Real> q{dp.data + query_block * keys, query_block, d, d};
  const MatrixView<Real> dy{q.data + query_block * d, query_block, dv, dv};
  for (Index r = 0; r < group; ++r) {
    const Index h = kh * group + r;
    for (Index i = 0; i < Tq; ++i) {
      simd::Vec<Real> sum(Real(0));
      const Real *a = g.dy.row(i) + h * dv, *b = c.y.row(i) + h * dv;
      simd::for_each<Real>(
          dv, [&](Index n, auto load, auto) { sum = simd::fma(load(a + n), load(b + n), sum); });
      const Real dlse = g.dlse != nullptr ? g.dlse[i * rule.query_heads + h] : Real(0);
      const Real lse = c.lse[i * rule.query_heads + h];
      shift[r * Tq + i] = dlse - simd::reduce_add(sum);
      if (g.dsinks != nullptr && rule.sinks != nullptr) {
        g.dsinks[h] += std::exp(rule.sinks[h] - lse) * shift[r * Tq + i];
      }
      std::fill(g.dq.row(i) + h * d, g.dq.row(i) + (h + 1) * d, Real(0));
    }
  }
  const bool as_it_is = plain(rule, c);
  for (Index j0 = 0; j0 < Tk; j0 += keys) {
    const Index j1 = std::min(Tk, j0 + keys), n = j1 - j0;
    const auto k_rows = k_head.middle_rows(j0, n);
    const auto k = Panels<Real>::pack(k_rows), v = Panels<Real>::pack(v_head.middle_rows(j0, n));
    const auto k_columns = Panels<Real>::pack_transposed(k_rows);
    for (Index r = 0; r < group; ++r) {
      const Index h = kh * group + r;
      for (Index i0 = 0; i0 < Tq; i0 += query_block) {
        const Index rows = std::min(query_block, Tq - i0);
        KeyRange range[query_block];
        bool any = false;
        for (Index i = 0; i < rows; ++i) {
          range[i] = visible(rule, c, i0 + i);
          range[i] = {std::max(j0, range[i].begin), std::min(j1, range[i].end)};
          any = any || range[i].begin < range[i].end;
        }
        if (!any) continue;
        for (Index i = 0; i < rows; ++i) {
          copy_scaled(c.q.row(i0 + i) + h * d, q.row(i), d, scale * log2_e);
          copy_scaled(g.dy.row(i0 + i) + h * dv, dy.row(i), dv, Real(1));
        }
        const auto s_block = s.middle_rows(0, rows).middle_cols(0, n);
        const auto dp_block = dp.middle_rows(0, rows).middle_cols(0, n);
        product_nt<Real>(q.middle_rows(0, rows), k.view(), s_block);
        product_nt<Real>(dy.middle_rows(0, rows), v.view(), dp_block);
        for (Index i = 0; i < rows; ++i) {
          const Index begin = range[i].begin - j0, end = range[i].end - j0;
          const Real lse = c.lse[(i0 + i) * rule.query_heads + h];
          Real *const s_row = s.row(i), *const dp_row = dp.row(i);
          if (begin >= end || lse == minus_infinity<Real>) {
            std::fill(s_row, s_row + n, Real(0));
            std::fill(dp_row, dp_row + n, Real(0));
            continue;
          }
          if (!as_it_is) finish_scores(rule, c, h, i0 + i, j0 + begin, end - begin, s_row + begin);
          std::fill(s_row, s_row + begin, Real(0));
          std::fill(s_row + end, s_row + n, Real(0));
          std::fill(dp_row, dp_row + begin, Real(0));
          std::fill(dp_row + end, dp_row + n, Real(0));
          RowBackward<Real>{lse * log2_e, shift[r * Tq + i0 + i],
                            rule.soft_cap > 0 ? rule.soft_cap * log2_e : Real(0)}(
              s_row + begin, dp_row + begin, end - begin);
          if (g.dbias != nullptr && c.bias != nullptr) {
            Real* to = g.dbias + h * c.bias_head + (i0 + i) * Tk + j0;
            simd::for_each<Real>(n, [&](Index j, auto load, auto store) {
              store(to + j, load(to + j) + load(dp_row + j));
            });
          }
          if (g.dslopes != nullptr && rule.slopes != nullptr) {
            const Index p = c.position(i0 + i);
            Real sum = 0;
            for (Index j = begin; j < end; ++j) {
              const Index at = c.positions != nullptr ? c.positions[j0 + j] : j0 + j;
              sum += dp_row[j] * static_cast<Real>(p > at ? p - at : at - p);
            }
            g.dslopes[h] -= sum;
          }
        }
        add_product_tn<Real>(s_block, dy.middle_rows(0, rows), dv_head.middle_rows(j0, n));
        // q carries log2 e; what it gives to dk is put right at the end.
        add_product_tn<Real>(dp_block, q.middle_rows(0, rows), dk_head.middle_rows(j0, n));
        product_nt<Real>(dp_block, k_columns.view(),
                         g.dq.middle_rows(i0, rows).middle_cols(h * d, d), {.accumulate = true});
      }
    }
    for (Index j = j0; j < j1; ++j) scale_row(dk_head.row(j), d, ln2<Real>);
  }
  for (Index i = 0; i < Tq; ++i) scale_row(g.dq.row(i) + kh * group * d, group * d, scale);
}

}  // namespace detail

/// Gradients of many sequences.
template <class Real>
void attention_backward(const AttentionRule<Real>& rule,
                        std::type_identity_t<std::span<const AttentionGradient<Real>>> sequences) {
  using namespace detail;
  double ns = 0;
  bool shared = false;  // gradients that several tasks would add to
  for (const auto& g : sequences) {
    ns += 2.5 * attention_ns(rule, std::span(&g.call, 1));
    shared = shared || (g.dbias != nullptr && g.call.bias_head == 0) || g.dslopes != nullptr ||
             g.dsinks != nullptr;
  }
  const Index count = static_cast<Index>(sequences.size()) * rule.key_heads;
  parallel_for(count, shared ? 0 : ns, [&](Index i) {
    attend_back(rule, sequences[static_cast<std::size_t>(i / rule.key_heads)], i % rule.key_heads);
  });
}

}  // namespace limen::inline LIMEN_ABI
