#pragma once
/// @file  Gated linear attention: a linear attention that forgets, each key at a pace of its own
/// that the token sets.
///
///   q, k, v, g = x W_q, x W_k, x W_v, x W_g        log α = log σ(x W_1 W_2 + b) / 16
///   S_t = diag(α_t) S_{t-1} + k_t v_tᵀ,   o_t = S_tᵀ q_t / √K        for each of H heads
///   y = W_o (w ⊙ RMS(o) ⊙ silu(g))
///
///   T time   D d_model   H heads   K, V keys and values of a head   R rank of the gate
///   q, k, α [T x H K]   v, g, o [T x H V]   S [H][K][V]
///
/// Names as in flash-linear-attention. Yang et al., "Gated Linear Attention Transformers with
/// Hardware-Efficient Training", arXiv:2312.06635, section 4.

#include <cmath>

#include <limen/core/denormals.hpp>
#include <limen/kernel/decay.hpp>
#include <limen/kernel/keyed_ssd.hpp>
#include <limen/nn/linear.hpp>
#include <limen/ssm/heads.hpp>

namespace limen::inline LIMEN_ABI {

struct GatedLinearAttentionConfig {
  Index d_model = 0;         ///< D
  Index n_heads = 4;         ///< H
  Index key_dim = 0;         ///< H K; 0: D / 2
  Index value_dim = 0;       ///< H V; 0: D
  Index gate_rank = 16;      ///< R
  double gate_divisor = 16;  ///< of log σ: a token can forget little at once
  double eps = 1e-5;         ///< of the norm
};

template <GatedLinearAttentionConfig C, class S = float>
struct GatedLinearAttention {
  static constexpr Index keys = C.key_dim > 0 ? C.key_dim : C.d_model / 2;
  static constexpr Index values = C.value_dim > 0 ? C.value_dim : C.d_model;
  static_assert(C.d_model > 0, "GatedLinearAttention: .d_model must be positive");
  static_assert(C.n_heads > 0 && keys > 0 && keys % C.n_heads == 0,
                "GatedLinearAttention: .n_heads must divide .key_dim (or d_model / 2)");
  static_assert(values % C.n_heads == 0,
                "GatedLinearAttention: .n_heads must divide .value_dim (or d_model)");
  static_assert(C.gate_rank > 0, "GatedLinearAttention: .gate_rank must be positive");
  static_assert(C.gate_divisor > 0, "GatedLinearAttention: .gate_divisor must be positive");
  static_assert(C.eps > 0, "GatedLinearAttention: .eps must be positive");

  static constexpr GatedLinearAttentionConfig config = C;
  static constexpr Index D = C.d_model, H = C.n_heads, K = keys / H, V = values / H;
  static constexpr Index R = C.gate_rank, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GatedLinearAttention<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H * K, D> q_proj;     ///< W_q
  Weight<S, H * K, D> k_proj;     ///< W_k
  Weight<S, H * V, D> v_proj;     ///< W_v
  Weight<S, H * V, D> g_proj;     ///< W_g
  Weight<S, R, D> gate_down;      ///< W_1
  Weight<S, H * K, R> gate_up;    ///< W_2
  Tensor<Real, H * K> gate_bias;  ///< b
  HeadNorm<Real, V> norm;         ///< w
  Weight<S, D, H * V> o_proj;     ///< W_o

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("q_proj.weight", l.q_proj...);
    f("k_proj.weight", l.k_proj...);
    f("v_proj.weight", l.v_proj...);
    f("g_proj.weight", l.g_proj...);
    f("gk_proj.0.weight", l.gate_down...);
    f("gk_proj.1.weight", l.gate_up...);
    f("gk_proj.1.bias", l.gate_bias...);
    f("g_norm_swish_gate", l.norm...);
    f("o_proj.weight", l.o_proj...);
  }

  static GatedLinearAttention initialized(Random& random) {
    GatedLinearAttention layer;
    for_each_tensor([&](auto& tensor) { fill_fan_in(tensor, random); }, layer);
    fill(layer.norm.weight, 1);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (D * (2 * H * K + 3 * H * V + R) + R * H * K + 3 * H * K * V);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = MatrixState<Real, H, K, V>;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Cache cache;
    return run(x, batch, cache, nullptr, nullptr);
  }

