#pragma once
/// @file  Attention without a softmax: weights are squares of what is positive.
///
///   r_ij = max(0, q_i·k_j / n_i + b_{p_i - j})         a_ij = r_ij²
///   y_i  = Σ_j a_ij v_j                                  p_i = i + Tk - Tq, the position of row i
///
///   q [Tq x s], k [Tk x s], v [Tk x e]  ->  y [Tq x e]
///
/// A row may have no weight at all: zeros. With .chunk = C a row sees its own chunk only, keys from
/// ⌊p_i / C⌋ C on, and n is C; what came before is a sum for each chunk (chunk_sums):
///
///   S_g = Σ_{h < g} k_hᵀ v_h / C,   y_g += q_g S_g          k, v, q: the rows of a chunk
///
/// Hua et al., "Transformer Quality in Linear Time", arXiv:2202.10447, sections 2 and 3; squares of
/// relu: So et al., arXiv:2109.08668.

#include <algorithm>
#include <type_traits>

#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/gemm.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
struct SquaredRule {
  bool causal = true;
  Index chunk = 0;   ///< C; 0: a row sees all keys (up to its own, if causal)
  Index length = 0;  ///< n; 0: the keys that a row may see, or C
  const Real* bias =
      nullptr;      ///< b at distances 0 .. R - 1, without .causal from 1 - R on; or null
  Index reach = 0;  ///< R; what is further away counts as the furthest
};

/// One sequence.
template <class Real>
struct SquaredCall {
  MatrixView<const Real> q, k, v;

  Index position(Index i) const { return i + k.rows - q.rows; }
};

namespace detail {

/// Rows that go together, and the keys that some of them see.
struct SquaredBlock {
  Index row, rows, key, keys;
};

inline constexpr Index squared_rows = 96, squared_keys = 512;

template <class Real>
Index squared_blocks(const SquaredRule<Real>& rule, const SquaredCall<Real>& c,
                     SquaredBlock* to = nullptr) {
  Index count = 0;
  for (Index i = 0; i < c.q.rows;) {
    const Index p = c.position(i), chunk = rule.chunk > 0 ? p / rule.chunk * rule.chunk : 0;
    Index rows = std::min(squared_rows, c.q.rows - i), end = c.k.rows;
    if (rule.chunk > 0) {
      rows = std::min(rows, chunk + rule.chunk - p);
      end = std::min(end, chunk + rule.chunk);
    }
    if (rule.causal) end = p + rows;
    if (to != nullptr) to[count] = {i, rows, chunk, end - chunk};
    ++count;
    i += rows;
  }
  return count;
}

template <class Real>
Real squared_length(const SquaredRule<Real>& rule, const SquaredCall<Real>& c, Index i) {
  const Index all = rule.causal ? c.position(i) + 1 : c.k.rows;
  return static_cast<Real>(rule.length > 0 ? rule.length : rule.chunk > 0 ? rule.chunk : all);
}

/// q·k / n of keys j0 .. j0 + n and the row at position p: with the bias, 0 where nothing is seen.
template <class Real>
void finish_squared_scores(const SquaredRule<Real>& rule, Index p, Index j0, Index n,
                           Real* s) noexcept {
  using V = simd::Vec<Real>;
  const Index seen = rule.causal ? std::clamp(p + 1 - j0, Index{0}, n) : n;
  if (rule.bias != nullptr) {
    const Index R = rule.reach, least = rule.causal ? 0 : 1 - R;
    const Real* const b = rule.bias - least;
    const Index far = std::clamp(p - R + 1 - j0, Index{0}, seen);  // before: R and more
    const Index near = std::clamp(p - least + 1 - j0, far, seen);  // behind: 1 - R and less
    for (Index j = 0; j < far; ++j) s[j] += b[R - 1];
    for (Index j = far; j < near; ++j) s[j] += b[p - j0 - j];
    for (Index j = near; j < seen; ++j) s[j] += b[least];
  }
  simd::transform(s, s, seen, [](const V& v) { return simd::max(V(Real(0)), v); });  // NaN stays
  std::fill(s + seen, s + n, Real(0));
}

template <class Real>
void square(Real* s, Index n) noexcept {
  simd::transform(s, s, n, [](const auto& v) { return v * v; });
}

/// to = x / n, row by row.
template <class Real>
void divide_by_length(const SquaredRule<Real>& rule, const SquaredCall<Real>& c, Index first,
                      std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> to) {
  for (Index i = 0; i < x.rows; ++i) {
    const simd::Vec<Real> by(1 / squared_length(rule, c, first + i));
    simd::transform(x.row(i), to.row(i), x.cols, [&](const auto& v) { return v * by; });
  }
}

/// f(first key, scores r [rows x n]) for the keys of a block, piece by piece.  q is over n.
template <class Real, class F>
void for_each_squared_piece(const SquaredRule<Real>& rule, const SquaredCall<Real>& c,
                            const SquaredBlock& block, MatrixView<const Real> q,
                            MatrixView<Real> scores, F f) {
  const Index end = block.key + block.keys;
  for (Index j0 = block.key; j0 < end; j0 += squared_keys) {
    const Index n = std::min(squared_keys, end - j0);
    const auto s = scores.middle_cols(0, n);
    product_nt<Real>(q, c.k.middle_rows(j0, n), s);
    for (Index i = 0; i < block.rows; ++i) {
      finish_squared_scores(rule, c.position(block.row + i), j0, n, s.row(i));
    }
    f(j0, s);
  }
}

}  // namespace detail

