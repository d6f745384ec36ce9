#pragma once
/// @file  An activation as a layer.
///
///   y = a(x)        each number by itself; x, y [T x D]

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/gated.hpp>
#include <limen/kernel/tiny.hpp>

namespace limen::inline LIMEN_ABI {

struct ActivateConfig {
  Index d = 0;                               ///< D
  Activation activation = Activation::relu;  ///< a
};

template <ActivateConfig C, class S = float>
struct Activate {
  static_assert(C.d > 0, "Activate: .d must be positive");

  static constexpr ActivateConfig config = C;
  static constexpr Index D = C.d, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Activate<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}

  static Activate initialized(Random&) { return {}; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, D> y(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      activate(C.activation, x.row(t).data(), y.row_data(t), D);
    }
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> y;
    if constexpr (D <= tiny_width) {
      tiny_transform<D>(x.data(), y.data(), [](const auto& v) __attribute__((always_inline)) {
        using V = std::remove_cvref_t<decltype(v)>;
        if constexpr (C.activation == Activation::tanh && is_prepared<S>) {
          // Exact to an epsilon of 1, not of itself: a quarter of a small network's time.
          constexpr Real fold = -2 * math::detail::log2_e<Real>;
          return simd::fma(V(Real(2)), math::gate2(v * V(fold)), V(Real(-1)));
        } else {
          return activate<C.activation>(v);
        }
      });
    } else {
      activate(C.activation, x.data(), y.data(), D);
    }
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;  ///< [T x D]
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    auto y = forward(SequenceView<Real, D>(x), batch);
    cache.x = std::move(x);
    return y;
  }

  /// dx = dy ⊙ a'(x)
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             Activate&) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(dy.rows());
    for (Index t = 0; t < dy.rows(); ++t) {
      activation_backward<C.activation>(cache.x.row(t).data(), dy.row(t).data(), dx.row_data(t), D);
    }
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