  /// x [D] -> y [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto q = linear(x, q_proj), k = linear(x, k_proj);
    const auto v = linear(x, v_proj), g = linear(x, g_proj);
    auto a = linear(linear(x, gate_down), gate_up, gate_bias.data());
    gate_decay(a.data(), divisor, a.data(), H * K);
    Vector<Real, H * V> o;
    keyed_ssd_step(scan(q.matrix(), k.matrix(), v.matrix(), a.matrix()), state.s.data(), o.data());
    norm.apply(o.data(), g.data(), H * V, config.eps, o.data(), nullptr);
    return linear(o, o_proj);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;         ///< [T x D]
    Sequence<Real, H * K> q, k;  ///< [T x H K]
    Sequence<Real, H * V> v, g;  ///< [T x H V]
    Sequence<Real, R> low;       ///< x W_1
    Sequence<Real, H * K> z, a;  ///< x W_1 W_2 + b, and α
    Sequence<Real, H * V> o;     ///< what was read
    Buffer<Real> r;              ///< [T H], of the norm
    KeptStates<Real> states;     ///< S every 128 rows
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.r = Buffer<Real>(x.rows() * H);
    auto y = run(SequenceView<Real, D>(x), batch, cache, &cache.states, cache.r.data());
    cache.x = std::move(x);
    return y;
  }

  /// dh = dy W_o,  do and dg as in heads.hpp,  dq, dk, dv, dlog α as in kernel/keyed_ssd.hpp,
  /// dz = dlog α σ(-z) / 16,  and dx = Σ of what comes back through the projections.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             GatedLinearAttention& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, cache.x.rows())) return {};
    const FlushDenormals guard;
    const auto& [x, q, k, v, g, low, z, a, o, r, states] = cache;
    Sequence<Real, H * V> dg(T), dv(T);
    const auto d_o = detail::read_out_backward(norm, o_proj, dy, o, g.data(), config.eps, r.data(),
                                               dg.data(), gradient.norm, gradient.o_proj);
    Sequence<Real, H * K> dq(T), dk(T), dz(T);
    keyed_ssd_backward<Real>(scan(q.matrix(), k.matrix(), v.matrix(), a.matrix()),
                             detail::s_part(batch), states, d_o.matrix(),
                             {dq.matrix(), dk.matrix(), dv.matrix(), dz.matrix(), {}});
    gate_decay_backward(z.data(), divisor, dz.data(), dz.data(), dz.size());

    add_linear_weight_gradient<Real, H * K, R>(dz, low, gradient.gate_up);
    add_bias_gradient<Real, H * K>(dz, gradient.gate_bias);
    const auto d_low = linear_input_gradient(SequenceView<Real, H * K>(dz), gate_up);
    auto dx = linear_input_gradient(SequenceView<Real, R>(d_low), gate_down);
    add_linear_weight_gradient<Real, R, D>(d_low, x, gradient.gate_down);
    const auto back = [&](const auto& d, const auto& weight, auto& dw) {
      add_linear_weight_gradient(d, x, dw);
      add_linear_input_gradient(d, weight, dx);
    };
    back(dq, q_proj, gradient.q_proj);
    back(dk, k_proj, gradient.k_proj);
    back(dv, v_proj, gradient.v_proj);
    back(dg, g_proj, gradient.g_proj);
    return dx;
  }

 private:
  static constexpr Real divisor = static_cast<Real>(config.gate_divisor);

  static StateInputs<Real> scan(MatrixView<const Real> q, MatrixView<const Real> k,
                                MatrixView<const Real> v, MatrixView<const Real> a) noexcept {
    return {H, H, K, V, q, k, v, a, {}, Real(1) / std::sqrt(Real(K))};
  }

  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c,
                        KeptStates<Real>* kept, Real* r) const {
    c.q = linear(x, q_proj);
    c.k = linear(x, k_proj);
    c.v = linear(x, v_proj);
    c.g = linear(x, g_proj);
    c.low = linear(x, gate_down);
    c.z = linear(c.low, gate_up, gate_bias.data());
    c.a = Sequence<Real, H * K>(x.rows());
    gate_decay(c.z.data(), divisor, c.a.data(), c.z.size());
    c.o = Sequence<Real, H * V>(x.rows());
    keyed_ssd(scan(c.q.matrix(), c.k.matrix(), c.v.matrix(), c.a.matrix()), detail::s_part(batch),
              c.o.matrix(), kept);
    return detail::read_out(norm, o_proj, c.o, c.g.data(), config.eps, r);
  }
};

}  // namespace limen::inline LIMEN_ABI
