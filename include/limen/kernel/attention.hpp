#pragma once
/// @file  Softmax attention in memory proportional to the number of tokens.
///
///   s_ij = scale q_i·k_j + bias_ij - slope |p_i - p_j|        scores, per head
///   S_ij = c tanh(s_ij / c)                                    with a soft-cap; -inf where masked
///   L_i  = log(Σ_j exp S_ij [+ exp sink])                      log-sum-exp
///   y_i  = Σ_j exp(S_ij - L_i) v_j
///
///   q [Tq x Hq d], k [Tk x Hk d], v [Tk x Hk dv]  ->  y [Tq x Hq dv], L [Tq x Hq]
///
/// Query head h reads key head h Hk / Hq. A query that sees no key gives zeros and L = -inf (or the
/// sink). Keys are taken block by block: a running maximum and sum make the softmax of a row from
/// the parts (Milakov & Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135). Queries go in
/// tiles against keys in panels, as in a matrix product; a few queries alone (decoding) read keys
/// and values once, as they lie: kernel/attention_decode.hpp.
///
/// Work is done in base 2: log2 e is folded into the queries.

#include <algorithm>
#include <span>

#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/attention_rule.hpp>
#include <limen/kernel/attention_softmax.hpp>
#include <limen/kernel/panels.hpp>
#include <limen/kernel/tile.hpp>

