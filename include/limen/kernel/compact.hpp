#pragma once
/// @file  Rows that leave a batch: those that stay close up, in order.
///
///   compact_rows      x_i = x_{kept[i]}     in place
///   compact_values    the same of numbers, counters, states: one for each row
///   compact_offsets   where each sequence begins among the rows that stay
///
/// `kept` ascends and lists each row once, so kept[i] >= i: nothing is overwritten before it is
/// read.

#include <cstring>
#include <type_traits>

#include <limen/core/matrix.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
/// f(to, from, n) for each run of neighbours in `kept` that has to move.
template <class F>
LIMEN_INLINE void for_each_moved_run(const Index* kept, Index count, F f) {
  for (Index i = 0; i < count;) {
    const Index first = i, from = kept[i];
    while (i < count && kept[i] - from == i - first) ++i;
    if (from != first) f(first, from, i - first);
  }
}
}  // namespace detail

/// x [T x D]; its first `count` rows are those that stay.
template <class Real>
void compact_rows(MatrixView<Real> x, const Index* kept, Index count) noexcept {
  detail::for_each_moved_run(kept, count, [&](Index to, Index from, Index n) {
    if (x.stride == x.cols) {
      std::memmove(x.row(to), x.row(from), static_cast<std::size_t>(n * x.cols) * sizeof(Real));
    } else {
      for (Index i = 0; i < n; ++i) {
        std::memmove(x.row(to + i), x.row(from + i),
                     static_cast<std::size_t>(x.cols) * sizeof(Real));
      }
    }
  });
}

template <class T>
  requires std::is_trivially_copyable_v<T> && std::is_copy_assignable_v<T>
void compact_values(T* values, const Index* kept, Index count) noexcept {
  Index i = 0;
  while (i < count && kept[i] == i) ++i;
  for (; i < count; ++i) values[i] = values[kept[i]];  // short: no call for each run
}

/// offsets [B + 1] of B sequences.
inline void compact_offsets(Index* offsets, Index sequences, const Index* kept,
                            Index count) noexcept {
  Index i = 0;
  for (Index b = 1; b <= sequences; ++b) {
    while (i < count && kept[i] < offsets[b]) ++i;
    offsets[b] = i;
  }
}

}  // namespace limen::inline LIMEN_ABI
