#pragma once
/// @file  Group norm: each row cut into G equal groups, each shifted to mean 0 and scaled to
/// variance 1 by itself. One group is a layer norm.
///
///   y = w ⊙ x̂ + b,   x̂ = (x - m) s,   s = 1 / sqrt(var + eps)        m, var: of the group
///
///   x, y [T x D], w, b [D], groups are D / G neighbouring columns; var is the mean of (x - m)².
///
/// Wu & He, "Group Normalization", arXiv:1803.08494, equations 1, 2 and 7.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/norm.hpp>

namespace limen::inline LIMEN_ABI {

struct GroupNormConfig {
  Index d = 0;         ///< D
  Index groups = 1;    ///< G, divides D
  double eps = 1e-5;   ///< added to the variance
  bool weight = true;  ///< multiply by w
  bool bias = true;    ///< add b
};

template <GroupNormConfig C, class S = float>
struct GroupNorm {
  static_assert(C.d > 0, "GroupNorm: .d must be positive");
  static_assert(C.groups > 0 && C.d % C.groups == 0, "GroupNorm: .groups must divide .d");
  static_assert(C.eps > 0, "GroupNorm: .eps must be positive");

  static constexpr GroupNormConfig config = C;
  static constexpr Index D = C.d, G = C.groups, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GroupNorm<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Optional<C.weight, Tensor<Real, D>> weight;  ///< w
  Optional<C.bias, Tensor<Real, D>> bias;      ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  /// The identity up to the norm.
  static GroupNorm initialized(Random&) {
    GroupNorm layer;
    if constexpr (C.weight) fill(layer.weight, 1);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, D> y(x.rows());
    layer_norm(x.matrix(), G, data_or_null(weight), data_or_null(bias), config.eps, y.matrix());
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> y;
    layer_norm(x.matrix(), G, data_or_null(weight), data_or_null(bias), config.eps, y.matrix());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;   ///< [T x D]
    Buffer<Real> moments;  ///< [T][G][2], m and s
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    Sequence<Real, D> y(x.rows());
    cache.moments = Buffer<Real>(2 * x.rows() * G);
    layer_norm(x.matrix(), G, data_or_null(weight), data_or_null(bias), config.eps, y.matrix(),
               cache.moments.data());
    cache.x = std::move(x);
    return y;
  }

  /// With g = dy ⊙ w:  dx = s (g - mean g - x̂ mean(g ⊙ x̂)),  dw = Σ_t dy ⊙ x̂,  db = Σ_t dy
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             GroupNorm& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(dy.rows());
    layer_norm_backward(dy.matrix(), cache.x.matrix(), G, data_or_null(weight),
                        cache.moments.data(), dx.matrix(), data_or_null(gradient.weight),
                        data_or_null(gradient.bias));
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
