#pragma once
/// @file  Rows by task, so that what belongs to a task is prepared once and runs over all its rows.

#include <limen/core/memory.hpp>
#include <limen/kernel/dispatch.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// A group: the rows of one task, of all sequences or of one.
class TaskGroups {
 public:
  TaskGroups() = default;

  /// Column `column` of x holds the task, a whole number below `tasks`; what else is reported.
  template <class Real>
  TaskGroups(MatrixView<const Real> x, Index column, Index tasks, const RoutingRun& run,
             bool by_sequence)
      : task_(x.rows) {
    Buffer<std::int32_t> group_of(tasks), group(x.rows);
    const auto forget = [&] {
      for (std::int32_t& g : group_of) g = -1;
    };
    forget();
    Index groups = 0;
    for (Index b = 0, t = 0; b < run.sequences; ++b) {
      if (by_sequence) forget();
      for (const Index end = run.end(b, x.rows); t < end; ++t) {
        const Index task = whole_number(x(t, column), tasks);
        if (task < 0) {
          sound_ = bad_number("task", t, tasks, static_cast<double>(x(t, column)));
          return;
        }
        if (group_of[task] < 0) {
          task_[groups] = task;
          group_of[task] = static_cast<std::int32_t>(groups++);
        }
        group[t] = group_of[task];
      }
    }
    plan_ = Dispatch(group.data(), x.rows, 1, groups);
  }

  bool sound() const { return sound_; }
  Index count() const { return plan_.experts(); }
  Index task(Index g) const { return task_[g]; }
  /// Group g is rows begin(g) to begin(g) + size(g) where rows are by group.
  Index begin(Index g) const { return plan_.begin(g); }
  Index size(Index g) const { return plan_.count(g); }

  /// f(rows of x that group g has, in order), gathered only where others are in between.
  template <class Real, class F>
  void with_rows(Index g, MatrixView<const Real> x, F f) const {
    if (size(g) == x.rows) {
      f(x);
      return;
    }
    Buffer<Real> mine(size(g) * x.cols);
    const MatrixView<Real> to{mine.data(), size(g), x.cols, x.cols};
    gather_rows(x, plan_.rows_of(g), to);
    f(MatrixView<const Real>(to));
  }

  /// The same of rows that f changes.
  template <class Real, class F>
  void change_rows(Index g, MatrixView<Real> x, F f) const {
    if (size(g) == x.rows) {
      f(x);
      return;
    }
    Buffer<Real> mine(size(g) * x.cols);
    const MatrixView<Real> to{mine.data(), size(g), x.cols, x.cols};
    gather_rows(x, plan_.rows_of(g), to);
    f(to);
    scatter_rows(to, plan_.rows_of(g), x);
  }

 private:
  Buffer<Index> task_;  ///< of each group
  Dispatch plan_;
  bool sound_ = true;
};

}  // namespace limen::inline LIMEN_ABI::detail
