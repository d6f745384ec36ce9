#pragma once
/// @file  A recurrent layer that thinks about each row: x_t again and again, from rest.
///
///   s_{t,n} = L(x_t, state_{n-1}),  n = 1..N       x [T x in]  ->  s [T N x out], row t N + n - 1
///
/// What ACT and PonderNet share. All steps at once for training; for use, in lockstep over the rows
/// that are still there, which close up when others leave.

#include <algorithm>
#include <utility>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/compact.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Offsets of `rows` sequences of N rows each.
inline Buffer<Index> equal_offsets(Index rows, Index n) {
  Buffer<Index> offsets(rows + 1);
  for (Index t = 0; t <= rows; ++t) offsets[t] = t * n;
  return offsets;
}
template <class State>
Batch<State> from_rest_at(const Buffer<Index>& offsets, Context* context) {
  return Batch<State>(
      std::span<const Index>(offsets.data(), static_cast<std::size_t>(offsets.size())), context);
}

/// Each row N times in a row.
template <class Real, Index D>
Sequence<Real, D> repeat_rows(SequenceView<Real, D> x, Index n) {
  Sequence<Real, D> y(x.rows() * n);
  for (Index t = 0; t < x.rows(); ++t) {
    for (Index i = 0; i < n; ++i) std::copy_n(x.row(t).data(), D, y.row_data(t * n + i));
  }
  return y;
}

/// Its way back: sums of N rows.
template <class Real, Index D>
Sequence<Real, D> sum_repeats(const Sequence<Real, D>& dy, Index n) {
  auto dx = Sequence<Real, D>::zeros(n == 0 ? 0 : dy.rows() / n);
  for (Index t = 0; t < dx.rows(); ++t) {
    for (Index i = 0; i < n; ++i) {
      add_rows<Real>(middle_rows(dy, t * n + i, 1).matrix(), dx.matrix().middle_rows(t, 1));
    }
  }
  return dx;
}

/// Up to `most` steps of all rows: halt(t, i, n, s) looks at s_{t,n}, which belongs to row t and is
/// the i-th still there, and says whether the row is done. `moved(kept, stay)` is told who stays.
/// False after an error of the layer.
template <class L, class Halt, class Moved>
bool ponder(const L& layer, SequenceView<typename L::Scalar, L::in> x, Index most, Context* context,
            Halt halt, Moved moved) {
  using State = typename L::State;
  const Index rows = x.rows();
  auto live = x.copy();
  Buffer<State> states(rows);
  Buffer<Index> id(rows), kept(rows);
  const auto steps = equal_offsets(rows, 1);
  for (Index t = 0; t < rows; ++t) {
    states[t] = State{};
    id[t] = t;
  }
  Index count = rows;
  for (Index n = 1; n <= most && count > 0; ++n) {
    const auto some = static_cast<std::size_t>(count);
    const auto s =
        layer.forward(middle_rows(live, 0, count),
                      Batch<State>(std::span<State>(states.data(), some),
                                   std::span<const Index>(steps.data(), some + 1), context));
    if (!LIMEN_EXCEPTIONS && s.rows() != count) return false;
    Index stay = 0;
    for (Index i = 0; i < count; ++i) {
      if (!halt(id[i], i, n, s.row(i))) kept[stay++] = i;
    }
    if (stay < count) {
      compact_rows(live.matrix(), kept.data(), stay);
      compact_values(states.data(), kept.data(), stay);
      compact_values(id.data(), kept.data(), stay);
      moved(kept.data(), stay);
      count = stay;
    }
  }
  return true;
}

}  // namespace limen::inline LIMEN_ABI::detail
