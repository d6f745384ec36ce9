#pragma once
/// @file  The laws of running: whole sequences, chunks, steps, batches, the inference form.

#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <limen/check/subject.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI::check {

/// Stepping is the whole sequence, one row at a time.
template <class S>
void stepping_is_forward(S& s, Index rows) {
  using X = typename S::X;
  using Y = typename S::Y;
  const X x = s.inputs(rows);
  const auto at_once = s.rest(), by_steps = s.rest();
  const Y whole = s.layer.forward(x, *at_once);
  Y stepped(rows);
  for (Index t = 0; t < rows; ++t) {
    const auto y = s.layer.step(x.row(t), *by_steps);
    std::memcpy(stepped.row_data(t), y.data(), sizeof(y.values));
  }
  s.compare_rows("stepping is forward", length(rows), stepped, whole, s.options.tolerance);
  s.compare_future("stepping is forward", length(rows), *by_steps, *at_once);
}

/// Cutting the sequence anywhere, and carrying the state over the cut, changes nothing.
template <class S>
void cutting_changes_nothing(S& s, Index rows) {
  using X = typename S::X;
  using Y = typename S::Y;
  using State = typename S::State;
  const X x = s.inputs(rows);
  const auto whole_state = s.rest();
  const Y whole = s.layer.forward(x, *whole_state);
  s.compare_rows("cutting changes nothing", length(rows) + " from rest", forward(s.layer, x), whole,
                 s.options.tolerance);
  for (Index cut = 0; cut <= rows; ++cut) {
    const auto state = s.rest();
    const std::string place = length(rows) + ", cut at " + std::to_string(cut);
    const Y head = s.layer.forward(middle_rows(x, 0, cut), *state);
    const Y tail = s.layer.forward(middle_rows(x, cut, rows - cut), *state);
    s.compare_rows("cutting changes nothing", place + ", head", head, middle_rows(whole, 0, cut),
                   s.options.tolerance);
    s.compare_rows("cutting changes nothing", place + ", tail", tail,
                   middle_rows(whole, cut, rows - cut), s.options.tolerance);
    auto kept = std::make_unique<State>(*whole_state);  // compare_future moves both on
    s.compare_future("cutting changes nothing", place, *state, *kept);
  }
}

/// What comes later does not change a bit of what came before.
template <class S>
void the_past_does_not_see_the_future(S& s, Index rows) {
  using X = typename S::X;
  using Y = typename S::Y;
  using Real = typename S::Real;
  constexpr Index in = S::in;
  constexpr Index out = S::out;
  if (rows < 2 || s.options.tokens == 1) return;
  X x = s.inputs(rows);
  const Y before = forward(s.layer, x);
  for (Index d = 0; d < in; ++d) {
    if (s.options.tokens == 0 || x(rows - 1, d) == Real(0)) {
      x(rows - 1, d) += Real(1);
    } else {
      x(rows - 1, d) = Real(0);
    }
  }
  const Y after = forward(s.layer, x);
  for (Index t = 0; t + 1 < rows; ++t) {
    for (Index d = 0; d < out; ++d) {
      s.report.compare("the past does not see the future", length(rows), t * out + d,
                       static_cast<double>(after(t, d)), static_cast<double>(before(t, d)), 0);
    }
  }
}

/// The rows of a batch are what each sequence gives alone, from states of their own.
template <class S>
void a_batch_is_its_sequences(S& s) {
  using L = typename S::Layer;
  using X = typename S::X;
  using Y = typename S::Y;
  using State = typename S::State;
  const auto& offsets = s.ragged();
  const std::size_t count = offsets.size() - 1;
  const X x = s.inputs(offsets.back());
  auto states = std::make_unique<State[]>(count), alone = std::make_unique<State[]>(count);
  for (std::size_t b = 0; b < count; ++b) {
    s.layer.forward(s.inputs(static_cast<Index>(b)), states[b]);
    alone[b] = states[b];
  }
  auto trained = std::make_unique<State[]>(count);
  std::memcpy(static_cast<void*>(trained.get()), static_cast<const void*>(states.get()),
              count * sizeof(State));
  const Y together =
      s.layer.forward(x, Batch<State>(std::span<State>(states.get(), count), offsets));
  const Y resting = s.layer.forward(x, from_rest(offsets));
  for (std::size_t b = 0; b < count; ++b) {
    const auto rows = middle_rows(x, offsets[b], offsets[b + 1] - offsets[b]);
    const std::string place = "sequence " + std::to_string(b);
    const Y one = s.layer.forward(rows, alone[b]);
    s.compare_rows("a batch is its sequences", place, one,
                   middle_rows(together, offsets[b], rows.rows()), s.options.tolerance);
    s.compare_rows("a batch is its sequences", place + " from rest", forward(s.layer, rows),
                   middle_rows(resting, offsets[b], rows.rows()), s.options.tolerance);
    s.compare_future("a batch is its sequences", place, states[b], alone[b]);
  }
  if constexpr (Trainable<L>) {
    if (!s.options.training_is_inference || s.options.random) return;
    typename L::Cache cache;
    const Y kept =
        s.layer.forward(X(x), Batch<State>(std::span<State>(trained.get(), count), offsets), cache);
    s.compare_rows("training a batch is inference", "ragged", kept, together, s.options.tolerance);
  }
  const std::vector<Index> none{0};
  if (s.layer.forward(X(), from_rest(none)).rows() != 0) {
    s.report.broke("an empty batch gives an empty output", "rows", 1, 0);
  }
}