/// y [Tq x e] is written.
template <class Real>
void squared_attention(const SquaredRule<Real>& rule, const SquaredCall<Real>& c,
                       MatrixView<Real> y) {
  using namespace detail;
  const Index s = c.q.cols, count = squared_blocks(rule, c);
  Buffer<SquaredBlock> blocks(count);
  squared_blocks(rule, c, blocks.data());
  double pairs = 0;
  for (const auto& b : blocks) pairs += static_cast<double>(b.rows * b.keys);
  const double ns = pairs * static_cast<double>(s + y.cols) / (2 * simd::lanes<Real>);
  parallel_for(count, ns, [&](Index n) {
    const SquaredBlock& b = blocks[from_both_ends(n, count)];
    Buffer<Real> space(b.rows * (squared_keys + s));
    const MatrixView<Real> scores{space.data(), b.rows, squared_keys, squared_keys};
    const MatrixView<Real> q{space.data() + b.rows * squared_keys, b.rows, s, s};
    divide_by_length(rule, c, b.row, c.q.middle_rows(b.row, b.rows), q);
    const auto to = y.middle_rows(b.row, b.rows);
    for_each_squared_piece<Real>(rule, c, b, q, scores, [&](Index j0, MatrixView<Real> r) {
      for (Index i = 0; i < r.rows; ++i) square(r.row(i), r.cols);
      product_nn<Real>(r, c.v.middle_rows(j0, r.cols), to, {.accumulate = j0 > b.key});
    });
  });
}

/// da = dy vᵀ,  dr = 2 r da:  dq = dr k / n,  dk = drᵀ q / n,  dv = aᵀ dy,  db += Σ dr.
/// dq is written, dk and dv added to; dbias as the bias, or null.
template <class Real>
void squared_attention_backward(const SquaredRule<Real>& rule, const SquaredCall<Real>& c,
                                std::type_identity_t<MatrixView<const Real>> dy,
                                MatrixView<Real> dq, MatrixView<Real> dk, MatrixView<Real> dv,
                                Real* dbias) {
  using namespace detail;
  const Index s = c.q.cols, count = squared_blocks(rule, c);
  Buffer<SquaredBlock> blocks(count);
  squared_blocks(rule, c, blocks.data());
  Buffer<Real> space(squared_rows * (2 * squared_keys + s));
  for (const auto& b : blocks) {
    const MatrixView<Real> scores{space.data(), b.rows, squared_keys, squared_keys};
    const MatrixView<Real> slopes{scores.data + squared_rows * squared_keys, b.rows, squared_keys,
                                  squared_keys};
    const MatrixView<Real> q{slopes.data + squared_rows * squared_keys, b.rows, s, s};
    const auto down = dy.middle_rows(b.row, b.rows);
    const auto back = dq.middle_rows(b.row, b.rows);
    divide_by_length(rule, c, b.row, c.q.middle_rows(b.row, b.rows), q);
    for_each_squared_piece<Real>(rule, c, b, q, scores, [&](Index j0, MatrixView<Real> r) {
      const auto dr = slopes.middle_cols(0, r.cols);
      product_nt<Real>(down, c.v.middle_rows(j0, r.cols), dr);
      for (Index i = 0; i < r.rows; ++i) {
        Real *const ri = r.row(i), *const di = dr.row(i);
        simd::for_each<Real>(r.cols, [&](Index j, auto load, auto store) {
          const auto rj = load(ri + j);
          store(di + j, (rj + rj) * load(di + j));
          store(ri + j, rj * rj);
        });
        if (dbias != nullptr) {
          const Index least = rule.causal ? 0 : 1 - rule.reach, p = c.position(b.row + i);
          for (Index j = 0; j < r.cols; ++j) {
            if (di[j] != 0) dbias[std::clamp(p - j0 - j, least, rule.reach - 1) - least] += di[j];
          }
        }
      }
      add_product_tn<Real>(r, down, dv.middle_rows(j0, r.cols));
      add_product_tn<Real>(dr, q, dk.middle_rows(j0, r.cols));
      product_nn<Real>(dr, c.k.middle_rows(j0, r.cols), back, {.accumulate = j0 > b.key});
    });
    divide_by_length<Real>(rule, c, b.row, back, back);
  }
}

