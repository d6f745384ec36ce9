#pragma once
/// @file  Dropout: in training each number is zero with probability p, the others grow to make up.
///
///   y = x ⊙ m / (1 - p),   m = 0 with probability p, else 1
///
/// It draws from the generator of the run, `batch.context->random`; without one, and in inference,
/// it is the identity. Each forward takes a generator of its own (Random::split) and keeps it in
/// the cache: the mask is a function of (generator, position) and is made again in backward.
///
/// Srivastava et al., "Dropout", JMLR 15 (2014), in its inverted form.

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/dropout.hpp>

namespace limen::inline LIMEN_ABI {

struct DropoutConfig {
  Index d = 0;        ///< D
  double rate = 0.1;  ///< p
};

template <DropoutConfig C, class S = float>
struct Dropout {
  static_assert(C.d > 0, "Dropout: .d must be positive");
  static_assert(C.rate >= 0 && C.rate < 1, "Dropout: .rate must be in [0, 1)");

  static constexpr DropoutConfig config = C;
  static constexpr Index D = C.d, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Dropout<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}

  static Dropout initialized(Random&) { return {}; }

  // ── Inference: nothing happens ─────────────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State>) const { return x.copy(); }
  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept { return x.copy(); }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Index rows = 0;
    bool drops = false;  ///< was there a generator?
    Random random{};     ///< whose key gives the mask
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    cache.rows = x.rows();
    cache.drops = config.rate > 0 && batch.context != nullptr && batch.context->random != nullptr;
    if (!cache.drops) return x;
    cache.random = batch.context->random->split();
    dropout(x.matrix(), cache.random, config.rate, x.matrix());
    return x;
  }

  /// dx = dy ⊙ m / (1 - p)
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             Dropout&) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    const FlushDenormals guard;
    if (!cache.drops) return dy.copy();
    Sequence<Real, D> dx(dy.rows());
    dropout(dy.matrix(), cache.random, config.rate, dx.matrix());
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
