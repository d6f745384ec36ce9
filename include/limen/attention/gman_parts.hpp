#pragma once
/// @file  Parts of Gman: a stack of its blocks, and which rows are past and future.

#include <array>
#include <span>

#include <limen/attention/gman_block.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <class Block, Index L>
struct BlockStack {
  std::array<Block, std::size_t{L}> at;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    for (std::size_t i = 0; i < std::size_t{L}; ++i)
      f(position_names<std::size_t{L}>[i], m.at[i]...);
  }
};

/// Where the past and the future of each sequence lie, in steps.
struct GmanPlan {
  Buffer<Index> past, future;          ///< offsets [B + 1] of their rows, in rows of nodes
  Buffer<Index> past_row, future_row;  ///< row of x of each step
  Buffer<RowGroup> groups;             ///< each node: future steps listen to past ones

  GmanPlan() = default;
  GmanPlan(Index nodes, Index horizon, const Batch<NoState>& batch, Index rows) {
    const Index count = batch.count();
    past = Buffer<Index>(count + 1);
    future = Buffer<Index>(count + 1);
    past[0] = future[0] = 0;
    for (Index b = 0; b < count; ++b) {
      const Index length = batch.end(b, rows) - batch.begin(b);
      const Index ahead = length < horizon ? length : horizon;
      past[b + 1] = past[b] + (length - ahead) * nodes;
      future[b + 1] = future[b] + ahead * nodes;
    }
    past_row = Buffer<Index>(past[count] / nodes);
    future_row = Buffer<Index>(future[count] / nodes);
    Index groups_count = 0;
    for (Index b = 0; b < count; ++b) groups_count += future[b + 1] > future[b] ? nodes : 0;
    groups = Buffer<RowGroup>(groups_count);
    RowGroup* group = groups.data();
    for (Index b = 0; b < count; ++b) {
      const Index p = (past[b + 1] - past[b]) / nodes, q = (future[b + 1] - future[b]) / nodes;
      for (Index t = 0; t < p; ++t) past_row[past[b] / nodes + t] = batch.begin(b) + t;
      for (Index t = 0; t < q; ++t) future_row[future[b] / nodes + t] = batch.begin(b) + p + t;
      for (Index n = 0; q > 0 && n < nodes; ++n)
        *group++ = {future[b] + n, q, past[b] + n, p, nodes};
    }
  }
  static std::span<const Index> offsets(const Buffer<Index>& of) {
    return {of.data(), static_cast<std::size_t>(of.size())};
  }
  std::span<const RowGroup> nodes() const {
    return {groups.data(), static_cast<std::size_t>(groups.size())};
  }
};

/// f(i, t, n): row i of the nodes of some steps is node n in row t of x.
template <class F>
void each_value(const Buffer<Index>& steps, Index nodes, F&& f) {
  for (Index s = 0; s < steps.size(); ++s) {
    for (Index n = 0; n < nodes; ++n) f(s * nodes + n, steps[s], n);
  }
}

/// The batch of a part: the rows, unless the part looks at each row by itself.
template <class L>
Batch<typename L::State> rows_for(const Batch<NoState>& rows) {
  if constexpr (std::is_same_v<typename L::State, NoState>) {
    return rows;
  } else {
    return {};
  }
}

}  // namespace limen::inline LIMEN_ABI::detail