// ── What came before the chunk ───────────────────────────────────────────────────────────────────

/// The first row of every chunk that the rows at positions first, first + 1, ... are in.
inline Index chunk_end(Index row, Index first, Index rows, Index C) {
  return std::min(rows, ((first + row) / C + 1) * C - first);
}

/// y += q S of the chunk of each row.  The rows begin at position `first` of their sequence; S
/// [s x e] is the sum before the first chunk, `next` the same with what has been seen of it. Both
/// move on. `kept`, [chunks][s e] or null, gets S of every chunk.
template <class Real>
void chunk_sums(Index C, Index first, std::type_identity_t<MatrixView<const Real>> q,
                std::type_identity_t<MatrixView<const Real>> k,
                std::type_identity_t<MatrixView<const Real>> v, MatrixView<Real> y, Real* S,
                Real* next, Real* kept) {
  const Index s = q.cols, e = v.cols;
  Buffer<Real> scaled(std::min(C, q.rows) * s);
  for (Index t = 0, end = 0; t < q.rows; t = end) {
    end = chunk_end(t, first, q.rows, C);
    const Index n = end - t;
    if (kept != nullptr) kept = std::copy_n(S, s * e, kept);
    product_nn<Real>(q.middle_rows(t, n), {S, s, e, e}, y.middle_rows(t, n), {.accumulate = true});
    const simd::Vec<Real> by(Real(1) / static_cast<Real>(C));
    const MatrixView<Real> part{scaled.data(), n, s, s};
    for (Index i = 0; i < n; ++i) {
      simd::transform(k.row(t + i), part.row(i), s, [&](const auto& x) { return x * by; });
    }
    add_product_tn<Real>(part, v.middle_rows(t, n), {next, s, e, e});
    if ((first + end) % C == 0) std::copy_n(next, s * e, S);
  }
}

/// With D = Σ q_hᵀ dy_h over later chunks:  dq = dy Sᵀ (written),  dk = v Dᵀ / C (written),
/// dv += k D / C.
template <class Real>
void chunk_sums_backward(Index C, Index first, std::type_identity_t<MatrixView<const Real>> q,
                         std::type_identity_t<MatrixView<const Real>> k,
                         std::type_identity_t<MatrixView<const Real>> v,
                         std::type_identity_t<MatrixView<const Real>> dy, const Real* kept,
                         MatrixView<Real> dq, MatrixView<Real> dk, MatrixView<Real> dv) {
  const Index s = q.cols, e = v.cols;
  if (q.rows == 0) return;
  Buffer<Real> later(2 * s * e);
  std::fill(later.begin(), later.end(), Real(0));
  const MatrixView<Real> D{later.data(), s, e, e}, over{later.data() + s * e, s, e, e};
  const simd::Vec<Real> by(Real(1) / static_cast<Real>(C));
  for (Index g = (first + q.rows - 1) / C - first / C; g >= 0; --g) {
    const Index begin = std::max(Index{0}, (first / C + g) * C - first);
    const Index n = chunk_end(begin, first, q.rows, C) - begin;
    const auto down = dy.middle_rows(begin, n);
    product_nt<Real>(down, MatrixView<const Real>{kept + g * s * e, s, e, e},
                     dq.middle_rows(begin, n));
    simd::transform(D.data, over.data, s * e, [&](const auto& x) { return x * by; });
    product_nt<Real>(v.middle_rows(begin, n), MatrixView<const Real>(over),
                     dk.middle_rows(begin, n));
    product_nn<Real>(k.middle_rows(begin, n), over, dv.middle_rows(begin, n), {.accumulate = true});
    add_product_tn<Real>(q.middle_rows(begin, n), down, D);
  }
}

}  // namespace limen::inline LIMEN_ABI
