#pragma once
/// @file  Attention of the sequences of a batch, each to what it held and to its own rows.
///
/// With `first` rows that are seen for ever (Xiao et al., "Efficient Streaming Language Models with
/// Attention Sinks", arXiv:2309.17453) and a window of W, a row sees rows 0 .. first - 1 and the
/// last W. Positions count what is seen, not what was: to the row at t the first rows look as near
/// as if nothing lay between them and the window. So their scores come from queries turned to
/// position min(t, first + W - 1), and the two parts are put together:
///
///   L = log(e^{L_1} + e^{L_2}),   y = e^{L_1 - L} y_1 + e^{L_2 - L} y_2

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include <limen/core/sequence.hpp>
#include <limen/kernel/attention.hpp>
#include <limen/kernel/attention_backward.hpp>
#include <limen/kernel/attention_decode.hpp>
#include <limen/kernel/rope.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <class Real>
struct Attending {
  AttentionRule<Real> rule;
  Index first = 0;     ///< rows that are seen for ever
  RopeRule rope = {};  ///< how queries were turned; width 0: not

  Index d(Index cols) const { return cols / rule.query_heads; }

  /// From position t to min(t, first + W - 1), or back: rows x at positions `seen` and on.
  void to_first(MatrixView<Real> x, std::int64_t seen, double sign) const noexcept {
    const std::int64_t limit = first + rule.window - 1;
    const Index near = static_cast<Index>(std::clamp<std::int64_t>(limit + 1 - seen, 0, x.rows));
    if (rope.width == 0 || near == x.rows) return;
    RopeRule turn = rope;
    turn.scale = 1;
    limen::rope(turn, limit - seen - near, -1, sign, x.middle_rows(near, x.rows - near));
  }
  /// `to`: a copy of queries x at positions `seen` and on, as the first rows meet them.
  void copy_to_first(MatrixView<const Real> x, std::int64_t seen, MatrixView<Real> to) const {
    for (Index t = 0; t < x.rows; ++t) std::copy_n(x.row(t), x.cols, to.row(t));
    to_first(to, seen, 1);
  }
  AttentionRule<Real> rule_of_first() const {
    AttentionRule<Real> r = rule;
    r.window = 0;
    r.sinks = nullptr;  // it takes part once
    return r;
  }
};

/// Rows of one sequence in q, and in k and v, where what was held comes first.
struct SequenceRows {
  Index row, rows, key, keys;
  std::int64_t seen;                   ///< position of the first row
  const std::uint8_t* keep = nullptr;  ///< its mask, as AttentionCall has it
  Index keep_head = 0, keep_block = 1;

  Index first_keys(Index first) const { return std::min(first, keys); }
};

/// Rows of q, and of k if there is one, to their positions (sign 1) or back (-1).
template <class Real>
void turn_rows(const RopeRule& rule, std::span<const SequenceRows> sequences, double sign,
               MatrixView<Real> q, std::type_identity_t<MatrixView<Real>> k = {}) {
  for (const auto& s : sequences) {
    limen::rope(rule, s.seen, 1, sign, q.middle_rows(s.row, s.rows), k.middle_rows(s.row, s.rows));
  }
}

/// y <- both parts, L <- of both. Rows of H heads, d wide.
template <class Real>
void merge_parts(Index H, MatrixView<Real> y, Real* lse, MatrixView<const Real> y2,
                 const Real* lse2) noexcept {
  const Index d = y.cols / H;
  for (Index t = 0; t < y.rows; ++t) {
    for (Index h = 0; h < H; ++h) {
      Real &a = lse[t * H + h], b = lse2[t * H + h];
      const Real most = std::max(a, b);
      if (most == minus_infinity<Real>) continue;  // both are zeros
      const Real all = most + std::log(std::exp(a - most) + std::exp(b - most));
      const simd::Vec<Real> left(std::exp(a - all)), right(std::exp(b - all));
      Real* const to = y.row(t) + h * d;
      const Real* const from = y2.row(t) + h * d;
      simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
        store(to + c, simd::fma(load(to + c), left, load(from + c) * right));
      });
      a = all;
    }
  }
}

/// Objects in memory of the pool.
template <class T>
class PooledList {
 public:
  explicit PooledList(Index most) : values_(most) {}
  void add(const T& value) { std::construct_at(values_.data() + count_++, value); }
  std::span<const T> span() const { return {values_.data(), static_cast<std::size_t>(count_)}; }

 private:
  static_assert(std::is_trivially_destructible_v<T>);
  Buffer<T> values_;
  Index count_ = 0;
};

