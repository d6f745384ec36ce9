#pragma once
/// @file  Batch: which rows belong to which sequence, and what each sequence remembers.
///
/// The rows of all sequences lie back to back in one [T x D] matrix; offsets {0, 3, 3, 10} say that
/// the first has three rows, the second none, the third seven. No padding. Layers without memory
/// look at rows only and never ask the batch.
///
///     layer.forward(x, state)                    one sequence
///     layer.forward(x, {})                       one sequence from rest, its end not kept
///     layer.forward(x, {states, offsets})        many
///     layer.forward(x, from_rest(offsets))       many, from rest
///     layer.forward(x, {states, steps})          many, one row each: `steps` is 0, 1, 2, ...
///
/// In `backward` the same object carries gradients: in, those of the last states; out, those of the
/// first. What a run needs besides travels in its Context.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/matrix.hpp>

namespace limen::inline LIMEN_ABI {

class Random;
class AttentionEditor;  // attention/editor.hpp
struct GraphRun;        // kernel/graph.hpp

/// Sees, and may edit, the activations that pass a Tap, and in backward their gradients.
class TapListener {
 public:
  virtual void at(std::string_view name, MatrixView<float> rows) = 0;
  virtual void at(std::string_view name, MatrixView<double> rows) = 0;
  /// The gradient of what `at` left behind, on its way back.
  virtual void back_at(std::string_view, MatrixView<float>) {}
  virtual void back_at(std::string_view, MatrixView<double>) {}

 protected:
  ~TapListener() = default;
};

/// What one run has besides its data. All optional.
struct Context {
  Random* random = nullptr;         ///< for layers that draw in training; without it they do not
  TapListener* taps = nullptr;      ///< for Tap layers
  const GraphRun* graph = nullptr;  ///< for layers along edges
  AttentionEditor* attention = nullptr;  ///< for layers of attention, in inference
};

namespace detail {

/// Empty if `offsets` starts at 0 and does not descend.
inline std::string offsets_fault(std::span<const Index> offsets) {
  if (offsets.empty() || offsets[0] != 0) return "offsets that do not start at 0";
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    if (offsets[b] < offsets[b - 1]) {
      return std::to_string(offsets[b]) + " after " + std::to_string(offsets[b - 1]) +
             " at position " + std::to_string(b);
    }
  }
  return {};
}

}  // namespace detail

template <class State>
class Batch {
 public:
  /// One sequence, from rest, its end not kept.
  Batch() = default;

  /// One sequence and its state.
  Batch(State& state, Context* run = nullptr)  // NOLINT: one is a batch of one
      : context(run), first_(reinterpret_cast<std::byte*>(&state)) {}

  /// Sequence b is rows offsets[b] to offsets[b + 1] and starts from states[b].
  Batch(std::span<State> states, std::span<const Index> offsets, Context* run = nullptr)
      : Batch(offsets, run) {
    if (states.size() + 1 != offsets.size()) {
      fail({"states of the batch", std::to_string(offsets.size() - 1),
            std::to_string(states.size())});
      sound_ = false;
      return;
    }
    if (!states.empty()) first_ = reinterpret_cast<std::byte*>(states.data());
  }

  /// All from rest, their ends not kept.
  explicit Batch(std::span<const Index> offsets, Context* run = nullptr)
      : context(run), count_(static_cast<Index>(offsets.size()) - 1), offsets_(offsets.data()) {
    if (std::string fault = detail::offsets_fault(offsets); !fault.empty()) {
      fail({"offsets of the batch", "ascending numbers from 0", std::move(fault)});
      sound_ = false;
    }
  }

  Index count() const { return count_; }
  Index begin(Index b) const { return offsets_ == nullptr ? 0 : offsets_[b]; }
  /// `rows`: of the whole matrix.
  Index end(Index b, Index rows) const { return offsets_ == nullptr ? rows : offsets_[b + 1]; }
  const Index* offsets() const { return offsets_; }

  /// Do the sequences start from given states and leave their last ones there?
  bool carries() const { return first_ != nullptr; }
  State& operator[](Index b) const {
    return *reinterpret_cast<State*>(first_ + static_cast<std::ptrdiff_t>(stride_) * b);
  }

  /// Reports and says no if the offsets do not cover exactly `rows` rows.
  bool fits(Index rows) const {
    if (sound_ && (offsets_ == nullptr || offsets_[count_] == rows)) return true;
    if (sound_) {
      fail({"rows of the batch", std::to_string(offsets_[count_]) + " as the offsets end",
            std::to_string(rows)});
    }
    return false;
  }

  /// The batch as a part of the layer sees it: part(state) gives its share of a state.
  template <class F>
  auto part(F&& part) const {
    using Part = std::remove_reference_t<decltype(part(std::declval<State&>()))>;
    Batch<Part> result;
    result.context = context;
    result.count_ = count_;
    result.offsets_ = offsets_;
    result.sound_ = sound_;
    result.stride_ = stride_;
    if (carries()) {
      result.first_ = reinterpret_cast<std::byte*>(&part(*reinterpret_cast<State*>(first_)));
    }
    return result;
  }

  /// The same sequences and states with other rows: sequence b is offsets[b] to offsets[b + 1]. For
  /// layers that send some of the rows somewhere else.
  Batch over(const Index* offsets) const {
    Batch result = *this;
    result.offsets_ = offsets;
    return result;
  }

  Context* context = nullptr;

 private:
  template <class>
  friend class Batch;

  std::byte* first_ = nullptr;          ///< the first state, or null: all from rest
  std::size_t stride_ = sizeof(State);  ///< bytes from a state to the next
  Index count_ = 1;
  const Index* offsets_ = nullptr;  ///< null: one sequence, all rows
  bool sound_ = true;
};

/// Many sequences from rest: converts to the batch of any layer.
class FromRest {
 public:
  explicit FromRest(std::span<const Index> offsets, Context* context = nullptr)
      : offsets_(offsets), context_(context) {}
  template <class State>
  operator Batch<State>() const {  // NOLINT: meant to convert
    return Batch<State>(offsets_, context_);
  }

 private:
  std::span<const Index> offsets_;
  Context* context_;
};

inline FromRest from_rest(std::span<const Index> offsets, Context* context = nullptr) {
  return FromRest(offsets, context);
}

}  // namespace limen::inline LIMEN_ABI
