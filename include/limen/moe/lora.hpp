#pragma once
/// @file  A small change of a Linear, of low rank.
///
///   y = x Wᵀ + b + c (x Aᵀ) Bᵀ        c = α / R        A [R x I], B [O x R]
///
///     Lora<LoraConfig{.rank = 8, .alpha = 16}, Linear<LinearConfig{.d_in = 512, .d_out = 512}>>
///
/// W and b stay as they are; with .train_base they learn, too. B starts at 0, so that an adapter
/// that has learned nothing changes nothing. Folded into W it costs nothing:
///
///     auto plain = layer.merged();       // a Linear, y the same up to rounding
///     layer.merge_into(other);           // other.weight += c B A, and
///     layer.take_out_of(other);          // out again
///
/// Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685, equation 3.
/// The names of A and B are those of the peft library.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/low_rank.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct LoraConfig {
  Index rank = 8;           ///< R
  double alpha = 8;         ///< α
  bool train_base = false;  ///< W and b learn, too
};

namespace detail {

template <class L>
inline constexpr bool is_linear = false;
template <LinearConfig C, class S>
inline constexpr bool is_linear<Linear<C, S>> = true;

/// The S of a Linear<C, S>.
template <class L>
struct ScalarOf;
template <LinearConfig C, class S>
struct ScalarOf<Linear<C, S>> {
  using type = S;
};

template <class Real>
void scale_rows(Real c, MatrixView<Real> x) noexcept {  // without gaps
  const simd::Vec<Real> factor(c);
  simd::for_each<Real>(x.rows * x.cols, [&](Index i, auto load, auto store) {
    store(x.data + i, factor * load(x.data + i));
  });
}

/// dx = dy W to the first columns of dx; where the base learns, dW += dyᵀ x, db += Σ dy.
template <bool learns, class Real, LinearConfig C>
void base_backward(const Linear<C, Real>& base, MatrixView<const Real> dy, MatrixView<const Real> x,
                   Linear<C, Real>& gradient, MatrixView<Real> dx) {
  if constexpr (learns) {
    add_product_tn(dy, x, gradient.weight.matrix());
    if constexpr (C.bias) add_column_sums(dy, gradient.bias.data());
  }
  product_nn(dy, base.weight.matrix(), dx);
}

}  // namespace detail

template <LoraConfig C, class L>
struct Lora {
  static_assert(detail::is_linear<L>, "Lora: adapts a Linear");
  static_assert(C.rank > 0, "Lora: .rank must be positive");

  static constexpr LoraConfig config = C;
  static constexpr Index in = L::in, out = L::out, R = C.rank;
  using S = typename detail::ScalarOf<L>::type;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Lora<C, typename L::template with_scalar<T>>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  L base;               ///< W, b
  Weight<S, R, in> a;   ///< A
  Weight<S, out, R> b;  ///< B

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("base_layer", m.base...);
    f("lora_A.weight", m.a...);
    f("lora_B.weight", m.b...);
  }

  /// Around a layer that has learned.
  static Lora around(const L& base, Random& random)
    requires(!is_prepared<S>)
  {
    Lora layer;
    layer.base = base;
    fill_fan_in(layer.a, random);
    return layer;
  }
  static Lora initialized(Random& random) { return around(L::initialized(random), random); }

  static constexpr Index macs(Index rows) { return L::macs(rows) + rows * R * (in + out); }

  // ── In and out of a weight ─────────────────────────────────────────────────────────────────────
  void merge_into(L& linear) const
    requires(!is_prepared<S>)
  {
    add_low_rank(linear.weight.matrix(), b.matrix(), a.matrix(), scale);
  }
  void take_out_of(L& linear) const
    requires(!is_prepared<S>)
  {
    add_low_rank(linear.weight.matrix(), b.matrix(), a.matrix(), -scale);
  }
  L merged() const
    requires(!is_prepared<S>)
  {
    L linear = base;
    merge_into(linear);
    return linear;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x I] -> y [T x O]
  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    return changed(base.forward(x, batch), scaled(linear(x, a)));
  }

  /// x [I] -> y [O].  Allocates nothing.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    return changed(base.step(x, state), scaled(linear(x, a)));
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;  ///< [T x I]
    Sequence<Real, R> u;   ///< c x Aᵀ
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    cache.x = std::move(x);
    cache.u = scaled(linear(cache.x, a));
    return changed(base.forward(cache.x, batch), cache.u);
  }

  /// With u = c x Aᵀ:  du = c dy B,  dB = dyᵀ u,  dA = duᵀ x,  dx = dy W + du A
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Lora& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const auto du = scaled(linear_input_gradient<Real, out, R>(dy, b));
    add_linear_weight_gradient<Real, out, R>(dy, cache.u, gradient.b);
    add_linear_weight_gradient<Real, R, in>(du, cache.x, gradient.a);
    Sequence<Real, in> dx(dy.rows());
    detail::base_backward<C.train_base, Real>(base, dy.matrix(), cache.x.matrix(), gradient.base,
                                              dx.matrix());
    add_linear_input_gradient<Real, R, in>(du, a, dx);
    return dx;
  }

 private:
  static constexpr double scale = config.alpha / static_cast<double>(R);  ///< c

  /// Rows or one vector.
  template <class U>
  static U scaled(U u) noexcept {
    detail::scale_rows(static_cast<Real>(scale), u.matrix());
    return u;
  }
  template <class Y, class U>
  Y changed(Y y, const U& u) const {
    product_nt(u.matrix(), detail::operand(b), y.matrix(), {.accumulate = true});
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
