#pragma once
/// @file  The loops of kernel/spike_sums.hpp: the sum of the rows that one list names.
///
///   y = start + Σ_{i in list} w_i        w [I x O], each row of whole pairs of vectors, or not
///
/// Short lists go by columns: 16 vectors of sums stay in registers while the list passes. Long ones
/// go by rows, four at a time, and the sums stay in the first-level cache: each row is then read
/// from end to end. Either way a sum starts from `start` and adds its rows in the order of the
/// list.

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <limen/core/bfloat16.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/spikes.hpp>

namespace limen::inline LIMEN_ABI {

/// Two weights as bfloat16: of the same lane in two vectors that lie side by side.
struct HalfPair {
  std::uint32_t bits = 0;

  HalfPair() = default;
  HalfPair(float low, float high)
      : bits(std::uint32_t{bfloat16(high).bits} << 16 | bfloat16(low).bits) {}
};

namespace detail {

/// Columns that are read together: two vectors.
template <class Real>
inline constexpr Index pair_width = 2 * simd::lanes<Real>;

/// Numbers of a row of `Stored` that hold two vectors.
template <class Real, class Stored>
inline constexpr Index stored_pair =
    std::is_same_v<Stored, HalfPair> ? simd::lanes<Real> : pair_width<Real>;

template <class V>
LIMEN_INLINE void load_pair(const typename V::value_type* p, V& low, V& high) {
  low = simd::load<V>(p);
  high = simd::load<V>(p + V::size);
}

/// A bfloat16 is the upper half of a float: one shift and one mask.
template <class V>
LIMEN_INLINE void load_pair(const HalfPair* p, V& low, V& high) {
#if defined(__GNUC__) && !defined(LIMEN_SCALAR)
  using N = simd::detail::Native<float, V::size>;
  if constexpr (std::is_convertible_v<V, N>) {
    simd::detail::Native<std::uint32_t, V::size> words;
    std::memcpy(&words, p, sizeof words);
    low = V(std::bit_cast<N>(words << 16));
    high = V(std::bit_cast<N>(words & 0xFFFF0000u));
    return;
  }
#endif
  alignas(64) float wide[2 * V::size];
  for (std::size_t i = 0; i < V::size; ++i) {
    wide[i] = std::bit_cast<float>(p[i].bits << 16);
    wide[V::size + i] = std::bit_cast<float>(p[i].bits & 0xFFFF0000u);
  }
  load_pair<V>(wide, low, high);
}

template <class Real, class Stored>
struct ListedSum {
  const Stored* w;  ///< row i at w[i stride]
  Index stride;
  SpikeList<Real> list;
  const Real* start;  ///< what the sums start from; null: 0
  Real* y;
  Index columns;  ///< that y has, from here on
};

/// 2 Pairs vectors of y. Ragged: w, y have `columns` columns and not one more; else w is whole.
template <class Real, class Stored, int Pairs, bool Graded, bool Ragged>
LIMEN_NOINLINE void sum_columns(const ListedSum<Real, Stored>& job) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, step = stored_pair<Real, Stored>;
  const Stored* const w = job.w;
  const Index stride = job.stride, count = job.list.count;
  const SpikeIndex* const ids = job.list.ids;
  [[maybe_unused]] const Real* const values = job.list.values;
  const auto left = [columns = job.columns](int k) __attribute__((always_inline)) {
    return columns > k * lanes ? columns - k * lanes : 0;
  };
  V sum[2 * Pairs];
  LIMEN_UNROLL for (int k = 0; k < 2 * Pairs; ++k) {
    sum[k] = job.start != nullptr ? simd::load<V>(job.start + k * lanes, left(k)) : V(Real(0));
  }
  for (Index j = 0; j < count; ++j) {
    const Stored* const row = w + static_cast<Index>(ids[j]) * stride;
    LIMEN_UNROLL for (int k = 0; k < Pairs; ++k) {
      V low, high;
      if constexpr (Ragged) {
        low = simd::load<V>(row + k * step, left(2 * k));
        high = simd::load<V>(row + k * step + lanes, left(2 * k + 1));
      } else {
        load_pair<V>(row + k * step, low, high);
      }
      if constexpr (Graded) {
        sum[2 * k] = simd::fma(V(values[j]), low, sum[2 * k]);
        sum[2 * k + 1] = simd::fma(V(values[j]), high, sum[2 * k + 1]);
      } else {
        sum[2 * k] = sum[2 * k] + low;
        sum[2 * k + 1] = sum[2 * k + 1] + high;
      }
    }
  }
  LIMEN_UNROLL for (int k = 0; k < 2 * Pairs; ++k) {
    simd::store(job.y + k * lanes, sum[k], left(k));
  }
}

/// Pairs of vectors in the widest pass: all registers but those that load.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int widest_pairs = 8;
#else
inline constexpr int widest_pairs = 4;
#endif

/// Columns first..last of all sums of a list. `Whole`: the rows of w go on to a whole pair.
template <class Real, class Stored, bool Graded, bool Whole>
LIMEN_INLINE void sum_range(ListedSum<Real, Stored> job, Index first, Index last) noexcept {
  constexpr Index pair = pair_width<Real>, step = stored_pair<Real, Stored>;
  job.w += first / pair * step;
  if (job.start != nullptr) job.start += first;
  job.y += first;
  job.columns = last - first;
  const auto pass = [&](auto pairs) __attribute__((always_inline)) {
    constexpr int n = decltype(pairs)::value;
    sum_columns<Real, Stored, n, Graded, false>(job);
    job.w += n * step;
    if (job.start != nullptr) job.start += n * pair;
    job.y += n * pair;
    job.columns -= n * pair;
  };
  constexpr Index spare = Whole ? pair - 1 : 0;  // columns that need not be there
  while (job.columns + spare >= widest_pairs * pair) {
    pass(std::integral_constant<int, widest_pairs>());
  }
  if (widest_pairs > 4 && job.columns + spare >= 4 * pair) pass(std::integral_constant<int, 4>());
  if (job.columns + spare >= 2 * pair) pass(std::integral_constant<int, 2>());
  if (job.columns + spare >= pair) pass(std::integral_constant<int, 1>());
  if constexpr (!Whole) {
    if (job.columns > 0) sum_columns<Real, Stored, 1, Graded, true>(job);
  }
}

/// Rows from which on a list is long, and columns from which on it matters: measured for 1024 x
/// 1024 on a Zen 5, where half of the rows take a fifth less time so.
inline constexpr Index long_list = 192, wide_rows = 256;

/// All columns of a long list; `columns` are whole pairs.
template <class Real, class Stored, bool Graded>
LIMEN_NOINLINE void sum_rows(const ListedSum<Real, Stored>& job, Index columns) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, pair = pair_width<Real>,
                  step = stored_pair<Real, Stored>, asked = 1024 / sizeof(Stored),
                  line = 64 / sizeof(Stored);
  constexpr int rows = 4;
  const SpikeList<Real>& list = job.list;
  Real* const y = job.y;
  for (Index c = 0; c < columns; c += lanes) {
    simd::store(y + c, job.start != nullptr ? simd::load<V>(job.start + c) : V(Real(0)));
  }
  const auto row_of = [&](Index j) { return job.w + static_cast<Index>(list.ids[j]) * job.stride; };
  const auto add = [&](auto count, Index j) __attribute__((always_inline)) {
    constexpr int n = decltype(count)::value;
    const Stored* row[n];
    V value[n];
    LIMEN_UNROLL for (int r = 0; r < n; ++r) {
      row[r] = row_of(j + r);
      if constexpr (Graded) value[r] = V(list.values[j + r]);
      if (j + r + n >= list.count) continue;
      const Stored* const next = row_of(j + r + n);
      for (Index c = 0; c < asked && c < job.stride; c += line) simd::prefetch(next + c);
    }
    for (Index c = 0, at = 0; c < columns; c += pair, at += step) {
      V low_sum = simd::load<V>(y + c), high_sum = simd::load<V>(y + c + lanes);
      LIMEN_UNROLL for (int r = 0; r < n; ++r) {
        V low, high;
        load_pair<V>(row[r] + at, low, high);
        if constexpr (Graded) {
          low_sum = simd::fma(value[r], low, low_sum);
          high_sum = simd::fma(value[r], high, high_sum);
        } else {
          low_sum = low_sum + low;
          high_sum = high_sum + high;
        }
      }
      simd::store(y + c, low_sum);
      simd::store(y + c + lanes, high_sum);
    }
  };
  Index j = 0;
  for (; j + rows <= list.count; j += rows) add(std::integral_constant<int, rows>(), j);
  for (; j < list.count; ++j) add(std::integral_constant<int, 1>(), j);
}

template <class Real, class Stored, bool Graded, bool Whole>
LIMEN_INLINE void sum_some(const ListedSum<Real, Stored>& job, Index first, Index last) noexcept {
  if constexpr (Whole) {
    if (job.list.count >= long_list && first == 0 && last >= wide_rows) {
      first = last - last % pair_width<Real>;
      sum_rows<Real, Stored, Graded>(job, first);
    }
  }
  sum_range<Real, Stored, Graded, Whole>(job, first, last);
}

/// Columns first..last of the sums of a list. `Whole`: the rows of w go on to a whole pair.
template <class Real, class Stored, bool Whole>
LIMEN_INLINE void sum_list(const ListedSum<Real, Stored>& job, Index first, Index last) noexcept {
  if (job.list.values == nullptr) {
    sum_some<Real, Stored, false, Whole>(job, first, last);
  } else {
    sum_some<Real, Stored, true, Whole>(job, first, last);
  }
}

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
