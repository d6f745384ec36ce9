#pragma once
/// @file  Where in its sequence a stream is: for layers that have parameters of each step, and so a
/// last step.
///
/// The number is part of the state, kept as a real number so that a state is numbers of one kind.

#include <string>

#include <limen/core/batch.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/tensor.hpp>

namespace limen::inline LIMEN_ABI {

/// A base of states. Not there if nobody counts.
template <class Real, bool Counts>
struct StepNumber {
  static constexpr Index step_number() { return 0; }
  void move_on(Index) {}
};
template <class Real>
struct StepNumber<Real, true> {
  Real t = 0;  ///< steps behind it

  Index step_number() const { return static_cast<Index>(t + Real(0.5)); }
  void move_on(Index steps) { t += static_cast<Real>(steps); }
};

/// Reports and says no if a sequence would go past its last step.
template <class State>
bool fits_steps(const char* who, Index steps, const Batch<State>& batch, Index rows) {
  for (Index b = 0; steps > 0 && b < batch.count(); ++b) {
    const Index first = batch.carries() ? batch[b].step_number() : 0;
    const Index last = first + batch.end(b, rows) - batch.begin(b);
    if (first >= 0 && last <= steps) continue;
    fail({std::string(who) + ": steps of sequence " + std::to_string(b),
          "at most " + std::to_string(steps), std::to_string(last)});
    return false;
  }
  return true;
}

/// f(row, t): row of the batch, step of its sequence.
template <class State, class F>
void for_each_step_number(const Batch<State>& batch, Index rows, F&& f) {
  for (Index b = 0; b < batch.count(); ++b) {
    const Index begin = batch.begin(b), first = batch.carries() ? batch[b].step_number() : 0;
    for (Index row = begin; row < batch.end(b, rows); ++row) f(row, first + row - begin);
  }
}

template <class State>
Buffer<Index> first_step_numbers(const Batch<State>& batch) {
  Buffer<Index> first(batch.count());
  for (Index b = 0; b < batch.count(); ++b) first[b] = batch.carries() ? batch[b].step_number() : 0;
  return first;
}

template <class State>
void move_step_numbers(const Batch<State>& batch, Index rows) {
  for (Index b = 0; batch.carries() && b < batch.count(); ++b) {
    batch[b].move_on(batch.end(b, rows) - batch.begin(b));
  }
}

}  // namespace limen::inline LIMEN_ABI