template <class S>
void nan_stays_in_its_sequence(S& s) {
  using X = typename S::X;
  using Y = typename S::Y;
  using Real = typename S::Real;
  constexpr Index in = S::in;
  constexpr Index out = S::out;
  const auto& offsets = s.ragged();
  X x = s.inputs(offsets.back());
  const Y clean = s.layer.forward(x, from_rest(offsets));
  for (Index d = 0; d < in; ++d) x(4, d) = std::numeric_limits<Real>::quiet_NaN();  // sequence 3
  const Y y = s.layer.forward(x, from_rest(offsets));
  for (Index t = 0; t < offsets.back(); ++t) {
    if (t >= offsets[3] && t < offsets[4]) continue;
    for (Index d = 0; d < out; ++d) {
      s.report.compare("NaN stays in its sequence", "row " + std::to_string(t), t * out + d,
                       static_cast<double>(y(t, d)), static_cast<double>(clean(t, d)),
                       s.options.tolerance);
    }
  }
}

/// A step may run in an audio or control loop, also the first one that a thread takes.
template <class S>
void stepping_allocates_nothing(S& s) {
  using X = typename S::X;
  const X x = s.inputs(3);
  const auto state = s.rest();
  release_pool();
  const std::size_t before = s.allocations();
  for (Index t = 0; t < x.rows(); ++t) s.layer.step(x.row(t), *state);
  const std::size_t after = s.allocations();
  ++s.report.checks;
  if (after != before) {
    s.report.broke("stepping allocates nothing", "allocations", static_cast<double>(after - before),
                   0);
  }
}

/// The inference form computes the same, and keeps the same state.
template <class S>
void prepared_is_the_same(S& s) {
  using L = typename S::Layer;
  using X = typename S::X;
  using Y = typename S::Y;
  using State = typename S::State;
  const auto fast = prepare(s.layer);
  static_assert(std::is_same_v<typename prepared_form<L>::State, State>,
                "the inference form must keep the state of the layer it was made from");
  const X x = s.inputs(s.options.rows);
  const auto a = s.rest(), b = s.rest(), c = s.rest();
  const Y slow = s.layer.forward(x, *a);
  const Y y = fast.forward(x, *b);
  s.compare_rows("prepared is the same", "forward", y, slow, s.options.tolerance);
  s.compare_future("prepared is the same", "forward", *b, *a);
  const auto& offsets = s.ragged();
  const X many = s.inputs(offsets.back());
  s.compare_rows("prepared is the same", "ragged batch", fast.forward(many, from_rest(offsets)),
                 s.layer.forward(many, from_rest(offsets)), s.options.tolerance);
  if constexpr (Streaming<prepared_form<L>>) {
    Y stepped(s.options.rows);
    release_pool();
    const std::size_t before = s.allocations();
    for (Index t = 0; t < s.options.rows; ++t) {
      const auto row = fast.step(x.row(t), *c);
      std::memcpy(stepped.row_data(t), row.data(), sizeof(row.values));
    }
    const std::size_t after = s.allocations();
    if (after != before) {
      s.report.broke("stepping allocates nothing", "prepared", static_cast<double>(after - before),
                     0);
    }
    s.compare_rows("prepared is the same", "step", stepped, slow, s.options.tolerance);
  }
}

}  // namespace limen::inline LIMEN_ABI::check
