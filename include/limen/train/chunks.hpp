#pragma once
/// @file  The gradient of a long sequence, chunk by chunk (truncated back-propagation through
/// time).
///
///   forward   s₀ -> chunk 1 -> s₁ -> chunk 2 -> s₂ -> ...      states always flow on
///   backward  ds₀ <- chunk 1 <- ds₁ <- chunk 2 <- 0            gradients within one window
///
/// A window is so many chunks. With one chunk a window, no gradient passes from a chunk to the one
/// before it, and one cache is kept; with all chunks in one window the gradient is exact, the same
/// as of the sequence in one piece.

#include <limits>
#include <memory>
#include <vector>

#include <limen/core/layer.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

struct ChunkOptions {
  Index rows = 128;  ///< of a chunk
  Index window = 1;  ///< chunks through which gradients flow
};

/// Adds to `gradient`; moves `state` to the end of x; gives the sum of the losses (NaN after an
/// error that could not be thrown). `loss` is called with the output of a chunk and the number of
/// its first row, and returns a Loss.
template <Trainable M, class LossOf>
double add_gradient_in_chunks(const M& model,
                              std::type_identity_t<SequenceView<typename M::Scalar, M::in>> x,
                              typename M::State& state, const ChunkOptions& options, LossOf&& loss,
                              M& gradient, Context* context = nullptr) {
  using State = typename M::State;
  using Real = typename M::Scalar;
  constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
  if (options.rows < 1 || options.window < 1) {
    fail({"ChunkOptions", "rows and window of at least 1",
          std::to_string(options.rows) + " and " + std::to_string(options.window)});
    return nothing;
  }
  struct Chunk {
    typename M::Cache cache;
    Sequence<Real, M::out> dy;
  };
  std::vector<std::unique_ptr<Chunk>> window;
  const auto d_state = std::make_unique<State>();  // may be too large for the stack
  double sum = 0;
  for (Index first = 0; first < x.rows();) {
    std::size_t used = 0;
    for (; used < static_cast<std::size_t>(options.window) && first < x.rows(); ++used) {
      if (used == window.size()) window.push_back(std::make_unique<Chunk>());
      const Index left = x.rows() - first, rows = left < options.rows ? left : options.rows;
      const auto y = model.forward(x.middle_rows(first, rows).copy(), Batch<State>(state, context),
                                   window[used]->cache);
      if (y.rows() != rows) return nothing;
      auto l = loss(SequenceView<Real, M::out>(y), first);
      if (l.dy.rows() != rows) return nothing;
      sum += l.value;
      window[used]->dy = std::move(l.dy);
      first += rows;
    }
    *d_state = State{};
    while (used-- > 0) {
      model.backward(window[used]->dy, Batch<State>(*d_state, context), window[used]->cache,
                     gradient);
    }
  }
  return sum;
}

}  // namespace limen::inline LIMEN_ABI
