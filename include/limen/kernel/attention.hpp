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

/// Queries i0 .. i0 + rows of head h. Rows of `next` are what is looked at afterwards: rows of a
/// head lie far apart, so that a machine does not guess them.
template <class Real>
void attend(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index h, Index i0,
            Index rows, const PackedHead<Real>& head, MatrixView<const Real> next) {
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
      if (j0 < all.begin + width) {
        if (i < next.rows) simd::prefetch(next.row(i), next.cols);
        simd::prefetch(c.y.row(i0 + i) + h * dv, dv);
      }
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
  for (Index j = j0; j < j1; j += width) {
    for (Index t = j + width; t < std::min(j + 2 * width, j1); ++t) {
      simd::prefetch(k.row(t), d);
      simd::prefetch(v.row(t), dv);
    }
    pack_rows_panel<Real>(k, j, 0, d, to.keys + j * d);
    for (Index p = 0; p < dv; p += width) {
      pack_cols_panel<Real>(v, p, j, std::min(j + width, j1), to.values + p * c.k.rows + j * width);
    }
  }
}

/// Rows of one head.
struct AttentionTask {
  Index call, head, block;
};

/// f(task, next) over all sequences, heads, and blocks of `size(call)` rows; `next` is what the
/// thread most likely does afterwards.
template <class Real, class Size, class F>
void for_each_block(std::span<const AttentionCall<Real>> calls, Index heads, Index block,
                    double work_ns, Size size, F f) {
  const auto task_of = [&](Index call, Index blocks, Index i) {
    return AttentionTask{call, i / blocks, from_both_ends(i % blocks, blocks)};
  };
  const auto run = [&](Index count, auto task) {
    parallel_for(count, work_ns, [&](Index i) { f(task(i), task(std::min(i + 1, count - 1))); });
  };
  if (calls.size() == 1) {
    const Index blocks = parts(size(calls[0]), block);
    run(heads * blocks, [&](Index i) { return task_of(0, blocks, i); });
    return;
  }
  Index count = 0;
  for (const auto& c : calls) count += heads * parts(size(c), block);
  Buffer<AttentionTask> tasks(count);
  count = 0;
  for (std::size_t b = 0; b < calls.size(); ++b) {
    const Index blocks = parts(size(calls[b]), block);
    for (Index i = 0; i < heads * blocks; ++i) {
      tasks[count++] = task_of(static_cast<Index>(b), blocks, i);
    }
  }
  run(count, [&](Index i) { return tasks[i]; });
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
  const auto call_of = [&](AttentionTask t) -> const AttentionCall<Real>& {
    return calls[static_cast<std::size_t>(t.call)];
  };
  const double ns = attention_ns(rule, calls);
  for_each_block(calls, rule.key_heads, 2 * key_block, ns / 16, keys_of,
                 [&](AttentionTask t, AttentionTask) {
                   const auto& c = call_of(t);
                   const Index j0 = t.block * 2 * key_block;
                   pack_head(rule, c, t.head, j0, std::min(c.k.rows, j0 + 2 * key_block),
                             head_of(t.call, t.head));
                 });
  const auto queries = [&](AttentionTask t) {
    const auto& q = call_of(t).q;
    const Index d = q.cols / rule.query_heads, i0 = t.block * query_block;
    return q.middle_cols(t.head * d, d).middle_rows(i0, std::min(query_block, q.rows - i0));
  };
  for_each_block(calls, rule.query_heads, query_block, ns, queries_of,
                 [&](AttentionTask t, AttentionTask next) {
                   const auto& c = call_of(t);
                   const Index i0 = t.block * query_block;
                   attend(rule, c, t.head, i0, std::min(query_block, c.q.rows - i0),
                          head_of(t.call, t.head / group), queries(next));
                 });
}

}  // namespace limen::inline LIMEN_ABI
