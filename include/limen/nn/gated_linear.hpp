#pragma once
/// @file  Gated linear unit, the feed-forward half of most modern blocks.
///
///   y = (a(x Gᵀ) ⊙ (x Uᵀ)) Wᵀ
///
///   T time   D d_model   H d_hidden   a activation of the gate:
///   silu SwiGLU, gelu GEGLU (gelu_tanh: its tanh form), relu ReGLU, sigmoid GLU, identity bilinear
///
/// Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, equations 5 and 6.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/gated.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct GatedLinearConfig {
  Index d_model = 0;                         ///< D, of input and output
  Index d_hidden = 0;                        ///< H, between the projections; 8/3 D is usual
  Activation activation = Activation::silu;  ///< a, applied to the gate
};

template <GatedLinearConfig C, class S = float>
struct GatedLinear {
  static_assert(C.d_model > 0, "GatedLinear: .d_model must be positive");
  static_assert(C.d_hidden > 0, "GatedLinear: .d_hidden must be positive");

  static constexpr GatedLinearConfig config = C;
  static constexpr Index D = C.d_model, H = C.d_hidden, in = D, out = D;
  static constexpr Activation a = C.activation;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GatedLinear<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H, D> gate;  ///< G
  Weight<S, H, D> up;    ///< U
  Weight<S, D, H> down;  ///< W

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("gate", l.gate...);
    f("up", l.up...);
    f("down", l.down...);
  }

  static GatedLinear initialized(Random& random) {
    GatedLinear layer;
    fill_fan_in(layer.gate, random);
    fill_fan_in(layer.up, random);
    fill_fan_in(layer.down, random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * 3 * D * H; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State>) const {
    const FlushDenormals guard;
    return apply(x);
  }

  /// x [D] -> y [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept {
    const FlushDenormals guard;
    return apply(x);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;  ///< [T x D]
    Sequence<Real, H> z;  ///< x Gᵀ, before the activation
    Sequence<Real, H> u;  ///< x Uᵀ
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    cache.z = linear(x, gate);
    cache.u = linear(x, up);
    cache.x = std::move(x);
    Sequence<Real, H> h(cache.z.rows());
    limen::gate<a>(cache.z.data(), cache.u.data(), h.data(), h.size());
    return linear(h, down);
  }

  /// With h = a(z) ⊙ u:  dh = dy W,  du = dh ⊙ a(z),  dz = dh ⊙ u ⊙ a'(z),  dx = dz G + du U,
  ///                     dW = dyᵀ h,  dG = dzᵀ x,  dU = duᵀ x
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             GatedLinear& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const auto& [x, z, u] = cache;
    auto h = linear_input_gradient(dy, down);  // dh, then h
    Sequence<Real, H> dz(z.rows()), du(z.rows());
    gate_backward<a>(z.data(), u.data(), h.data(), h.data(), dz.data(), du.data(), h.size());
    add_linear_weight_gradient(dy, h, gradient.down);
    add_linear_weight_gradient(dz, x, gradient.gate);
    add_linear_weight_gradient(du, x, gradient.up);
    auto dx = linear_input_gradient(dz, gate);
    add_linear_input_gradient(du, up, dx);
    return dx;
  }

 private:
  /// Rows or one vector.
  template <class X>
  auto apply(const X& x) const {
    auto h = linear(x, gate);
    const auto u = linear(x, up);
    limen::gate<a>(h.data(), u.data(), h.data(), h.size());
    return linear(h, down);
  }
};

}  // namespace limen::inline LIMEN_ABI
