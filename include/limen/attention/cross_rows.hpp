#pragma once
/// @file  Rows that read contexts which are not their own: cross_attention.hpp.
///
/// Contexts come as rows of a batch, one for each sequence or one for all, or as states, which stay
/// as they are. A few rows at a time are read against a state as it lies; for masks and editors all
/// states are joined in one matrix.

#include <algorithm>
#include <string>

#include <limen/attention/held.hpp>
#include <limen/core/layer.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <class State>
AttentionEditor* editor_of(const Batch<State>& batch) {
  return batch.context != nullptr ? batch.context->attention : nullptr;
}

/// Reports and says no if there are neither as many contexts as sequences nor one for all.
inline bool contexts_fit(const Batch<NoState>& batch, Index rows, const Batch<NoState>& contexts,
                         Index context_rows) {
  if (!batch.fits(rows) || !contexts.fits(context_rows)) return false;
  if (contexts.count() == batch.count() || contexts.count() == 1) return true;
  fail({"CrossAttention: contexts", std::to_string(batch.count()) + ", or one for all",
        std::to_string(contexts.count())});
  return false;
}

/// Which rows read which context. With one for all, all rows are one sequence: nothing tells them
/// apart.
inline Buffer<SequenceRows> rows_with_contexts(const Batch<NoState>& batch, Index rows,
                                               const Batch<NoState>& contexts, Index context_rows) {
  Buffer<SequenceRows> sequences(contexts.count());
  for (Index b = 0; b < contexts.count(); ++b) {
    const Index row = contexts.count() == 1 ? 0 : batch.begin(b);
    const Index end = contexts.count() == 1 ? rows : batch.end(b, rows);
    const Index key = contexts.begin(b), keys = contexts.end(b, context_rows) - key;
    sequences[b] = {row, end - row, key, keys, 0};
  }
  return sequences;
}

/// Gives the rows their masks, and then needs no editor; false after an error. `Keep`: for
/// backward.
template <bool Keep>
bool put_masks_of(AttentionEditor*& editor, Buffer<SequenceRows>& rows, Index heads) {
  const std::span<SequenceRows> sequences(rows.data(), static_cast<std::size_t>(rows.size()));
  const auto masks = masks_of(editor);
  if (!masks_fit(masks, sequences, heads)) return false;
  put_masks(masks, sequences);
  if (!masks.empty()) editor = nullptr;
  if (!Keep || editor == nullptr) return true;
  fail({"CrossAttention with an editor", "inference", "training"});
  return false;
}

/// y as masks, which the rows have, or an editor would have it; false after an error.
template <class Real>
bool attend_contexts(const Attending<Real>& how, const Buffer<SequenceRows>& rows,
                     MatrixView<const Real> q, MatrixView<const Real> k, MatrixView<const Real> v,
                     MatrixView<Real> y, Real* lse, AttentionEditor* editor) {
  const std::span sequences(rows.data(), static_cast<std::size_t>(rows.size()));
  if (editor != nullptr) return let_edit<Real>(how, sequences, q, k, v, y, *editor);
  attend_batch<Real>(how, sequences, q, k, v, y, lse);
  return true;
}

/// The same of contexts that are states, joined; false after an error.
template <class Real, class State>
bool attend_joined(const Attending<Real>& how, const Batch<State>& batch, MatrixView<const Real> q,
                   MatrixView<Real> y) {
  const Index width = q.cols / how.rule.query_heads * how.rule.key_heads;
  Buffer<SequenceRows> sequences(batch.count());
  Index keys = 0;
  for (Index b = 0; b < batch.count(); ++b) {
    const Index row = batch.begin(b), held = batch[b].held();
    sequences[b] = {row, batch.end(b, q.rows) - row, keys, held, 0};
    keys += held;
  }
  AttentionEditor* editor = editor_of(batch);
  if (!put_masks_of<false>(editor, sequences, how.rule.query_heads)) return false;
  Buffer<Real> key_space(keys * width), value_space(keys * width);
  const MatrixView<Real> k{key_space.data(), keys, width, width},
      v{value_space.data(), keys, width, width};
  for (Index b = 0; b < batch.count(); ++b) {
    const auto& s = sequences[b];
    batch[b].gather(k.middle_rows(s.key, s.keys), v.middle_rows(s.key, s.keys));
  }
  return attend_contexts<Real>(how, sequences, q, k, v, y, nullptr, editor);
}

/// y, which is 0, of rows that read states; a batch without states leaves it. False after an error.
template <class Real, class State>
bool attend_states(const Attending<Real>& how, const Batch<State>& batch, MatrixView<const Real> q,
                   MatrixView<Real> y) {
  if (!batch.carries()) return true;
  if (editor_of(batch) != nullptr) return attend_joined(how, batch, q, y);
  constexpr Index handful = 4;
  const Index H = how.rule.query_heads, K = how.rule.key_heads;
  const Index room = rounded_up(attend_cached_room<Real>(handful, H, K, q.cols / H, false), 16);
  for (Index b = 0; b < batch.count(); ++b) {
    const Index first = batch.begin(b), rows = batch.end(b, q.rows) - first;
    const Index parts = (rows + handful - 1) / handful;
    Buffer<Real> space(parts * room);
    parallel_for(parts, 0.1 * static_cast<double>(rows * batch[b].seen * q.cols), [&](Index i) {
      const Index t = first + i * handful, count = std::min(handful, first + rows - t);
      attend_cached<Real>(how, batch[b], q.middle_rows(t, count), y.middle_rows(t, count),
                          space.data() + i * room);
    });
  }
  return true;
}

/// y from probabilities that `edit` may change; false after an error.
template <class Real, class Edit>
bool attend_edited(const Attending<Real>& how, const Buffer<SequenceRows>& sequences,
                   MatrixView<const Real> q, MatrixView<const Real> k, MatrixView<const Real> v,
                   MatrixView<Real> y, Edit& edit) {
  PooledList<AttentionCall<Real>> calls(sequences.size());
  for (const auto& s : sequences) {
    calls.add(call_of<Real>(s, how.rule.query_heads, q, k, v, y, nullptr));
  }
  return read_edited(how.rule, calls.span(), edit);
}

}  // namespace limen::inline LIMEN_ABI::detail
