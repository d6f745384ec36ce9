#pragma once
/// @file  A layer and a way around it.
///
///   y = x + F(x)        x, y [T x D]
///
///     Residual<Sequential<RmsNorm<n>, Mixer>>       normed before:  x + F(norm(x))
///     Sequential<Residual<Mixer>, LayerNorm<n>>     normed after:   norm(x + F(x))
///
/// He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, equation 1.

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
LIMEN_RULE(keeps_the_width, "Residual: the inner layer must give as many numbers as it takes");
}

template <class L>
struct Residual {
  static_assert(detail::compose<L>() && detail::keeps_the_width < L::in == L::out,
                detail::takes<L::in>, detail::gives < L::out >> ::ok);

  static constexpr Index D = L::in, in = D, out = D;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Residual<typename L::template with_scalar<T>>;

  L inner;  ///< F

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("inner", m.inner...);
  }

  static Residual initialized(Random& random) { return {L::initialized(random)}; }

  static constexpr Index macs(Index rows) { return limen::macs<L>(rows); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename L::State;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    const FlushDenormals guard;
    detail::TapScope scope(batch.context, "inner");
    auto y = inner.forward(x, scope.of(batch));
    if (y.rows() == x.rows()) add_rows(x.matrix(), y.matrix());
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept
    requires Streaming<L>
  {
    const FlushDenormals guard;
    auto y = inner.step(x, state);
    add_rows(x.matrix(), y.matrix());
    return y;
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const
    requires(!Streaming<L>)
  {
    static_assert(detail::Rules<L>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = detail::cache_of<L>;

  /// The inner layer keeps x, and may write over it; the way around is a copy, which becomes y.
  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires Trainable<L>
  {
    const FlushDenormals guard;
    detail::TapScope scope(batch.context, "inner");
    Sequence<Real, D> y = x;
    const auto fx = inner.forward(std::move(x), scope.of(batch), cache);
    if (fx.rows() != y.rows()) return {};
    add_rows(fx.matrix(), y.matrix());
    return y;
  }

  /// dx = dy + F'(x)ᵀ dy
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             Residual& gradient) const
    requires Trainable<L>
  {
    const FlushDenormals guard;
    detail::TapScope scope(batch.context, "inner");
    auto dx = inner.backward(dy, scope.of(batch), cache, gradient.inner);
    if (dx.rows() == dy.rows()) add_rows(dy.matrix(), dx.matrix());
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
