#pragma once
/// @file  Scores and sums of a few rows of queries against keys and values as they lie, each read
/// once for all of them.
///
///   s_rj = q_r·k_j,   y_r = Σ_j p_rj v_j

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <limen/core/bfloat16.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Rows (queries and heads of a group) that are looked at together.
inline constexpr Index decode_rows = 4;

/// Asks for numbers that will be read soon, [n] behind the next 6 KiB: of a cache that lies in
/// memory or far away a machine guesses too little by itself. They may be past the end.
template <class Stored>
LIMEN_INLINE void ask_ahead(const Stored* p, Index n) {
  const auto at = reinterpret_cast<std::uintptr_t>(p) + 6144;
  for (std::uintptr_t i = 0; i < static_cast<std::uintptr_t>(n) * sizeof(Stored); i += 64) {
    simd::prefetch(reinterpret_cast<const void*>(at + i));  // NOLINT: asked for, never read
  }
}

/// Stored numbers that come two by two, those at even places apart from those at odd ones.
template <class Stored>
inline constexpr bool stored_in_pairs = std::is_same_v<Stored, bfloat16>;

/// Puts the numbers of a row of queries [d] where those of a key come to lie.
template <class Stored, class Real>
void order_query(Real* q, Index d) noexcept {
  constexpr Index pair = 2 * simd::lanes<Real>;
  if constexpr (stored_in_pairs<Stored>) {
    for (; d >= pair; d -= pair, q += pair) {
      Real odd[pair / 2];
      for (Index i = 0; i < pair / 2; ++i) odd[i] = q[2 * i + 1];
      for (Index i = 0; i < pair / 2; ++i) q[i] = q[2 * i];
      std::copy(odd, odd + pair / 2, q + pair / 2);
    }
  }
}

/// s[r][j] = q_r · k_j for R rows of queries (contiguous, d wide, ordered) and n keys; in each row
/// up to three numbers behind them are written too.
template <int R, class Real, class Stored>
LIMEN_NOINLINE void few_scores(const Real* q, Index d, const Stored* k, Index k_row, Index n,
                               Real* s, Index s_row) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr int K = lanes >= 4 ? 4 : 1;
  for (Index j = 0; j < n; j += K) {
    const Stored* key[K];  // behind the last one it is the last one again
    LIMEN_UNROLL for (int i = 0; i < K; ++i) {
      key[i] = k + std::min(j + i, n - 1) * k_row;
      ask_ahead(key[i], d);
    }
    V sum[R * K];
    LIMEN_UNROLL for (int i = 0; i < R * K; ++i) sum[i] = V(Real(0));
    const auto advance = [&](const V* left, const V& right, int i) __attribute__((always_inline)) {
      LIMEN_UNROLL for (int r = 0; r < R; ++r) {
        sum[r * K + i] = simd::fma(left[r], right, sum[r * K + i]);
      }
    };
    const auto take = [&](V* left, Index c, Index count) __attribute__((always_inline)) {
      LIMEN_UNROLL for (int r = 0; r < R; ++r) {
        left[r] = simd::in_register(simd::load<V>(q + r * d + c, count));
      }
    };
    Index c = 0;
    if constexpr (stored_in_pairs<Stored>) {
      for (; c + 2 * lanes <= d; c += 2 * lanes) {
        V left_even[R], left_odd[R], even, odd;
        take(left_even, c, lanes);
        take(left_odd, c + lanes, lanes);
        LIMEN_UNROLL for (int i = 0; i < K; ++i) {
          simd::load_apart(key[i] + c, even, odd);
          advance(left_even, even, i);
          advance(left_odd, odd, i);
        }
      }
    }
    V left[R];
    for (; c + lanes <= d; c += lanes) {
      take(left, c, lanes);
      LIMEN_UNROLL for (int i = 0; i < K; ++i) {
        advance(left, simd::in_register(simd::load<V>(key[i] + c)), i);
      }
    }
    if (c < d) {
      take(left, c, d - c);
      LIMEN_UNROLL for (int i = 0; i < K; ++i) {
        advance(left, simd::load<V>(key[i] + c, d - c), i);
      }
    }
    if constexpr (R * K == 16 && lanes == 16) {
      alignas(64) Real each[16];
      simd::store(each, simd::reduce_add_each<16>(sum));
      LIMEN_UNROLL for (int r = 0; r < R; ++r) {
        std::memcpy(s + r * s_row + j, each + r * K, sizeof(Real) * K);
      }
    } else {
      LIMEN_UNROLL for (int r = 0; r < R; ++r) {
        simd::store(s + r * s_row + j, simd::reduce_add_each<K>(sum + r * K), K);
      }
    }
  }
}

