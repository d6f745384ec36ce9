#pragma once
/// @file  Attention of a few queries against a long cache: keys and values are read once, as they
/// lie, in float or bfloat16.
///
/// The query heads that share a key head go together. Keys are cut into chunks; the parts of a
/// softmax are put together in the order of the chunks, whoever worked them out:
///
///   L = log Σ_c e^{L_c},   y = Σ_c e^{L_c - L} y_c
///
///   attention_step      one thread, little room
///   attention_decode    the same bits; threads share the chunks

#include <algorithm>
#include <span>

#include <limen/core/parallel.hpp>
#include <limen/kernel/attention_few.hpp>
#include <limen/kernel/attention_softmax.hpp>

namespace limen::inline LIMEN_ABI {

/// A stretch of a cache of one sequence: head h, key j at keys[h key_head + j key_row]. A ring is
/// two stretches.
template <class Stored>
struct CacheView {
  const Stored* keys;
  const Stored* values;
  Index size;                  ///< keys
  Index key_row, value_row;    ///< numbers from one key to the next
  Index key_head, value_head;  ///< numbers from one head to the next
  Index first = 0;             ///< position of the first key
};

namespace detail {

/// Keys of a chunk: enough work to share, few enough that scores stay in the L1 cache.
inline constexpr Index decode_chunk = 512;

/// The rows of a key head, and what they have gathered: row r is query r / group of the group's
/// head r % group.
template <class Real>
struct GatheredRows {
  Index count, wide;       ///< rows, and numbers from one row of y to the next
  Real* y;                 ///< [count][wide]
  Running<Real>* running;  ///< [count]

  static constexpr Index room(Index rows, Index dv) { return rows * (rounded_up(dv, 16) + 16); }
  static GatheredRows at(Real* room, Index rows, Index dv) {
    static_assert(sizeof(Running<Real>) <= 16 * sizeof(Real));
    const Index wide = rounded_up(dv, 16);
    return {rows, wide, room, reinterpret_cast<Running<Real>*>(room + rows * wide)};
  }
  void clear() const {
    std::fill(y, y + count * wide, Real(0));
    std::fill(running, running + count, Running<Real>{});
  }
};

/// Keys at positions j0 .. j1 of one key head, for all rows.
template <class Real, class Stored>
void attend_chunk(const AttentionRule<Real>& rule, const AttentionCall<Real>& c,
                  const CacheView<Stored>& cache, Index head, Index j0, Index j1, const Real* q,
                  const GatheredRows<Real>& to) noexcept {
  const Index group = rule.query_heads / rule.key_heads;
  const Index d = c.q.cols / rule.query_heads, dv = c.y.cols / rule.query_heads;
  const Stored* const k = cache.keys + head * cache.key_head - cache.first * cache.key_row;
  const Stored* const v = cache.values + head * cache.value_head - cache.first * cache.value_row;
  alignas(64) Real s[decode_rows * decode_chunk];
  const bool as_it_is = plain(rule, c);
  for (Index r = 0; r < to.count; r += decode_rows) {
    const Index n = std::min(decode_rows, to.count - r);
    KeyRange all{j1, j0}, range[decode_rows];
    for (Index i = 0; i < n; ++i) {
      range[i] = visible(rule, c, (r + i) / group);
      range[i] = {std::max(j0, range[i].begin), std::min(j1, range[i].end)};
      if (range[i].begin >= range[i].end) continue;
      all = {std::min(all.begin, range[i].begin), std::max(all.end, range[i].end)};
    }
    if (all.begin >= all.end) continue;
    const Index count = all.end - all.begin, padded = rounded_up(count, simd::lanes<Real>);
    with_rows(n, [&]<int R>() {
      few_scores<R>(q + r * d, d, k + all.begin * cache.key_row, cache.key_row, count, s,
                    decode_chunk);
    });
    for (Index i = 0; i < n; ++i) {
      Real* const row = s + i * decode_chunk;
      const Index begin = range[i].begin - all.begin, end = range[i].end - all.begin;
      if (begin >= end) {
        std::fill(row, row + padded, Real(0));
        continue;
      }
      if (!as_it_is) {
        finish_scores(rule, c, head * group + (r + i) % group, (r + i) / group, range[i].begin,
                      end - begin, row + begin);
      }
      std::fill(row, row + begin, minus_infinity<Real>);
      std::fill(row + end, row + padded, minus_infinity<Real>);
      to.running[r + i].add(row, padded);  // what was gathered before is nothing
    }
    with_rows(n, [&]<int R>() {
      few_values<R>(s, decode_chunk, v + all.begin * cache.value_row, cache.value_row, count,
                    to.y + r * to.wide, to.wide, dv);
    });
  }
}

/// Puts `from` to `to`, both relative to their own maximum.
template <class Real>
void merge(Running<Real>& to, Real* y, const Running<Real>& from, const Real* part, Index n) {
  const Real most = std::max(to.most, from.most);
  if (most == minus_infinity<Real>) return;
  const Real a = std::exp2(to.most - most), b = std::exp2(from.most - most);
  const simd::Vec<Real> left(a), right(b);
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(y + i, simd::fma(load(y + i), left, load(part + i) * right));
  });
  to = {most, to.sum * a + from.sum * b};
}

