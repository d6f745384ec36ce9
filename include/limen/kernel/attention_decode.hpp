#pragma once
/// @file  Attention of a few queries against a long cache: keys and values are read once, as they
/// lie, in float or bfloat16.
///
/// The query heads that share a key head go together. Keys are cut into chunks, which threads
/// share; the parts of a softmax are then put together in the order of the chunks:
///
///   L = log Σ_c e^{L_c},   y = Σ_c e^{L_c - L} y_c

#include <limen/core/bfloat16.hpp>
#include <limen/kernel/attention.hpp>

namespace limen::inline LIMEN_ABI {

/// A cache of keys and values of one sequence: head h, key j at keys[h head + j row].
template <class Stored>
struct CacheView {
  const Stored* keys;
  const Stored* values;
  Index size;                  ///< Tk
  Index key_row, value_row;    ///< numbers from one key to the next
  Index key_head, value_head;  ///< numbers from one head to the next
};

namespace detail {

/// Keys of a chunk: enough work to share, few enough that scores stay in the L1 cache.
inline constexpr Index decode_chunk = 512;
/// Rows (queries and heads of a group) that are looked at together.
inline constexpr Index decode_rows = 4;

/// s[r][j] = q_r · k_j for R rows of queries (contiguous, d wide) and n keys.
template <int R, class Real, class Stored>
LIMEN_NOINLINE void few_scores(const Real* q, Index d, const Stored* k, Index k_row, Index n,
                               Real* s, Index s_row) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr Index ahead = 16;  // keys
  constexpr int K = lanes >= 4 ? 4 : 1;
  const auto some = [&](Index j, auto keys) __attribute__((always_inline)) {
    constexpr int count = decltype(keys)::value;
    V sum[R][count];
    LIMEN_UNROLL for (int r = 0; r < R; ++r) {
      LIMEN_UNROLL for (int i = 0; i < count; ++i) sum[r][i] = V(Real(0));
    }
    const auto advance = [&](Index c, auto load) __attribute__((always_inline)) {
      V left[R];
      LIMEN_UNROLL for (int r = 0; r < R; ++r) left[r] = load(q + r * d + c);
      LIMEN_UNROLL for (int i = 0; i < count; ++i) {
        const V right = load(k + (j + i) * k_row + c);
        LIMEN_UNROLL for (int r = 0; r < R; ++r) sum[r][i] = simd::fma(left[r], right, sum[r][i]);
      }
    };
    LIMEN_UNROLL for (int i = 0; i < count; ++i) {
      for (Index c = 0; c < d; c += 64 / static_cast<Index>(sizeof(Stored))) {
        simd::prefetch(k + (j + i + ahead) * k_row + c);
      }
    }
    Index c = 0;
    for (; c + lanes <= d; c += lanes) {
      advance(c, [](const auto* p) __attribute__((always_inline)) { return simd::load<V>(p); });
    }
    if (c < d) {
      const Index rest = d - c;
      advance(c, [rest](const auto* p)
                     __attribute__((always_inline)) { return simd::load<V>(p, rest); });
    }
    LIMEN_UNROLL for (int r = 0; r < R; ++r) {
      if constexpr (count == 4) {
        simd::store(s + r * s_row + j, simd::reduce_add_each<4>(sum[r]), 4);
      } else {
        LIMEN_UNROLL for (int i = 0; i < count; ++i) {
          s[r * s_row + j + i] = simd::reduce_add(sum[r][i]);
        }
      }
    }
  };
  Index j = 0;
  for (; j + K <= n; j += K) some(j, std::integral_constant<int, K>{});
  for (; j < n; ++j) some(j, std::integral_constant<int, 1>{});
}

/// y[r] += Σ_j p[r][j] v_j
template <int R, class Real, class Stored>
LIMEN_NOINLINE void few_values(const Real* p, Index p_row, const Stored* v, Index v_row, Index n,
                               Real* y, Index y_row, Index dv) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, ahead = 16;
  constexpr int C = 4;  // vectors of a row at once
  const auto columns = [&](Index c, auto count, auto load,
                           auto store) __attribute__((always_inline)) {
    constexpr int vectors = decltype(count)::value;
    V sum[R][vectors];
    LIMEN_UNROLL for (int r = 0; r < R; ++r) {
      LIMEN_UNROLL for (int i = 0; i < vectors; ++i) sum[r][i] =
          load(y + r * y_row + c + i * lanes);
    }
    for (Index j = 0; j < n; ++j) {
      const Stored* row = v + j * v_row + c;
      LIMEN_UNROLL for (int i = 0;
                        i < vectors * static_cast<int>(sizeof(Stored)) * static_cast<int>(lanes);
                        i += 64) {
        simd::prefetch(row + ahead * v_row + i / static_cast<int>(sizeof(Stored)));
      }
      LIMEN_UNROLL for (int i = 0; i < vectors; ++i) {
        const V right = load(row + i * lanes);
        LIMEN_UNROLL for (int r = 0; r < R; ++r) {
          sum[r][i] = simd::fma(V(p[r * p_row + j]), right, sum[r][i]);
        }
      }
    }
    LIMEN_UNROLL for (int r = 0; r < R; ++r) {
      LIMEN_UNROLL for (int i = 0; i < vectors; ++i)
          store(y + r * y_row + c + i * lanes, sum[r][i]);
    }
  };
  const auto load = [](const auto* x) __attribute__((always_inline)) { return simd::load<V>(x); };
  const auto store = [](Real* x, const V& value)
                         __attribute__((always_inline)) { simd::store(x, value); };
  Index c = 0;
  for (; c + C * lanes <= dv; c += C * lanes) {
    columns(c, std::integral_constant<int, C>{}, load, store);
  }
  for (; c + lanes <= dv; c += lanes) columns(c, std::integral_constant<int, 1>{}, load, store);
  if (c < dv) {
    const Index rest = dv - c;
    columns(
        c, std::integral_constant<int, 1>{},
        [rest](const auto* x) __attribute__((always_inline)) { return simd::load<V>(x, rest); },
        [rest](Real* x, const V& value)
            __attribute__((always_inline)) { simd::store(x, value, rest); });
  }
}

