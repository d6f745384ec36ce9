#pragma once
/// @file  The policy is asked about all rows that are there: who stays, who leaves.

#include <limen/core/sequence.hpp>
#include <limen/exit/live_rows.hpp>
#include <limen/exit/policies.hpp>
#include <limen/exit/row_scores.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Sorts the rows into live.kept and live.gone, and says how many stay. z [live.count x C]: logits,
/// h [live.count x D]: what the head looked at.
template <class Policy, class Real, Index C, Index D>
Index ask_rows(const Policy& policy, SequenceView<Real, C> z, SequenceView<Real, D> h, Index k,
               LiveRows<exit_memory<Policy>>& live) {
  Index stay = 0, gone = 0;
  const auto sort = [&](Index i, bool leave) {  // no jump: it would be guessed wrong
    live.kept[stay] = live.gone[gone] = i;
    stay += leave ? 0 : 1;
    gone += leave ? 1 : 0;
  };
  using Scores = RowScores<Real>;
  if constexpr (reads_sums<Policy, Real> && C <= Scores::most_classes) {
    Scores scores;
    for (Index first = 0; first < live.count; first += Scores::rows) {
      const Index n = std::min(Scores::rows, live.count - first);
      scores.read(z.matrix().middle_rows(first, n));
      for (Index i = 0; i < n; ++i) {
        sort(first + i, leaves_by_sums(policy, scores[i], k, live.memory_of(first + i)));
      }
    }
  } else {
    for (Index i = 0; i < live.count; ++i) {
      sort(i, leaves(policy, std::span<const Real>(z.row(i).data(), std::size_t{C}), k,
                     live.memory_of(i), std::span<const Real>(h.row(i).data(), std::size_t{D})));
    }
  }
  return stay;
}

}  // namespace limen::inline LIMEN_ABI::detail