/// One call on its way: its queries scaled and sorted by key head, its keys in chunks.
template <class Real, class Stored>
struct Decoding {
  const AttentionRule<Real>& rule;
  AttentionCall<Real> c;
  std::span<const CacheView<Stored>> parts;
  Index group = rule.query_heads / rule.key_heads, rows = group * c.q.rows;
  Index d = c.q.cols / rule.query_heads, dv = c.y.cols / rule.query_heads;

  Decoding(const AttentionRule<Real>& r, const AttentionCall<Real>& call,
           std::span<const CacheView<Stored>> stretches)
      : rule(r), c(call), parts(stretches) {
    Index end = 0;
    for (const auto& part : parts) end = std::max(end, part.first + part.size);
    c.k.rows = c.v.rows = end;
  }

  /// rows x d numbers to q
  void take_queries(Index h, Real* q) const {
    const Real scale = scale_of(rule, d) * math::detail::log2_e<Real>;
    for (Index r = 0; r < rows; ++r) {
      copy_scaled(c.q.row(r / group) + (h * group + r % group) * d, q + r * d, d, scale);
      order_query<Stored>(q + r * d, d);
    }
  }

  Index chunks() const {
    Index count = 0;
    for (const auto& part : parts) count += (part.size + decode_chunk - 1) / decode_chunk;
    return count;
  }

  /// Chunk `n` of key head h.
  void attend(Index h, Index n, const Real* q, const GatheredRows<Real>& to) const {
    to.clear();
    for (const auto& part : parts) {
      const Index count = (part.size + decode_chunk - 1) / decode_chunk;
      if (n < count) {
        const Index j0 = n * decode_chunk, j1 = std::min(part.size, j0 + decode_chunk);
        return attend_chunk(rule, c, part, h, part.first + j0, part.first + j1, q, to);
      }
      n -= count;
    }
  }

  /// The rows of key head h start from nothing but the sink.
  void start(Index h, Running<Real>* all) const {
    for (Index r = 0; r < rows; ++r) {
      all[r] = at_start(rule, h * group + r % group);
      Real* const y = c.y.row(r / group) + (h * group + r % group) * dv;
      std::fill(y, y + dv, Real(0));
    }
  }
  void take_in(Index h, const GatheredRows<Real>& from, Running<Real>* all) const {
    for (Index r = 0; r < rows; ++r) {
      merge(all[r], c.y.row(r / group) + (h * group + r % group) * dv, from.running[r],
            from.y + r * from.wide, dv);
    }
  }
  void finish(Index h, const Running<Real>* all) const {
    for (Index r = 0; r < rows; ++r) {
      const Index head = h * group + r % group, i = r / group;
      scale_row(c.y.row(i) + head * dv, dv, all[r].sum > 0 ? 1 / all[r].sum : Real(0));
      if (c.lse != nullptr) c.lse[i * rule.query_heads + head] = all[r].lse();
    }
  }
};

}  // namespace detail