template <class Real>
AttentionCall<Real> call_of(const SequenceRows& s, Index H, MatrixView<const Real> q,
                            MatrixView<const Real> k, MatrixView<const Real> v, MatrixView<Real> y,
                            Real* lse) {
  AttentionCall<Real> c;
  c.q = q.middle_rows(s.row, s.rows);
  c.k = k.middle_rows(s.key, s.keys);
  c.v = v.middle_rows(s.key, s.keys);
  c.y = y.middle_rows(s.row, s.rows);
  c.lse = lse != nullptr ? lse + s.row * H : nullptr;
  c.keep = s.keep;
  c.keep_head = s.keep_head;
  c.keep_block = s.keep_block;
  return c;
}

/// `c` for the rows behind the first, or for the first.
template <class Real>
AttentionCall<Real> behind(AttentionCall<Real> c, const SequenceRows& s, Index first) {
  const Index n = s.first_keys(first);
  c.k = c.k.middle_rows(n, s.keys - n);
  c.v = c.v.middle_rows(n, s.keys - n);
  c.offset = s.keys - s.rows - n;
  return c;
}
template <class Real>
AttentionCall<Real> of_first(AttentionCall<Real> c, const SequenceRows& s, Index first) {
  const Index n = s.first_keys(first);
  c.k = c.k.middle_rows(0, n);
  c.v = c.v.middle_rows(0, n);
  c.offset = static_cast<Index>(s.seen);
  return c;
}

/// q, y [T x H d], k, v [all keys x K d].  `lse` [T][H] is written; null only without first rows.
template <class Real>
void attend_batch(const Attending<Real>& how, std::span<const SequenceRows> sequences,
                  MatrixView<const Real> q, MatrixView<const Real> k, MatrixView<const Real> v,
                  MatrixView<Real> y, Real* lse) {
  const Index H = how.rule.query_heads, count = static_cast<Index>(sequences.size());
  PooledList<AttentionCall<Real>> calls(count);
  for (const auto& s : sequences) {
    const auto c = call_of(s, H, q, k, v, y, lse);
    calls.add(how.first > 0 ? behind(c, s, how.first) : c);
  }
  attention<Real>(how.rule, calls.span());
  if (how.first == 0) return;
  Buffer<Real> q2(q.rows * q.cols), y2(q.rows * y.cols), lse2(q.rows * H);
  const MatrixView<Real> turned{q2.data(), q.rows, q.cols, q.cols},
      part{y2.data(), q.rows, y.cols, y.cols};
  PooledList<AttentionCall<Real>> first(count);
  for (const auto& s : sequences) {
    how.copy_to_first(q.middle_rows(s.row, s.rows), s.seen, turned.middle_rows(s.row, s.rows));
    first.add(of_first(call_of<Real>(s, H, turned, k, v, part, lse2.data()), s, how.first));
  }
  attention<Real>(how.rule_of_first(), first.span());
  for (const auto& s : sequences) {
    merge_parts<Real>(H, y.middle_rows(s.row, s.rows), lse + s.row * H,
                      part.middle_rows(s.row, s.rows), lse2.data() + s.row * H);
  }
}

