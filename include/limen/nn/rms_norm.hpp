#pragma once
/// @file  RMS norm: each row divided by its root mean square.
///
///   y = w ⊙ x r,   r = 1 / sqrt(mean(x²) + eps)
///
///   x, y [T x D], w [D].  Some families (RecurrentGemma, Qwen3-Next) store w - 1: `.offset`.
///
/// Zhang & Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, equation 4.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/norm.hpp>

namespace limen::inline LIMEN_ABI {

struct RmsNormConfig {
  Index d = 0;          ///< D
  double eps = 1e-5;    ///< added to the mean square
  bool offset = false;  ///< y = (1 + w) ⊙ x r: the weight is stored as its distance from 1
};

template <RmsNormConfig C, class S = float>
struct RmsNorm {
  static_assert(C.d > 0, "RmsNorm: .d must be positive");
  static_assert(C.eps > 0, "RmsNorm: .eps must be positive");

  static constexpr RmsNormConfig config = C;
  static constexpr Index D = C.d, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = RmsNorm<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, D> weight;  ///< w, or w - 1 with .offset

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
  }

  /// The identity up to the norm.
  static RmsNorm initialized(Random&) {
    RmsNorm layer;
    fill(layer.weight, C.offset ? 0 : 1);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, D> y(x.rows());
    rms_norm(x.matrix(), weight.data(), offset, config.eps, y.matrix());
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> y;
    rms_norm(x.matrix(), weight.data(), offset, config.eps, y.matrix());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;  ///< [T x D]
    Buffer<Real> r;       ///< [T]
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    Sequence<Real, D> y(x.rows());
    cache.r = Buffer<Real>(x.rows());
    rms_norm(x.matrix(), weight.data(), offset, config.eps, y.matrix(), cache.r.data());
    cache.x = std::move(x);
    return y;
  }

  /// With g = dy ⊙ w:  dx = r g - x r³ <g, x> / D,  dw = Σ_t dy ⊙ x r
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             RmsNorm& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(dy.rows());
    rms_norm_backward(dy.matrix(), cache.x.matrix(), weight.data(), offset, cache.r.data(),
                      dx.matrix(), gradient.weight.data());
    return dx;
  }

 private:
  static constexpr Real offset = C.offset ? 1 : 0;
};

}  // namespace limen::inline LIMEN_ABI
