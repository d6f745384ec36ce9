#pragma once
/// @file  DeltaNet: an associative memory that overwrites what a key held before.
///
///   q, k, v = silu(conv(x W_q)), silu(conv(x W_k)), silu(conv(x W_v))        β = σ(x W_b)
///   u_t = β_t (v_t - S_{t-1}ᵀ k̂_t),   S_t = S_{t-1} + k̂_t u_tᵀ,   o_t = S_tᵀ q̂_t / √K
///   y = W_o (w ⊙ RMS(o) [⊙ silu(x W_g)])        for each of H heads; q̂, k̂ of length one
///
///   T time   D d_model   H heads   K = V = D / H keys and values of a head
///   q, k, v, o [T x D]   β [T x H]   S [H][K][V]
///
/// A step multiplies what lies along k̂ by 1 - β: in (0, 1), or with .negative, where β = 2 σ, in
/// (-1, 1), which is what counting modulo two takes. Names as in flash-linear-attention. Schlag et
/// al., "Linear Transformers Are Secretly Fast Weight Programmers", arXiv:2102.11174; Yang et al.,
/// "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv:2406.06484.

#include <array>
#include <cmath>

#include <limen/core/denormals.hpp>
#include <limen/kernel/delta.hpp>
#include <limen/kernel/l2_norm.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/ssm/heads.hpp>

namespace limen::inline LIMEN_ABI {

struct DeltaNetConfig {
  Index d_model = 0;      ///< D
  Index n_heads = 4;      ///< H
  Index conv_width = 4;   ///< taps of the convolutions
  bool gate = false;      ///< with W_g
  bool negative = false;  ///< β = 2 σ: the state may change its sign
  double eps = 1e-5;      ///< of the norm
};

template <class Real, Index H, Index K, Index W>
struct DeltaNetState {
  std::array<DepthwiseConvState<Real, W, H * K>, 3> conv;  ///< of q, k and v
  Fixed<Real, H, K, K> s;                                  ///< S
};

template <DeltaNetConfig C, class S = float>
struct DeltaNet {
  static_assert(C.d_model > 0, "DeltaNet: .d_model must be positive");
  static_assert(C.n_heads > 0 && C.d_model % C.n_heads == 0,
                "DeltaNet: .n_heads must divide .d_model");
  static_assert(C.eps > 0, "DeltaNet: .eps must be positive");

  static constexpr DeltaNetConfig config = C;
  static constexpr Index D = C.d_model, H = C.n_heads, K = D / H, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = DeltaNet<C, T>;
  using Conv = DepthwiseConv<
      DepthwiseConvConfig{
          .d = D, .width = C.conv_width, .bias = false, .activation = Activation::silu},
      S>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, D, D> q_proj, k_proj, v_proj;    ///< W_q, W_k, W_v
  Weight<S, H, D> b_proj;                    ///< W_b
  Conv q_conv1d, k_conv1d, v_conv1d;         ///< of q, k and v
  Optional<C.gate, Weight<S, D, D>> g_proj;  ///< W_g
  HeadNorm<Real, K> norm;                    ///< w
  Weight<S, D, D> o_proj;                    ///< W_o

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("q_proj.weight", l.q_proj...);
    f("k_proj.weight", l.k_proj...);
    f("v_proj.weight", l.v_proj...);
    f("b_proj.weight", l.b_proj...);
    f("q_conv1d", l.q_conv1d...);
    f("k_conv1d", l.k_conv1d...);
    f("v_conv1d", l.v_conv1d...);
    f("g_proj.weight", l.g_proj...);
    f("o_norm", l.norm...);
    f("o_proj.weight", l.o_proj...);
  }

  static DeltaNet initialized(Random& random) {
    DeltaNet layer;
    for_each_tensor([&](auto& tensor) { fill_fan_in(tensor, random); }, layer);
    fill(layer.norm.weight, 1);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (D * ((C.gate ? 5 : 4) * D + H + 3 * C.conv_width) + 4 * H * K * K);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = DeltaNetState<Real, H, K, C.conv_width>;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Cache cache;
    return run<false>(x, batch, cache);
  }