/// From dy and what attend_batch left in y and lse: dq, dk, dv, and dsinks [H] or null, added to.
/// Both parts know y and L of the whole, so each finds its own share of the softmax.
template <class Real>
void attend_batch_backward(const Attending<Real>& how, std::span<const SequenceRows> sequences,
                           MatrixView<const Real> q, MatrixView<const Real> k,
                           MatrixView<const Real> v, MatrixView<const Real> y_read,
                           const Real* lse_read, MatrixView<const Real> dy, MatrixView<Real> dq,
                           MatrixView<Real> dk, MatrixView<Real> dv, Real* dsinks) {
  // Of a call that comes back, y and L are only read.
  const MatrixView<Real> y{const_cast<Real*>(y_read.data), y_read.rows, y_read.cols,  // NOLINT
                           y_read.stride};
  Real* const lse = const_cast<Real*>(lse_read);  // NOLINT
  const Index H = how.rule.query_heads, count = static_cast<Index>(sequences.size());
  const auto gradient_of = [&](const SequenceRows& s, const AttentionCall<Real>& c, Index key,
                               MatrixView<Real> to) {
    AttentionGradient<Real> g;
    g.call = c;
    g.dy = dy.middle_rows(s.row, s.rows);
    g.dq = to.middle_rows(s.row, s.rows);
    g.dk = dk.middle_rows(s.key + key, c.k.rows);
    g.dv = dv.middle_rows(s.key + key, c.k.rows);
    return g;
  };
  PooledList<AttentionGradient<Real>> gradients(count);
  for (const auto& s : sequences) {
    auto c = call_of(s, H, q, k, v, y, lse);
    if (how.first > 0) c = behind(c, s, how.first);
    auto g = gradient_of(s, c, s.keys - c.k.rows, dq);
    g.dsinks = dsinks;
    gradients.add(g);
  }
  attention_backward<Real>(how.rule, gradients.span());
  if (how.first == 0) return;
  Buffer<Real> q2(q.rows * q.cols), dq2(q.rows * q.cols);
  const MatrixView<Real> turned{q2.data(), q.rows, q.cols, q.cols},
      d_turned{dq2.data(), q.rows, q.cols, q.cols};
  PooledList<AttentionGradient<Real>> first(count);
  for (const auto& s : sequences) {
    how.copy_to_first(q.middle_rows(s.row, s.rows), s.seen, turned.middle_rows(s.row, s.rows));
    const auto c = of_first(call_of<Real>(s, H, turned, k, v, y, lse), s, how.first);
    first.add(gradient_of(s, c, 0, d_turned));
  }
  attention_backward<Real>(how.rule_of_first(), first.span());
  for (const auto& s : sequences) {
    const auto rows = d_turned.middle_rows(s.row, s.rows);
    how.to_first(rows, s.seen, -1);
    for (Index t = 0; t < s.rows; ++t) {
      Real* const to = dq.row(s.row + t);
      const Real* const from = rows.row(t);
      simd::for_each<Real>(q.cols, [&](Index c, auto load, auto store) {
        store(to + c, load(to + c) + load(from + c));
      });
    }
  }
}

template <class Cache>
using stored_in = std::remove_cvref_t<decltype(*std::declval<const Cache&>().keys.data())>;

/// The last rows that were appended to a cache, against all of it, by as many threads as are
/// allowed; for caches without first rows.
template <class Real, class Cache>
void attend_cached_shared(const Attending<Real>& how, const Cache& cache, MatrixView<const Real> q,
                          MatrixView<Real> y, Real* room) noexcept {
  std::array<CacheView<stored_in<Cache>>, Cache::most_stretches> parts;
  const std::span<const CacheView<stored_in<Cache>>> all(parts.data(), cache.stretches(parts));
  AttentionCall<Real> c;
  c.q = q;
  c.y = y;
  c.offset = static_cast<Index>(cache.seen) - q.rows;
  attention_decode(how.rule, c, all, room);
}

/// How much room attend_cached needs, in numbers, for rows of H heads, d wide.
template <class Real>
constexpr Index attend_cached_room(Index rows, Index H, Index K, Index d, bool first) {
  const Index step = attention_step_room<Real>(rows, H, K, d, d);
  return first ? step + 2 * rounded_up(rows * H * d, 16) + 2 * rounded_up(rows * H, 16) : step;
}

/// The same on this thread, for any cache.
template <class Real, class Cache>
void attend_cached(const Attending<Real>& how, const Cache& cache, MatrixView<const Real> q,
                   MatrixView<Real> y, Real* room) noexcept {
  std::array<CacheView<stored_in<Cache>>, Cache::most_stretches> parts;
  const std::span<const CacheView<stored_in<Cache>>> all(parts.data(), cache.stretches(parts));
  const Index H = how.rule.query_heads;
  AttentionCall<Real> c;
  c.q = q;
  c.y = y;
  c.offset = static_cast<Index>(cache.seen) - q.rows;
  if (how.first == 0) {
    attention_step(how.rule, c, all, room);
    return;
  }
  Real* const q2 =
      room + attention_step_room<Real>(q.rows, H, how.rule.key_heads, q.cols / H, y.cols / H);
  Real* const y2 = q2 + rounded_up(q.rows * q.cols, 16);
  Real* const lse = y2 + rounded_up(q.rows * y.cols, 16);
  Real* const lse2 = lse + rounded_up(q.rows * H, 16);
  c.lse = lse;
  attention_step(how.rule, c, all.subspan(1), room);
  const MatrixView<Real> turned{q2, q.rows, q.cols, q.cols};
  how.copy_to_first(q, *c.offset, turned);
  c.q = turned;
  c.y = {y2, y.rows, y.cols, y.cols};
  c.lse = lse2;
  attention_step(how.rule_of_first(), c, all.first(1), room);
  merge_parts<Real>(H, y, lse, c.y, lse2);
}

}  // namespace limen::inline LIMEN_ABI::detail
