#pragma once
/// @file  An affine map of each row.
///
///   y = x Wᵀ + b        T rows   I d_in   O d_out

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct LinearConfig {
  Index d_in = 0;    ///< I
  Index d_out = 0;   ///< O
  bool bias = true;  ///< add b
};

template <LinearConfig C, class S = float>
struct Linear {
  static_assert(C.d_in > 0, "Linear: .d_in must be positive");
  static_assert(C.d_out > 0, "Linear: .d_out must be positive");

  static constexpr LinearConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Linear<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, out, in> weight;                 ///< W
  Optional<C.bias, Tensor<Real, out>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static Linear initialized(Random& random) {
    Linear layer;
    fill_fan_in(layer.weight, random);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{C.d_in}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * in * out; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x I] -> y [T x O]
  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    return linear(x, weight, b());
  }

  /// x [I] -> y [O].  Allocates nothing.
  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    return linear(x, weight, b());
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;  ///< [T x I]
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    auto y = linear(x, weight, b());
    cache.x = std::move(x);
    return y;
  }

  /// dW = dyᵀ x,  db = Σ_t dy,  dx = dy W
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Linear& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    add_linear_weight_gradient<Real, out, in>(dy, cache.x, gradient.weight);
    if constexpr (C.bias) add_bias_gradient<Real, out>(dy, gradient.bias);
    return linear_input_gradient<Real, out, in>(dy, weight);
  }

 private:
  const Real* b() const {
    if constexpr (C.bias) {
      return bias.data();
    } else {
      return nullptr;
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
