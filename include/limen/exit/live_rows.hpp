#pragma once
/// @file  Who is still there: the rows of a batch that have not left, in order, with the sequences
/// they belong to and what the policy remembers of them.

#include <type_traits>

#include <limen/core/batch.hpp>
#include <limen/core/memory.hpp>
#include <limen/kernel/compact.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// The rows that are still there.
template <class Memory>
struct LiveRows {
  Index count;
  Index sequences;
  Buffer<Index> id, kept, gone;
  Buffer<Index> offsets;  ///< none where the batch has none
  Buffer<Memory> memory;  ///< of the policy

  template <class State>
  LiveRows(Index rows, const Batch<State>& batch)
      : count(rows),
        sequences(batch.count()),
        id(rows),
        kept(rows),
        gone(rows),
        offsets(batch.offsets() == nullptr ? 0 : batch.count() + 1),
        memory(std::is_empty_v<Memory> ? 1 : rows) {
    for (Index t = 0; t < rows; ++t) id[t] = t;
    for (Index b = 0; b < offsets.size(); ++b) offsets[b] = batch.offsets()[b];
    for (Memory& m : memory) m = Memory{};
  }

  Memory& memory_of(Index i) { return memory[std::is_empty_v<Memory> ? 0 : i]; }

  void compact(Index stay) {
    compact_values(id.data(), kept.data(), stay);
    if constexpr (!std::is_empty_v<Memory>) compact_values(memory.data(), kept.data(), stay);
    if (offsets.size() > 0) compact_offsets(offsets.data(), sequences, kept.data(), stay);
    count = stay;
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