namespace limen::inline LIMEN_ABI {
namespace detail {

/// Queries of a task, and keys that are looked at together: their scores stay in the L2 cache.
inline constexpr Index query_block = 48;
inline constexpr Index key_block = 256;

/// y [rows x panels] += a [rows x depth] b, or = if not `add`; panels of b `b_panel` apart.
template <class Real>
void tiled_product(const Real* a, Index a_row, Index rows, const Real* b, Index b_panel,
                   Index depth, Index panels, Real* y, Index y_row, bool add) {
  constexpr Index width = panel_width<Real>;
  const Index tiles = parts(rows, tile_rows<Real>), height = part(rows, tiles);
  TileJob<Real> job{};
  job.a_row = a_row;
  job.a_col = 1;
  job.b_panel = b_panel;
  job.b_row = width;
  job.depth = depth;
  job.y_row = y_row;
  job.add = add;
  job.ahead_step = part(width, tiles);
  for (Index p = 0; p < panels; ++p) {
    job.b = b + p * b_panel;
    job.ahead = p + 1 < panels ? job.b + b_panel : job.b;
    for (Index m = 0; m < rows; m += height) {
      const Index n = std::min(height, rows - m);
      job.a = a + m * a_row;
      job.y = y + m * y_row + p * width;
      tile_for<Real>(n, 1, 1)(job);
      job.ahead += job.ahead_step * depth;
    }
  }
}

/// Keys and values of one head in panels: keys [Tk/W][d][W], values [dv/W][Tk][W].
template <class Real>
struct PackedHead {
  Real* keys;
  Real* values;
};

/// Queries i0 .. i0 + rows of head h.
template <class Real>
void attend(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index h, Index i0,
            Index rows, const PackedHead<Real>& head) {
  constexpr Index width = panel_width<Real>;
  const Index d = c.q.cols / rule.query_heads, dv = c.y.cols / rule.query_heads;
  const Index dv_row = rounded_up(dv, width);
  Buffer<Real> space(rows * (d + key_block + dv_row));
  Real* const q = space.data() + rows * (key_block + dv_row);  // vectors first: they are aligned
  Real* const s = space.data();
  Real* const y = s + rows * key_block;
  Running<Real> running[query_block];
  KeyRange range[query_block];
  KeyRange all{c.k.rows, 0};
  const Real scale = scale_of(rule, d) * math::detail::log2_e<Real>;
  for (Index i = 0; i < rows; ++i) {
    copy_scaled(c.q.row(i0 + i) + h * d, q + i * d, d, scale);
    running[i] = at_start(rule, h);
    range[i] = visible(rule, c, i0 + i);
    if (range[i].begin < range[i].end) {
      all = {std::min(all.begin, range[i].begin), std::max(all.end, range[i].end)};
    }
  }
  std::fill(y, y + rows * dv_row, Real(0));
  const bool as_it_is = plain(rule, c);
  for (Index j0 = all.begin / width * width; j0 < all.end; j0 += key_block) {
    const Index j1 = std::min(all.end, j0 + key_block), n = rounded_up(j1 - j0, width);
    tiled_product(q, d, rows, head.keys + j0 * d, d * width, d, n / width, s, key_block, false);
    for (Index i = 0; i < rows; ++i) {
      Real* const row = s + i * key_block;
      const Index begin = std::max(range[i].begin, j0), end = std::min(range[i].end, j1);
      if (begin >= end) {
        std::fill(row, row + n, Real(0));
        continue;
      }
      if (!as_it_is) finish_scores(rule, c, h, i0 + i, begin, end - begin, row + (begin - j0));
      std::fill(row, row + (begin - j0), minus_infinity<Real>);
      std::fill(row + (end - j0), row + n, minus_infinity<Real>);
      const Real factor = running[i].add(row, n);
      if (factor != Real(1)) scale_row(y + i * dv_row, dv_row, factor);
    }
    tiled_product(s, key_block, rows, head.values + j0 * width, c.k.rows * width, j1 - j0,
                  dv_row / width, y, dv_row, true);
  }
  for (Index i = 0; i < rows; ++i) {
    const Real sum = running[i].sum;
    copy_scaled(y + i * dv_row, c.y.row(i0 + i) + h * dv, dv, sum > 0 ? 1 / sum : Real(0));
    if (c.lse != nullptr) c.lse[(i0 + i) * rule.query_heads + h] = running[i].lse();
  }
}

template <class Real>
void pack_head(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index head, Index j0,
               Index j1, const PackedHead<Real>& to) {
  constexpr Index width = panel_width<Real>;
  const Index d = c.k.cols / rule.key_heads, dv = c.v.cols / rule.key_heads;
  const auto k = c.k.middle_cols(head * d, d);
  const auto v = c.v.middle_cols(head * dv, dv);
  for (Index j = j0; j < j1; j += width) pack_rows_panel<Real>(k, j, 0, d, to.keys + j * d);
  for (Index p = 0; p < dv; p += width) {
    pack_cols_panel<Real>(v, p, j0, j1, to.values + p * c.k.rows + j0 * width);
  }
}

/// f(call, head, block) over all sequences, heads, and blocks of `size(call)` rows.
template <class Real, class Size, class F>
void for_each_block(std::span<const AttentionCall<Real>> calls, Index heads, Index block,
                    double work_ns, Size size, F f) {
  if (calls.size() == 1) {
    const Index blocks = parts(size(calls[0]), block);
    parallel_for(heads * blocks, work_ns,
                 [&](Index i) { f(0, i / blocks, from_both_ends(i % blocks, blocks)); });
    return;
  }
  struct Task {
    Index call, head, block;
  };
  Index count = 0;
  for (const auto& c : calls) count += heads * parts(size(c), block);
  Buffer<Task> tasks(count);
  count = 0;
  for (std::size_t b = 0; b < calls.size(); ++b) {
    const Index blocks = parts(size(calls[b]), block);
    for (Index i = 0; i < heads * blocks; ++i) {
      tasks[count++] = {static_cast<Index>(b), i / blocks, from_both_ends(i % blocks, blocks)};
    }
  }
  parallel_for(count, work_ns, [&](Index i) { f(tasks[i].call, tasks[i].head, tasks[i].block); });
}

/// About how long all of it takes on one thread.
template <class Real>
double attention_ns(const AttentionRule<Real>& rule, std::span<const AttentionCall<Real>> calls) {
  double numbers = 0;
  for (const auto& c : calls) {
    const Index keys = rule.window > 0 ? std::min(c.k.rows, 2 * rule.window) : c.k.rows;
    numbers += static_cast<double>(c.q.rows * keys) * static_cast<double>(c.q.cols + c.y.cols);
  }
  return numbers / (4 * static_cast<double>(simd::lanes<Real>));
}

}  // namespace detail

/// Attention of many sequences by one rule, whole tiles of queries at a time.
template <class Real>
void attention(const AttentionRule<Real>& rule,
               std::type_identity_t<std::span<const AttentionCall<Real>>> calls) {
  using namespace detail;
  constexpr Index width = panel_width<Real>;
  if (calls.empty()) return;
  const Index group = rule.query_heads / rule.key_heads;
  const auto keys_of = [](const AttentionCall<Real>& c) { return c.k.rows; };
  const auto queries_of = [](const AttentionCall<Real>& c) { return c.q.rows; };
  // All keys and values in panels, head by head.
  Buffer<Index> start(static_cast<Index>(calls.size()) + 1);
  start[0] = 0;
  for (std::size_t b = 0; b < calls.size(); ++b) {
    const auto& c = calls[b];
    const Index d = c.k.cols / rule.key_heads, dv = c.v.cols / rule.key_heads;
    start[static_cast<Index>(b) + 1] =
        start[static_cast<Index>(b)] +
        rule.key_heads * (rounded_up(c.k.rows, width) * d + c.k.rows * rounded_up(dv, width));
  }
  Buffer<Real> packed(start[static_cast<Index>(calls.size())]);
  const auto head_of = [&](Index b, Index head) {
    const auto& c = calls[static_cast<std::size_t>(b)];
    const Index size = (start[b + 1] - start[b]) / rule.key_heads;
    Real* const keys = packed.data() + start[b] + head * size;
    return PackedHead<Real>{keys, keys + rounded_up(c.k.rows, width) * (c.k.cols / rule.key_heads)};
  };
  const double ns = attention_ns(rule, calls);
  for_each_block(calls, rule.key_heads, 2 * key_block, ns / 16, keys_of,
                 [&](Index b, Index head, Index block) {
                   const auto& c = calls[static_cast<std::size_t>(b)];
                   const Index j0 = block * 2 * key_block;
                   pack_head(rule, c, head, j0, std::min(c.k.rows, j0 + 2 * key_block),
                             head_of(b, head));
                 });
  for_each_block(
      calls, rule.query_heads, query_block, ns, queries_of, [&](Index b, Index h, Index block) {
        const auto& c = calls[static_cast<std::size_t>(b)];
        const Index i0 = block * query_block;
        attend(rule, c, h, i0, std::min(query_block, c.q.rows - i0), head_of(b, h / group));
      });
}

}  // namespace limen::inline LIMEN_ABI
