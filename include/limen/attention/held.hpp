#pragma once
/// @file  A batch of sequences, some of which hold keys and values from before.
///
/// A few new rows (decoding, a handful of guesses) are read against the cache as it lies. Others
/// are joined to what is held in one matrix, and attended tile by tile; only then are they written
/// to the cache, since a ring would overwrite keys that the first of them still see.

#include <string>

#include <limen/attention/attend.hpp>
#include <limen/attention/editor.hpp>
#include <limen/core/batch.hpp>
#include <limen/core/error.hpp>
#include <limen/core/parallel.hpp>

namespace limen::inline LIMEN_ABI::detail {

template <class State>
inline constexpr bool holds = !std::is_empty_v<State>;
template <class State>
inline constexpr bool grows = false;
template <class State>
  requires holds<State>
inline constexpr bool grows<State> = !State::ring;

/// Reports and says no if a growing cache has not room for all new rows.
template <class State>
bool has_room(const Batch<State>& batch, Index rows) {
  if constexpr (grows<State>) {
    for (Index b = 0; batch.carries() && b < batch.count(); ++b) {
      const Index more = batch.end(b, rows) - batch.begin(b);
      if (batch[b].has_room(more)) continue;
      fail({"KV cache of sequence " + std::to_string(b),
            "at most " + std::to_string(State::config.capacity) + " tokens",
            std::to_string(batch[b].seen + more)});
      return false;
    }
  }
  return true;
}

inline std::span<const AttentionMask> masks_of(AttentionEditor* editor) {
  return editor != nullptr ? editor->next_masks() : std::span<const AttentionMask>{};
}

/// Reports and says no if there is not a mask for each sequence, each as large as what that looks
/// at.
inline bool masks_fit(std::span<const AttentionMask> masks, std::span<const SequenceRows> sequences,
                      Index heads) {
  if (masks.empty()) return true;
  if (masks.size() != 1 && masks.size() != sequences.size()) {
    fail({"attention masks", std::to_string(sequences.size()) + ", or one for all",
          std::to_string(masks.size())});
    return false;
  }
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    const auto& s = sequences[b];
    if (s.rows == 0) continue;
    if (const Status status = masks[masks.size() == 1 ? 0 : b].fits(s.rows, s.keys, heads);
        !status) {
      fail(status.error());
      return false;
    }
  }
  return true;
}
/// The same of a layer whose states hold keys that are seen besides its own rows.
template <class State>
bool masks_fit(std::span<const AttentionMask> masks, const Batch<State>& batch, Index rows,
               Index heads, Index first) {
  if (masks.empty()) return true;
  if (first > 0) {
    fail({"Attention with masks", "no rows that are seen for ever", ".first"});
    return false;
  }
  Buffer<SequenceRows> sequences(batch.count());
  for (Index b = 0; b < batch.count(); ++b) {
    const Index row = batch.begin(b), count = batch.end(b, rows) - row;
    Index held = 0;
    if constexpr (holds<State>) held = batch.carries() ? batch[b].held() : 0;
    sequences[b] = {row, count, row, held + count, 0};
  }
  return masks_fit(masks, {sequences.data(), static_cast<std::size_t>(sequences.size())}, heads);
}

/// Gives the sequences their masks, which fit.
inline void put_masks(std::span<const AttentionMask> masks, std::span<SequenceRows> sequences) {
  for (std::size_t b = 0; b < sequences.size() && !masks.empty(); ++b) {
    const auto& mask = masks[masks.size() == 1 ? 0 : b];
    sequences[b].keep = mask.keep.data();
    sequences[b].keep_head = mask.by_head ? mask.of_a_head() : 0;
    sequences[b].keep_block = mask.block;
  }
}

/// Where the rows of the batch lie, and at which position they begin.
template <class State>
Buffer<SequenceRows> rows_of(const Batch<State>& batch, Index rows) {
  Buffer<SequenceRows> sequences(batch.count());
  for (Index b = 0; b < batch.count(); ++b) {
    const Index row = batch.begin(b), count = batch.end(b, rows) - row;
    std::int64_t seen = 0;
    if constexpr (holds<State>) seen = batch.carries() ? batch[b].seen : 0;
    sequences[b] = {row, count, row, count, seen};
  }
  return sequences;
}

/// Rows of a sequence that are few enough to be read against its cache.
template <class State>
bool is_few(const State& state, Index rows) {
  constexpr Index most = State::ring ? 1 : 4;
  return rows > 0 && rows <= most && state.seen > 0;
}

