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
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/panels.hpp>
#include <limen/kernel/tile.hpp>

namespace limen::inline LIMEN_ABI {

/// What all sequences of a call have in common.
template <class Real>
struct AttentionRule {
  Index query_heads = 1;         ///< Hq
  Index key_heads = 1;           ///< Hk, a divisor of Hq
  Real scale = 0;                ///< 0: 1 / sqrt(d)
  bool causal = false;           ///< a query sees keys up to its own position
  Index window = 0;              ///< and only the last so many of them, its own included; without
                                 ///< `causal` as many to the other side. 0: all
  Real soft_cap = 0;             ///< c; 0: none
  const Real* slopes = nullptr;  ///< [Hq], ALiBi
  const Real* sinks = nullptr;   ///< [Hq], a logit that takes probability and gives no value
};

/// One sequence.
template <class Real>
struct AttentionCall {
  MatrixView<const Real> q;            ///< [Tq x Hq d]
  MatrixView<const Real> k;            ///< [Tk x Hk d]
  MatrixView<const Real> v;            ///< [Tk x Hk dv]
  MatrixView<Real> y;                  ///< [Tq x Hq dv]
  Real* lse = nullptr;                 ///< [Tq][Hq], or null
  std::optional<Index> offset = {};    ///< position of the first query; if not given, Tk - Tq
  const Index* positions = nullptr;    ///< [Tk], of the keys; null: 0, 1, 2, ...
  const Real* bias = nullptr;          ///< [Tq][Tk], added to the scores
  Index bias_head = 0;                 ///< numbers from one head's bias to the next; 0: one for all
  const std::uint8_t* keep = nullptr;  ///< [Tq][Tk], 0 forbids
  Index keep_head = 0;                 ///< likewise
  Index keep_block = 1;  ///< an entry of `keep` stands for so many queries by so many keys

  Index position(Index i) const { return i + offset.value_or(k.rows - q.rows); }
  bool plain() const { return positions == nullptr && bias == nullptr && keep == nullptr; }
};

namespace detail {

template <class Real>
inline constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
template <class Real>
inline constexpr Real ln2 = Real(0.69314718055994530942);

/// Queries of a task, and keys that are looked at together: their scores stay in the L2 cache.
inline constexpr Index query_block = 48;
inline constexpr Index key_block = 256;

constexpr Index rounded_up(Index n, Index to) { return (n + to - 1) / to * to; }

struct KeyRange {
  Index begin, end;
};

/// Which keys query i can see at all, by position.
template <class Real>
KeyRange visible(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index i) {
  KeyRange r{0, c.k.rows};
  if (c.positions != nullptr) return r;  // looked at one by one
  const Index p = c.position(i);
  if (rule.causal) {
    r.end = std::min(r.end, p + 1);
  } else if (rule.window > 0) {
    r.end = std::min(r.end, p + rule.window);
  }
  if (rule.window > 0) r.begin = std::max(r.begin, p - rule.window + 1);
  r.end = std::max(r.end, Index{0});
  r.begin = std::min(r.begin, r.end);
  return r;
}

template <class Real>
bool sees(const AttentionRule<Real>& rule, Index query, Index key) {
  if (key < 0) return false;  // an empty slot
  if (rule.causal && key > query) return false;
  return rule.window == 0 || (query - key < rule.window && key - query < rule.window);
}

/// Scores of keys j0 .. j0 + n of query i, as they came from the product (times log2 e): what else
/// the rule makes of them. Still times log2 e.
template <class Real>
void finish_scores(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, Index h, Index i,
                   Index j0, Index n, Real* s) {
  using V = simd::Vec<Real>;
  constexpr Real log2_e = math::detail::log2_e<Real>;
  if (c.bias != nullptr) {
    const Real* bias = c.bias + h * c.bias_head + i * c.k.rows + j0;
    simd::for_each<Real>(n, [&](Index j, auto load, auto store) {
      store(s + j, simd::fma(V(log2_e), load(bias + j), load(s + j)));
    });
  }
  const Index p = c.position(i);
  const auto at = [&](Index j) { return c.positions != nullptr ? c.positions[j0 + j] : j0 + j; };
  if (rule.slopes != nullptr) {
    const Real slope = rule.slopes[h] * log2_e;
    for (Index j = 0; j < n; ++j) {
      const Index distance = p - at(j);
      s[j] -= slope * static_cast<Real>(distance < 0 ? -distance : distance);
    }
  }
  if (rule.soft_cap > 0) {
    const V cap(rule.soft_cap * log2_e), inverse(1 / (rule.soft_cap * log2_e));
    simd::transform(s, s, n, [&](const V& v) { return cap * math::tanh(v * inverse); });
  }
  if (c.keep != nullptr) {
    const Index columns = (c.k.rows + c.keep_block - 1) / c.keep_block;
    const std::uint8_t* keep = c.keep + h * c.keep_head + i / c.keep_block * columns;
    for (Index j = 0; j < n; ++j) {
      if (keep[(j0 + j) / c.keep_block] == 0) s[j] = minus_infinity<Real>;
    }
  }
  if (c.positions != nullptr) {
    for (Index j = 0; j < n; ++j) {
      if (!sees(rule, p, at(j))) s[j] = minus_infinity<Real>;
    }
  }
}

/// Is what finish_scores does nothing?
template <class Real>
bool plain(const AttentionRule<Real>& rule, const AttentionCall<Real>& c) {
  return rule.slopes == nullptr && !(rule.soft_cap > 0) && c.plain();
}

/// s [n], whole vectors: the maximum.
template <class Real>
Real maximum(const Real* s, Index n) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  V a(minus_infinity<Real>), b = a;
  Index j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) {
    a = simd::max(a, simd::load<V>(s + j));
    b = simd::max(b, simd::load<V>(s + j + lanes));
  }
  if (j < n) a = simd::max(a, simd::load<V>(s + j));
  return simd::reduce_max(simd::max(a, b));
}

