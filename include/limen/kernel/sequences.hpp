#pragma once
/// @file  The sequences of a batch in an order that lets them run side by side.
///
/// Longest first: those that still run at time t are then the first `running(t)`, so their states
/// lie side by side in one small matrix and one product serves them all. Nothing is padded, no row
/// of the batch is moved.

#include <algorithm>

#include <limen/core/batch.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>

namespace limen::inline LIMEN_ABI {

class ByLength {
 public:
  /// Every `step`-th sequence, longest first, from the `start`-th on: the share of one thread.
  template <class State>
  ByLength(const Batch<State>& batch, Index rows, Index start = 0, Index step = 1)
      : which_(batch.count()), first_(batch.count() + 1) {
    const Index count = batch.count();
    for (Index b = 0; b < count; ++b) {
      which_[b] = b;
      first_[b] = batch.begin(b);
    }
    first_[count] = count == 0 ? 0 : batch.end(count - 1, rows);
    const auto length_of = [&](Index b) { return first_[b + 1] - first_[b]; };
    if (count > 1) {
      std::sort(which_.begin(), which_.end(), [&](Index a, Index b) {
        return length_of(a) != length_of(b) ? length_of(a) > length_of(b) : a < b;
      });
    }
    for (Index i = start; i < count; i += step) which_[count_++] = which_[i];
  }

  Index count() const { return count_; }
  bool all() const { return count_ == which_.size(); }  ///< no share of a thread
  Index which(Index i) const { return which_[i]; }      ///< its place in the batch
  Index first(Index i) const { return first_[which_[i]]; }
  Index length(Index i) const { return first_[which_[i] + 1] - first_[which_[i]]; }
  Index longest() const { return count_ == 0 ? 0 : length(0); }

  /// f(t, n) for t = 0, 1, ...: n sequences run.
  template <class F>
  void forwards(F&& f) const {
    Index n = count_;
    for (Index t = 0; t < longest(); ++t) {
      while (length(n - 1) <= t) --n;
      f(t, n);
    }
  }
  /// f(t, n) for t = ..., 1, 0.
  template <class F>
  void backwards(F&& f) const {
    Index n = 0;
    for (Index t = longest() - 1; t >= 0; --t) {
      while (n < count_ && length(n) > t) ++n;
      f(t, n);
    }
  }

 private:
  Buffer<Index> which_, first_;
  Index count_ = 0;
};

/// f(sequences) for all sequences of the batch, or for a share of them on each thread.
template <class State, class F>
void share_sequences(const Batch<State>& batch, Index rows, double work_ns, F&& f) {
  const Index threads = Threads::allowed() < batch.count() ? Threads::allowed() : batch.count();
  if (threads <= 1) {
    f(ByLength(batch, rows));
  } else {
    parallel_for(threads, work_ns, [&](Index i) { f(ByLength(batch, rows, i, threads)); });
  }
}

}  // namespace limen::inline LIMEN_ABI