/// y[r] = Σ_j p[r][j] v_j in N vectors of columns; Add: y[r] += that.
template <int R, int N, bool Add, class Real, class Stored, class Load, class Store>
LIMEN_INLINE void few_value_columns(const Real* p, Index p_row, const Stored* v, Index v_row,
                                    Index n, Real* y, Index y_row, Load load,
                                    Store store) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr bool in_pairs = stored_in_pairs<Stored> && N % 2 == 0;
  V sum[R][N];
  LIMEN_UNROLL for (int r = 0; r < R; ++r) {
    LIMEN_UNROLL for (int i = 0; i < N; ++i) {
      if constexpr (Add) {
        sum[r][i] = load(y + r * y_row + i * lanes);
      } else {
        sum[r][i] = V(Real(0));
      }
    }
  }
  for (Index j = 0; j < n; ++j, v += v_row) {
    ask_ahead(v, N * lanes);
    V left[R], right[N];
    LIMEN_UNROLL for (int r = 0; r < R; ++r) left[r] = simd::in_register(V(p[r * p_row + j]));
    if constexpr (in_pairs) {
      LIMEN_UNROLL for (int i = 0; i < N; i += 2) {
        simd::load_apart(v + i * lanes, right[i], right[i + 1]);
      }
    } else {
      LIMEN_UNROLL for (int i = 0; i < N; ++i) right[i] = simd::in_register(load(v + i * lanes));
    }
    LIMEN_UNROLL for (int i = 0; i < N; ++i) {
      LIMEN_UNROLL for (int r = 0; r < R; ++r) sum[r][i] = simd::fma(left[r], right[i], sum[r][i]);
    }
  }
  LIMEN_UNROLL for (int r = 0; r < R; ++r) {
    if constexpr (in_pairs) {
      LIMEN_UNROLL for (int i = 0; i < N; i += 2) {
        const V even = sum[r][i], odd = sum[r][i + 1];
        sum[r][i] = simd::zip_low(even, odd);
        sum[r][i + 1] = simd::zip_high(even, odd);
      }
    }
    LIMEN_UNROLL for (int i = 0; i < N; ++i) store(y + r * y_row + i * lanes, sum[r][i]);
  }
}

/// y[r] = Σ_j p[r][j] v_j; Add: y[r] += that.
template <int R, bool Add = false, class Real, class Stored>
LIMEN_NOINLINE void few_values(const Real* p, Index p_row, const Stored* v, Index v_row, Index n,
                               Real* y, Index y_row, Index dv) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr int most = 4;  // vectors of a row at once
  static_assert(!Add || !stored_in_pairs<Stored>, "sums are not in the order of pairs");
  const auto load = [](const auto* x) { return simd::load<V>(x); };
  const auto store = [](Real* x, const V& value) { simd::store(x, value); };
  Index c = 0;
  for (; c + most * lanes <= dv; c += most * lanes) {
    few_value_columns<R, most, Add>(p, p_row, v + c, v_row, n, y + c, y_row, load, store);
  }
  for (; c + lanes <= dv; c += lanes) {
    few_value_columns<R, 1, Add>(p, p_row, v + c, v_row, n, y + c, y_row, load, store);
  }
  if (c < dv) {
    const Index rest = dv - c;
    few_value_columns<R, 1, Add>(
        p, p_row, v + c, v_row, n, y + c, y_row,
        [rest](const auto* x) { return simd::load<V>(x, rest); },
        [rest](Real* x, const V& value) { simd::store(x, value, rest); });
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

}  // namespace limen::inline LIMEN_ABI::detail