/// How much room attention_step needs, in numbers.
template <class Real>
constexpr Index attention_step_room(Index queries, Index query_heads, Index key_heads, Index d,
                                    Index dv) {
  const Index rows = queries * query_heads / key_heads;
  return rows * (detail::rounded_up(d, 16) + 16) + detail::GatheredRows<Real>::room(rows, dv);
}

/// Attention of a few queries (a token, or a handful of guesses) by keys and values as they lie in
/// the stretches of a cache, on this thread. Of the call, k and v are not looked at; its `offset`
/// is the position of the first query, where there is more than one stretch. `room` is for scratch,
/// aligned to a vector. Allocates nothing.
template <class Real, class Stored>
void attention_step(const AttentionRule<Real>& rule, const AttentionCall<Real>& call,
                    std::span<const CacheView<Stored>> cache, Real* room) noexcept {
  using namespace detail;
  const Decoding<Real, Stored> work(rule, call, cache);
  const auto part = GatheredRows<Real>::at(room, work.rows, work.dv);
  Real* const q = room + GatheredRows<Real>::room(work.rows, work.dv);
  auto* const all = reinterpret_cast<Running<Real>*>(q + work.rows * rounded_up(work.d, 16));
  for (Index h = 0; h < rule.key_heads; ++h) {
    work.take_queries(h, q);
    work.start(h, all);
    for (Index n = 0, chunks = work.chunks(); n < chunks; ++n) {
      work.attend(h, n, q, part);
      work.take_in(h, part, all);
    }
    work.finish(h, all);
  }
}

/// How much room attention_decode needs, in numbers, for `keys` in at most `stretches`.
template <class Real>
constexpr Index attention_decode_room(Index queries, Index query_heads, Index key_heads, Index keys,
                                      Index d, Index dv, Index stretches = 1) {
  const Index chunks = keys / detail::decode_chunk + stretches;
  const Index rows = queries * query_heads / key_heads;
  return key_heads * (rows * (detail::rounded_up(d, 16) + 16) +
                      chunks * detail::GatheredRows<Real>::room(rows, dv));
}

/// The same bits, worked out by as many threads as are allowed.
template <class Real, class Stored>
void attention_decode(const AttentionRule<Real>& rule, const AttentionCall<Real>& call,
                      std::span<const CacheView<Stored>> cache, Real* room) noexcept {
  using namespace detail;
  const Decoding<Real, Stored> work(rule, call, cache);
  const Index chunks = work.chunks(), q_size = work.rows * rounded_up(work.d, 16);
  const Index part_size = GatheredRows<Real>::room(work.rows, work.dv);
  Real* const queries = room + rule.key_heads * chunks * part_size;
  for (Index h = 0; h < rule.key_heads; ++h) work.take_queries(h, queries + h * q_size);
  const auto part = [&](Index h, Index n) {
    return GatheredRows<Real>::at(room + (h * chunks + n) * part_size, work.rows, work.dv);
  };
  const Index passes = 1 + work.rows / 8;
  const double ns = 0.04 * static_cast<double>(work.c.k.rows * rule.key_heads) *
                    static_cast<double>(work.d + work.dv) * static_cast<double>(sizeof(Stored)) /
                    4 * static_cast<double>(passes);
  parallel_for(rule.key_heads * chunks, ns, [&](Index i) {
    work.attend(i / chunks, i % chunks, queries + i / chunks * q_size,
                part(i / chunks, i % chunks));
  });
  auto* const all = reinterpret_cast<Running<Real>*>(queries + rule.key_heads * q_size);
  for (Index h = 0; h < rule.key_heads; ++h) {
    work.start(h, all);
    for (Index n = 0; n < chunks; ++n) work.take_in(h, part(h, n), all);
    work.finish(h, all);
  }
}
template <class Real, class Stored>
void attention_decode(const AttentionRule<Real>& rule, const AttentionCall<Real>& call,
                      const CacheView<Stored>& cache, Real* room) noexcept {
  attention_decode(rule, call, std::span<const CacheView<Stored>>(&cache, 1), room);
}

}  // namespace limen::inline LIMEN_ABI