/// s <- 2^(s - most) over whole vectors; gives the sum.
template <class Real>
Real exponentials(Real* s, Index n, Real most) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const V top(most);
  V a(Real(0)), b = a;
  Index j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) {
    const V x = math::exp2(simd::load<V>(s + j) - top);
    const V y = math::exp2(simd::load<V>(s + j + lanes) - top);
    simd::store(s + j, x);
    simd::store(s + j + lanes, y);
    a = a + x;
    b = b + y;
  }
  if (j < n) {
    const V x = math::exp2(simd::load<V>(s + j) - top);
    simd::store(s + j, x);
    a = a + x;
  }
  return simd::reduce_add(a + b);
}

/// A row of the softmax under way: the largest score so far, and the sum relative to it.
template <class Real>
struct Running {
  Real most = minus_infinity<Real>, sum = 0;

  /// Takes in scores s [n] (whole vectors), which become probabilities relative to `most`; gives
  /// the factor for what was gathered before.
  Real add(Real* s, Index n) {
    const Real now = std::max(most, maximum(s, n));
    if (now == minus_infinity<Real>) {
      std::fill(s, s + n, Real(0));
      return 1;
    }
    const Real factor = most == now ? Real(1) : std::exp2(most - now);
    sum = sum * factor + exponentials(s, n, now);
    most = now;
    return factor;
  }
  /// log Σ, in base e.
  Real lse() const { return sum > 0 ? (most + std::log2(sum)) * ln2<Real> : minus_infinity<Real>; }
};

/// A sink takes part in the sum from the start.
template <class Real>
Running<Real> at_start(const AttentionRule<Real>& rule, Index h) {
  if (rule.sinks == nullptr) return {};
  return {rule.sinks[h] * math::detail::log2_e<Real>, 1};
}

template <class Real>
void scale_row(Real* y, Index n, Real by) {
  const simd::Vec<Real> factor(by);
  simd::transform(y, y, n, [&](const auto& v) { return v * factor; });
}

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

template <class Real>
void copy_scaled(const Real* from, Real* to, Index n, Real by) {
  const simd::Vec<Real> factor(by);
  simd::transform(from, to, n, [&](const auto& v) { return v * factor; });
}

template <class Real>
Real scale_of(const AttentionRule<Real>& rule, Index d) {
  return rule.scale > 0 ? rule.scale : 1 / std::sqrt(static_cast<Real>(d));
}

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
    parallel_for(heads * blocks, work_ns, [&](Index i) { f(0, i / blocks, i % blocks); });
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
      tasks[count++] = {static_cast<Index>(b), i / blocks, i % blocks};
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
