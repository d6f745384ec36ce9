#pragma once
/// @file  The recurrent block of Griffin and Hawk.
///
///   y = gelu(W_y x + b_y)         u = conv(W_x x + b_x)         s = RG-LRU(u)
///   out = W_out (s ⊙ y) + b_out
///
///   T time   D d_model   E d_rnn   W taps of the conv (no activation)   gelu: its tanh form
///
/// De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention", arXiv:2402.19427,
/// section 2.3. Parameter names are those of RecurrentGemma's `temporal_block`.

#include <limen/kernel/gated.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/ssm/rg_lru.hpp>

namespace limen::inline LIMEN_ABI {

struct GriffinConfig {
  Index d_model = 0;  ///< D
  Index d_rnn = 0;    ///< E; 0: D
  Index heads = 1;    ///< blocks of the gates
  Index d_conv = 4;   ///< W
};

template <class Real, Index E, Index W>
struct GriffinState {
  DepthwiseConvState<Real, W, E> conv;
  RgLruState<Real, E> rnn;
};

template <GriffinConfig C, class S = float>
struct Griffin {
  static_assert(C.d_model > 0, "Griffin: .d_model must be positive");
  static_assert(C.d_rnn >= 0, "Griffin: .d_rnn must be positive, or 0 for d_model");

  static constexpr GriffinConfig config = C;
  static constexpr Index D = C.d_model, E = C.d_rnn > 0 ? C.d_rnn : D, W = C.d_conv;
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Griffin<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Linear<LinearConfig{D, E}, S> linear_y;    ///< W_y, the gate
  Linear<LinearConfig{D, E}, S> linear_x;    ///< W_x
  Linear<LinearConfig{E, D}, S> linear_out;  ///< W_out
  DepthwiseConv<DepthwiseConvConfig{E, W}, S> conv_1d;
  RgLru<RgLruConfig{E, C.heads}, S> rg_lru;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("linear_y", l.linear_y...);
    f("linear_x", l.linear_x...);
    f("linear_out", l.linear_out...);
    f("conv_1d", l.conv_1d...);
    f("rg_lru", l.rg_lru...);
  }

  static Griffin initialized(Random& random) {
    Griffin layer;
    fill_normal(layer.linear_y.weight, 1 / std::sqrt(double{D}), random);
    fill_normal(layer.linear_x.weight, 1 / std::sqrt(double{D}), random);
    fill_normal(layer.linear_out.weight, 1 / std::sqrt(double{E}), random);
    fill_normal(layer.conv_1d.weight, 0.1 / std::sqrt(double{W}), random);
    layer.rg_lru = decltype(rg_lru)::initialized(random);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (3 * D * E + W * E) + decltype(rg_lru)::macs(rows);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = GriffinState<Real, E, W>;

  /// x [T x D] -> [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto y = linear(x, linear_y.weight, linear_y.bias.data());
    const auto u =
        conv_1d.forward(linear(x, linear_x.weight, linear_x.bias.data()), conv_of(batch));
    auto s = rg_lru.forward(u, rnn_of(batch));
    gate<Activation::gelu_tanh>(y.data(), s.data(), s.data(), s.size());
    return linear(s, linear_out.weight, linear_out.bias.data());
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto y = linear(x, linear_y.weight, linear_y.bias.data());
    const auto u = conv_1d.step(linear(x, linear_x.weight, linear_x.bias.data()), state.conv);
    auto s = rg_lru.step(u, state.rnn);
    gate<Activation::gelu_tanh>(y.data(), s.data(), s.data(), E);
    return linear(s, linear_out.weight, linear_out.bias.data());
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;
    Sequence<Real, E> y;  ///< before its gelu
    typename decltype(conv_1d)::Cache conv;
    typename decltype(rg_lru)::Cache rnn;
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.y = linear(x, linear_y.weight, linear_y.bias.data());
    auto u = conv_1d.forward(linear(x, linear_x.weight, linear_x.bias.data()), conv_of(batch),
                             cache.conv);
    auto s = rg_lru.forward(std::move(u), rnn_of(batch), cache.rnn);
    gate<Activation::gelu_tanh>(cache.y.data(), s.data(), s.data(), s.size());
    cache.x = std::move(x);
    return linear(s, linear_out.weight, linear_out.bias.data());
  }

  /// With h = s ⊙ gelu(y):  dW_out = doutᵀ h,  dh = dout W_out,  ds = dh ⊙ gelu(y),
  /// dy = dh ⊙ s ⊙ gelu'(y);  the rest are the derivatives of the parts.
  Sequence<Real, D> backward(SequenceView<Real, D> d_out, Batch<State> batch, const Cache& cache,
                             Griffin& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(d_out.rows()) || !fits_cache(d_out.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    auto h = linear_input_gradient<Real, D, E>(d_out, linear_out.weight);  // dh, then h
    Sequence<Real, E> ds(h.rows()), dy(h.rows());
    gate_backward<Activation::gelu_tanh>(cache.y.data(), cache.rnn.s.data(), h.data(), h.data(),
                                         dy.data(), ds.data(), h.size());
    add_linear_weight_gradient<Real, D, E>(d_out, h, gradient.linear_out.weight);
    add_bias_gradient<Real, D>(d_out, gradient.linear_out.bias);
    const auto du = rg_lru.backward(ds, rnn_of(batch), cache.rnn, gradient.rg_lru);
    const auto dv = conv_1d.backward(du, conv_of(batch), cache.conv, gradient.conv_1d);
    add_linear_weight_gradient<Real, E, D>(dv, cache.x, gradient.linear_x.weight);
    add_bias_gradient<Real, E>(dv, gradient.linear_x.bias);
    add_linear_weight_gradient<Real, E, D>(dy, cache.x, gradient.linear_y.weight);
    add_bias_gradient<Real, E>(dy, gradient.linear_y.bias);
    auto dx = linear_input_gradient<Real, E, D>(dv, linear_x.weight);
    add_linear_input_gradient<Real, E, D>(dy, linear_y.weight, dx);
    return dx;
  }

 private:
  static auto conv_of(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return s.conv; });
  }
  static auto rnn_of(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return s.rnn; });
  }
};

}  // namespace limen::inline LIMEN_ABI