/// f.template operator()<R>() for R = n, at most decode_rows.
template <class F>
void with_rows(Index n, F&& f) {
  if (n >= 4) return f.template operator()<4>();
  if (n == 3) return f.template operator()<3>();
  if (n == 2) return f.template operator()<2>();
  f.template operator()<1>();
}

/// Keys j0 .. j1 of one key head for all rows: row r is query r / group of the group's head
/// r % group.
template <class Real, class Stored>
void attend_chunk(const AttentionRule<Real>& rule, const AttentionCall<Real>& c,
                  const CacheView<Stored>& cache, Index head, Index j0, Index j1, const Real* q,
                  Real* s, Running<Real>* running, Real* y, Index y_row) noexcept {
  const Index group = rule.query_heads / rule.key_heads, rows = group * c.q.rows;
  const Index d = c.q.cols / rule.query_heads, dv = c.y.cols / rule.query_heads;
  const Stored* const k = cache.keys + head * cache.key_head;
  const Stored* const v = cache.values + head * cache.value_head;
  const bool as_it_is = plain(rule, c);
  for (Index r = 0; r < rows; r += decode_rows) {
    const Index n = std::min(decode_rows, rows - r);
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
      running[r + i].add(row, padded);  // what was gathered before is nothing
    }
    with_rows(n, [&]<int R>() {
      few_values<R>(s, decode_chunk, v + all.begin * cache.value_row, cache.value_row, count,
                    y + r * y_row, y_row, dv);
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

}  // namespace detail

/// How much room attention_decode needs, in numbers.
template <class Real>
constexpr Index attention_decode_room(Index queries, Index query_heads, Index key_heads, Index keys,
                                      Index d, Index dv) {
  const Index chunks = (keys + detail::decode_chunk - 1) / detail::decode_chunk;
  const Index rows = queries * query_heads / key_heads, wide = detail::rounded_up(dv, 16);
  return key_heads * (rows * detail::rounded_up(d, 16) +
                      chunks * (rows * (wide + 16) + detail::decode_rows * detail::decode_chunk));
}

/// Attention of a few queries (a token, or a handful of guesses) by keys and values as they lie in
/// `cache`; of the call, k and v say only how many keys there are. `room` is for scratch, see
/// attention_decode_room. Allocates nothing.
template <class Real, class Stored>
void attention_decode(const AttentionRule<Real>& rule, AttentionCall<Real> c,
                      const CacheView<Stored>& cache, Real* room) noexcept {
  using namespace detail;
  const Index group = rule.query_heads / rule.key_heads, rows = group * c.q.rows;
  const Index d = c.q.cols / rule.query_heads, dv = c.y.cols / rule.query_heads;
  c.k.rows = c.v.rows = cache.size;
  const Index chunks = std::max(Index{1}, parts(cache.size, decode_chunk));
  const Index wide = rounded_up(dv, Index{16}), per_chunk = rows * (wide + 16);
  const Index q_size = rows * rounded_up(d, Index{16});
  Real* const queries = room;
  Real* const gathered = queries + rule.key_heads * q_size;
  Real* const scores = gathered + rule.key_heads * chunks * per_chunk;
  const Real scale = scale_of(rule, d) * math::detail::log2_e<Real>;
  for (Index h = 0; h < rule.key_heads; ++h) {
    for (Index r = 0; r < rows; ++r) {
      copy_scaled(c.q.row(r / group) + (h * group + r % group) * d, queries + h * q_size + r * d, d,
                  scale);
    }
  }
  const double ns = 0.04 * static_cast<double>(cache.size * rule.key_heads * (d + dv)) *
                    static_cast<double>(sizeof(Stored)) / 4 * static_cast<double>(1 + rows / 8);
  static_assert(sizeof(Running<Real>) <= 16 * sizeof(Real));
  const auto part_of = [&](Index h, Index chunk) {
    return gathered + (h * chunks + chunk) * per_chunk;
  };
  parallel_for(rule.key_heads * chunks, ns, [&](Index task) {
    const Index h = task / chunks, chunk = task % chunks;
    Real* const y = part_of(h, chunk);
    auto* const running = reinterpret_cast<Running<Real>*>(y + rows * wide);
    std::fill(y, y + rows * wide, Real(0));
    std::fill(running, running + rows, Running<Real>{});
    attend_chunk(rule, c, cache, h, chunk * decode_chunk,
                 std::min(cache.size, (chunk + 1) * decode_chunk), queries + h * q_size,
                 scores + task * decode_rows * decode_chunk, running, y, wide);
  });
  for (Index h = 0; h < rule.key_heads; ++h) {
    for (Index r = 0; r < rows; ++r) {
      const Index head = h * group + r % group, i = r / group;
      Real* const y = c.y.row(i) + head * dv;
      std::fill(y, y + dv, Real(0));
      Running<Real> all = at_start(rule, head);
      for (Index chunk = 0; chunk < chunks; ++chunk) {
        const Real* const part = part_of(h, chunk);
        merge(all, y, reinterpret_cast<const Running<Real>*>(part + rows * wide)[r],
              part + r * wide, dv);
      }
      scale_row(y, dv, all.sum > 0 ? 1 / all.sum : Real(0));
      if (c.lse != nullptr) c.lse[i * rule.query_heads + head] = all.lse();
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
