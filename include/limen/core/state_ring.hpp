#pragma once
/// @file  The last states of a stream, so that it can go back: speculative decoding drafts a few
/// tokens, and takes back those that the large model would not have said.
///
///     const auto ring = std::make_unique<StateRing<Model::State, 4>>();   // may be megabytes
///     ring->advance();                  // remember the present ...
///     model.step(x, ring->now());       // ... and move on from it
///     ring->roll_back(2);               // two steps never happened
///
/// Going back moves an index and copies nothing. Advancing copies one state: it is a value.

#include <array>
#include <cstring>
#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// The present state, and up to K before it.
template <class State, Index K>
class StateRing {
  static_assert(std::is_trivially_copyable_v<State>, "StateRing: a state is plain bytes");
  static_assert(K > 0, "StateRing: K, how many states are remembered, must be positive");

 public:
  State& now() noexcept { return states_[at(0)]; }
  const State& now() const noexcept { return states_[at(0)]; }

  /// The state `steps` back, at most depth().
  const State& before(Index steps) const noexcept { return states_[at(steps)]; }

  /// How far back one can go.
  Index depth() const noexcept { return depth_; }

  /// The present becomes the past, and what comes next starts from it. The oldest is forgotten.
  void advance() noexcept {
    const State& old = now();
    newest_ = newest_ + 1 < slots ? newest_ + 1 : 0;
    std::memcpy(static_cast<void*>(&now()), static_cast<const void*>(&old), sizeof(State));
    if (depth_ < K) ++depth_;
  }

  /// As if the last `steps` advances had not happened. Says no, and changes nothing, if that is
  /// further than depth().
  bool roll_back(Index steps = 1) noexcept {
    if (steps < 0 || steps > depth_) return false;
    newest_ = newest_ >= steps ? newest_ - steps : newest_ - steps + slots;
    depth_ -= steps;
    return true;
  }

 private:
  static constexpr Index slots = K + 1;

  std::size_t at(Index steps) const noexcept {
    return static_cast<std::size_t>(newest_ >= steps ? newest_ - steps : newest_ - steps + slots);
  }

  std::array<State, static_cast<std::size_t>(slots)> states_{};
  Index newest_ = 0, depth_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