  /// x [D] -> y [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    auto q = q_conv1d.step(linear(x, q_proj), state.conv[0]);
    auto k = k_conv1d.step(linear(x, k_proj), state.conv[1]);
    const auto v = v_conv1d.step(linear(x, v_proj), state.conv[2]);
    auto beta = linear(x, b_proj);
    l2_norm(q.matrix(), K, length_eps, q.matrix());
    l2_norm(k.matrix(), K, length_eps, k.matrix());
    strength(beta.data(), beta.data(), H);
    Vector<Real, D> o;
    delta_rule_step(scan(q.matrix(), k.matrix(), v.matrix(), beta.matrix()), state.s.data(),
                    o.data());
    if constexpr (C.gate) {
      const auto g = linear(x, g_proj);
      norm.apply(o.data(), g.data(), D, config.eps, o.data(), nullptr);
    } else {
      norm.apply(o.data(), nullptr, D, config.eps, o.data(), nullptr);
    }
    return linear(o, o_proj);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;                ///< [T x D]
    typename Conv::Cache qc, kc, vc;    ///< before the convolutions, [T x D]
    Sequence<Real, D> q_hat, k_hat, v;  ///< [T x D]
    Buffer<Real> q_scale, k_scale;      ///< [T H], 1 / length
    Sequence<Real, H> b, beta;          ///< [T x H], x W_b and β
    Sequence<Real, C.gate ? D : 1> g;   ///< x W_g
    Sequence<Real, D> o;                ///< what was read
    Buffer<Real> r;                     ///< [T H], of the norm
    KeptStates<Real> states;            ///< S every 128 rows
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    auto y = run<true>(SequenceView<Real, D>(x), batch, cache);
    cache.x = std::move(x);
    return y;
  }

  /// dh = dy W_o,  do and dg as in heads.hpp,  dq̂, dk̂, dv, dβ as in kernel/delta.hpp, back through
  /// the lengths and the convolutions,  db = dβ σ'(b) (twice with .negative), and dx = Σ of what
  /// comes back through the projections.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                             DeltaNet& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, c.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dg(C.gate ? T : 0), dq(T), dk(T), dv(T);
    const auto d_o =
        detail::read_out_backward(norm, o_proj, dy, c.o, C.gate ? c.g.data() : nullptr, config.eps,
                                  c.r.data(), dg.data(), gradient.norm, gradient.o_proj);
    Sequence<Real, H> db(T);
    delta_rule_backward<Real>(
        scan(c.q_hat.matrix(), c.k_hat.matrix(), c.v.matrix(), c.beta.matrix()),
        detail::s_part(batch), c.states, d_o.matrix(),
        {dq.matrix(), dk.matrix(), dv.matrix(), {}, db.matrix()});
    for (Index i = 0; i < db.size(); ++i) {
      const Real s = c.beta.data()[i] / most;
      db.data()[i] *= most * s * (1 - s);
    }
    l2_norm_backward(dq.matrix(), c.q_hat.matrix(), K, c.q_scale.data(), dq.matrix());
    l2_norm_backward(dk.matrix(), c.k_hat.matrix(), K, c.k_scale.data(), dk.matrix());
    dq = q_conv1d.backward(dq, conv_part<0>(batch), c.qc, gradient.q_conv1d);
    dk = k_conv1d.backward(dk, conv_part<1>(batch), c.kc, gradient.k_conv1d);
    dv = v_conv1d.backward(dv, conv_part<2>(batch), c.vc, gradient.v_conv1d);
    Sequence<Real, D> dx = linear_input_gradient(SequenceView<Real, H>(db), b_proj);
    add_linear_weight_gradient<Real, H, D>(db, c.x, gradient.b_proj);
    const auto back = [&](const auto& d, const auto& weight, auto& dw) {
      add_linear_weight_gradient(d, c.x, dw);
      add_linear_input_gradient(d, weight, dx);
    };
    back(dq, q_proj, gradient.q_proj);
    back(dk, k_proj, gradient.k_proj);
    back(dv, v_proj, gradient.v_proj);
    if constexpr (C.gate) back(dg, g_proj, gradient.g_proj);
    return dx;
  }

 private:
  static constexpr Real most = C.negative ? 2 : 1;
  static constexpr double length_eps = 1e-6;
  static constexpr std::array<Real, static_cast<std::size_t>(H)> kept_all = [] {
    std::array<Real, static_cast<std::size_t>(H)> ones{};
    for (Real& one : ones) one = 1;
    return ones;
  }();

  template <std::size_t I>
  static auto conv_part(const Batch<State>& batch) {
    return batch.part([](State& state) -> auto& { return state.conv[I]; });
  }

  static StateInputs<Real> scan(MatrixView<const Real> q, MatrixView<const Real> k,
                                MatrixView<const Real> v, MatrixView<const Real> beta) noexcept {
    return {
        H, H, K, K, q, k, v, {kept_all.data(), v.rows, H, 0}, beta, Real(1) / std::sqrt(Real(K))};
  }

  /// β = σ(b), or twice that.
  static void strength(const Real* b, Real* beta, Index n) noexcept {
    using V = simd::Vec<Real>;
    simd::transform(b, beta, n, [](const V& v) { return math::sigmoid(v) * V(most); });
  }

  /// `Keep`: for backward.
  template <bool Keep>
  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c) const {
    const Index T = x.rows();
    const auto convolved = [&](const auto& w, const Conv& conv, auto part, auto& cache) {
      auto before = linear(x, w);
      if constexpr (Keep) {
        return conv.forward(std::move(before), part, cache);
      } else {
        return conv.forward(SequenceView<Real, D>(before), part);
      }
    };
    c.q_hat = convolved(q_proj, q_conv1d, conv_part<0>(batch), c.qc);
    c.k_hat = convolved(k_proj, k_conv1d, conv_part<1>(batch), c.kc);
    c.v = convolved(v_proj, v_conv1d, conv_part<2>(batch), c.vc);
    c.b = linear(x, b_proj);
    c.beta = Sequence<Real, H>(T);
    strength(c.b.data(), c.beta.data(), c.b.size());
    if constexpr (Keep) {
      c.q_scale = Buffer<Real>(T * H);
      c.k_scale = Buffer<Real>(T * H);
      c.r = Buffer<Real>(T * H);
    }
    l2_norm(c.q_hat.matrix(), K, length_eps, c.q_hat.matrix(), c.q_scale.data());
    l2_norm(c.k_hat.matrix(), K, length_eps, c.k_hat.matrix(), c.k_scale.data());
    c.o = Sequence<Real, D>(T);
    delta_rule(scan(c.q_hat.matrix(), c.k_hat.matrix(), c.v.matrix(), c.beta.matrix()),
               detail::s_part(batch), c.o.matrix(), Keep ? &c.states : nullptr);
    if constexpr (C.gate) c.g = linear(x, g_proj);
    return detail::read_out(norm, o_proj, c.o, C.gate ? c.g.data() : nullptr, config.eps,
                            c.r.data());
  }
};

}  // namespace limen::inline LIMEN_ABI