/// o of the sequences with few rows, which then count as having none.
template <class Real, class State, Index Q, Index N>
void read_few(const Attending<Real>& how, const Batch<State>& batch,
              Buffer<SequenceRows>& sequences, const Sequence<Real, Q>& q,
              const Sequence<Real, N>& k, const Sequence<Real, N>& v, Sequence<Real, Q>& o) {
  if constexpr (holds<State>) {
    if (!batch.carries()) return;
    const Index H = how.rule.query_heads, K = how.rule.key_heads;
    Buffer<Index> few(batch.count());
    Index count = 0, most = 0;
    double keys = 0;
    for (Index b = 0; b < batch.count(); ++b) {
      const auto& s = sequences[b];
      if (!is_few(batch[b], s.rows)) continue;
      few[count++] = b;
      most = std::max(most, s.rows);
      batch[b].append(k.matrix().middle_rows(s.row, s.rows), v.matrix().middle_rows(s.row, s.rows));
      keys += static_cast<double>(batch[b].held());
    }
    if (count == 1 && how.first == 0 && Threads::allowed() > 1) {  // threads share its keys
      const auto& s = sequences[few[0]];
      const auto& cache = batch[few[0]];
      Buffer<Real> room(attention_decode_room<Real>(s.rows, H, K, cache.held(), Q / H, Q / H,
                                                    State::most_stretches));
      attend_cached_shared(how, cache, q.matrix().middle_rows(s.row, s.rows),
                           o.matrix().middle_rows(s.row, s.rows), room.data());
    } else {
      const Index room = rounded_up(attend_cached_room<Real>(most, H, K, Q / H, how.first > 0), 16);
      Buffer<Real> space(count * room);
      parallel_for(count, 0.1 * keys * static_cast<double>(Q), [&](Index i) {
        const auto& s = sequences[few[i]];
        attend_cached<Real>(how, batch[few[i]], q.matrix().middle_rows(s.row, s.rows),
                            o.matrix().middle_rows(s.row, s.rows), space.data() + i * room);
      });
    }
    for (Index i = 0; i < count; ++i) sequences[few[i]].rows = sequences[few[i]].keys = 0;
  }
}

/// k and v become what was held and what is new, one sequence after the other.
template <class Real, class State, Index N, Index M>
void gather_held(const Batch<State>& batch, Buffer<SequenceRows>& sequences, Sequence<Real, N>& k,
                 Sequence<Real, M>& v) {
  if constexpr (holds<State>) {
    Index all = 0, fresh = 0;
    for (Index b = 0; b < batch.count(); ++b) {
      auto& s = sequences[b];
      if (batch.carries() && s.rows > 0) s.keys += batch[b].held();
      all += s.keys;
      fresh += s.rows;
    }
    if (all == fresh) return;
    Sequence<Real, N> all_k(all);
    Sequence<Real, M> all_v(all);
    Index key = 0;
    for (Index b = 0; b < batch.count(); ++b) {
      auto& s = sequences[b];
      const Index held = s.keys - s.rows;
      if (held > 0) {
        batch[b].gather(all_k.matrix().middle_rows(key, held),
                        all_v.matrix().middle_rows(key, held));
      }
      std::copy_n(k.row_data(s.row), s.rows * N, all_k.row_data(key + held));
      std::copy_n(v.row_data(s.row), s.rows * M, all_v.row_data(key + held));
      s.key = key;
      key += s.keys;
    }
    k = std::move(all_k);
    v = std::move(all_v);
  }
}

/// Writes the new rows to the caches.
template <class Real, class State, Index N, Index M>
void remember(const Batch<State>& batch, std::span<const SequenceRows> sequences,
              const Sequence<Real, N>& k, const Sequence<Real, M>& v) {
  if constexpr (holds<State>) {
    for (Index b = 0; batch.carries() && b < batch.count(); ++b) {
      const auto& s = sequences[static_cast<std::size_t>(b)];
      const Index first = s.key + s.keys - s.rows;
      batch[b].append(k.matrix().middle_rows(first, s.rows), v.matrix().middle_rows(first, s.rows));
    }
  }
}

/// Of gradients for all rows, those of the new ones.
template <class Real, Index N>
Sequence<Real, N> of_new_rows(Sequence<Real, N> all, std::span<const SequenceRows> sequences,
                              Index rows) {
  if (all.rows() == rows) return all;
  Sequence<Real, N> x(rows);
  for (const auto& s : sequences) {
    std::copy_n(all.row_data(s.key + s.keys - s.rows), s.rows * N, x.row_data(s.row));
  }
  return x;
}

/// The softmax, as the editor would have it; false after an error.
template <class Real>
bool let_edit(const Attending<Real>& how, std::span<const SequenceRows> sequences,
              MatrixView<const Real> q, MatrixView<const Real> k, MatrixView<const Real> v,
              MatrixView<Real> y, AttentionEditor& editor) {
  if (how.first > 0) {
    fail({"Attention with an editor", "no rows that are seen for ever", ".first"});
    return false;
  }
  PooledList<AttentionCall<Real>> calls(static_cast<Index>(sequences.size()));
  for (const auto& s : sequences) {
    calls.add(call_of<Real>(s, how.rule.query_heads, q, k, v, y, nullptr));
  }
  return editor.next(how.rule, calls.span());
}

/// Tells P(token 0), which is attention to values that are 1 there and 0 elsewhere.
template <class Real, Index Q, Index N>
void tell_first_token(const Attending<Real>& how, std::span<const SequenceRows> sequences,
                      const Sequence<Real, Q>& q, const Sequence<Real, N>& k, TapListener& taps) {
  const Index H = how.rule.query_heads, K = how.rule.key_heads;
  Buffer<Real> ones(k.rows() * K), p(q.rows() * H), lse(q.rows() * H);
  std::fill(ones.begin(), ones.end(), Real(0));
  for (const auto& s : sequences) {
    const bool is_there = how.first > 0 || s.keys == s.seen + s.rows;
    if (s.rows > 0 && is_there) std::fill_n(ones.data() + s.key * K, K, Real(1));
  }
  const MatrixView<Real> shares{p.data(), q.rows(), H, H};
  attend_batch<Real>(how, sequences, q.matrix(), k.matrix(),
                     MatrixView<Real>{ones.data(), k.rows(), K, K}, shares, lse.data());
  for (const auto& s : sequences) {
    const Index skip = s.seen == 0 ? 1 : 0;
    if (s.rows > skip) taps.at("first_token", shares.middle_rows(s.row + skip, s.rows - skip));
  }
}

}  // namespace limen::inline LIMEN_ABI::detail
