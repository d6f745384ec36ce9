#pragma once
/// @file  What a layer is: plain data, and up to four faces.
///
///   config   what it is           a template argument, fixed when the program is compiled
///   members  what it has learned  public tensors, zero until initialized or loaded
///   State    what it remembers    plain bytes of fixed size, kept by the caller, zero at the start
///   Cache    what backward needs  filled by forward, read by backward
///
///   y  = forward(x, batch)                       whole sequences or chunks of them
///   y  = step(x_t, state)                        one time step: no heap, no lock, no exception
///   y  = forward(x, batch, cache)                for training
///   dx = backward(dy, batch, cache, gradient)    adds to gradient, which has the layer's type
///
/// `batch` says which rows are which sequence and brings their states (batch.hpp); in backward
/// those are gradients of states. The faces are const: a layer never changes while it runs, so one
/// layer may serve many threads.

#include <concepts>
#include <span>
#include <string>
#include <type_traits>

#include <limen/core/batch.hpp>
#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/parameters.hpp>
#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI {

template <class L>
concept Runs = std::is_trivially_copyable_v<typename L::State> &&
               requires(const L layer, SequenceView<typename L::Scalar, L::in> x,
                        Batch<typename L::State> batch) {
                 { layer.forward(x, batch) } -> std::same_as<Sequence<typename L::Scalar, L::out>>;
               };

/// Stepping through x gives the rows of forward and leaves the same state behind.
template <class L>
concept Streaming = Runs<L> && requires(const L layer, VectorView<typename L::Scalar, L::in> x_t,
                                        typename L::State& state) {
  { layer.step(x_t, state) } noexcept -> std::same_as<Vector<typename L::Scalar, L::out>>;
};

template <class L>
concept Trainable =
    Runs<L> && Parametrized<L> &&
    requires(const L layer, Sequence<typename L::Scalar, L::in> x, Batch<typename L::State> batch,
             typename L::Cache& cache, SequenceView<typename L::Scalar, L::out> dy, L& gradient) {
      {
        layer.forward(std::move(x), batch, cache)
      } -> std::same_as<Sequence<typename L::Scalar, L::out>>;
      {
        layer.backward(dy, batch, cache, gradient)
      } -> std::same_as<Sequence<typename L::Scalar, L::in>>;
    };

template <class L>
concept Layer = Streaming<L> && Trainable<L>;

/// The state of a layer without memory.
struct NoState {};

/// For backward: reports and says no if what is given has not the size of what forward kept.
inline bool fits_cache(Index given, Index kept, const char* who = "rows of dy") {
  if (given == kept) return true;
  fail({who, std::to_string(kept) + " as in forward", std::to_string(given)});
  return false;
}

// ── Short forms: one sequence, from rest ─────────────────────────────────────────────────────────

template <Runs L>
auto forward(const L& layer, SequenceView<typename L::Scalar, L::in> x) {
  return layer.forward(x, Batch<typename L::State>());
}

template <Trainable L>
auto forward(const L& layer, Sequence<typename L::Scalar, L::in> x, typename L::Cache& cache) {
  return layer.forward(std::move(x), Batch<typename L::State>(), cache);
}

template <Trainable L>
auto backward(const L& layer, SequenceView<typename L::Scalar, L::out> dy,
              const typename L::Cache& cache, L& gradient) {
  return layer.backward(dy, Batch<typename L::State>(), cache, gradient);
}

}  // namespace limen::inline LIMEN_ABI
