#pragma once
/// @file  Gated DeltaNet as Qwen3-Next has it: a memory that overwrites what a key held, and
/// forgets.
///
///   [q | k | v | z], [b | a] = x W_qkvz, x W_ba          q k v ← silu(conv(q k v))
///   β = σ(b),   log α = -exp(A_log) softplus(a + dt_bias)
///   u_t = β_t (v_t - (α_t S_{t-1})ᵀ k̂_t),   S_t = α_t S_{t-1} + k̂_t u_tᵀ,   o_t = S_tᵀ q̂_t / √K
///   y = W_out (w ⊙ RMS(o) ⊙ silu(z))        for each value head; q̂, k̂ of length one
///
///   T time   D d_model   G key heads of K   H value heads of V, r = H / G for each key head
///   q, k [T x G K]   v, z, o [T x H V]   β, α [T x H]   S [H][K][V]
///
/// Rows of in_proj_qkvz lie by key head, [q (K) | k (K) | v (r V) | z (r V)] for each, and those of
/// in_proj_ba [b (r) | a (r)]; the channels of the convolution lie by kind, all q, all k, all v.
/// Names as in transformers. Yang, Kautz & Hatamizadeh, "Gated Delta Networks: Improving Mamba2
/// with Delta Rule", arXiv:2412.06464, section 3.

#include <cmath>
#include <limits>

#include <limen/core/denormals.hpp>
#include <limen/kernel/decay.hpp>
#include <limen/kernel/delta.hpp>
#include <limen/kernel/l2_norm.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/ssm/heads.hpp>

namespace limen::inline LIMEN_ABI {

struct GatedDeltaNetConfig {
  Index d_model = 0;         ///< D
  Index n_key_heads = 16;    ///< G
  Index n_value_heads = 32;  ///< H
  Index key_dim = 128;       ///< K, of a head
  Index value_dim = 128;     ///< V, of a head
  Index conv_width = 4;      ///< taps of the convolution
  double eps = 1e-6;         ///< of the norm
};

template <class Real, Index W, Index C, Index H, Index K, Index V>
struct GatedDeltaNetState {
  DepthwiseConvState<Real, W, C> conv;  ///< the last rows of [q | k | v], before the convolution
  Fixed<Real, H, K, V> s;               ///< S
};

template <GatedDeltaNetConfig C, class S = float>
struct GatedDeltaNet {
  static_assert(C.d_model > 0, "GatedDeltaNet: .d_model must be positive");
  static_assert(C.n_key_heads > 0 && C.n_value_heads % C.n_key_heads == 0 && C.n_value_heads > 0,
                "GatedDeltaNet: .n_key_heads must divide .n_value_heads");
  static_assert(C.key_dim > 0 && C.value_dim > 0,
                "GatedDeltaNet: .key_dim and .value_dim must be positive");
  static_assert(C.eps > 0, "GatedDeltaNet: .eps must be positive");

  static constexpr GatedDeltaNetConfig config = C;
  static constexpr Index D = C.d_model, G = C.n_key_heads, H = C.n_value_heads, R = H / G;
  static constexpr Index K = C.key_dim, V = C.value_dim, keys = G * K, values = H * V;
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GatedDeltaNet<C, T>;
  using Conv = DepthwiseConv<DepthwiseConvConfig{.d = 2 * keys + values,
                                                 .width = C.conv_width,
                                                 .bias = false,
                                                 .activation = Activation::silu},
                             S>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, 2 * keys + 2 * values, D> in_proj_qkvz;  ///< W_qkvz
  Weight<S, 2 * H, D> in_proj_ba;                    ///< W_ba
  Conv conv1d;                                       ///< over [q | k | v]
  Tensor<Real, H> dt_bias;                           ///< how much a token that says nothing forgets
  Tensor<Real, H> A_log;                             ///< and how much more the others
  HeadNorm<Real, V> norm;                            ///< w
  Weight<S, D, values> out_proj;                     ///< W_out

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("in_proj_qkvz.weight", l.in_proj_qkvz...);
    f("in_proj_ba.weight", l.in_proj_ba...);
    f("conv1d", l.conv1d...);
    f("dt_bias", l.dt_bias...);
    f("A_log", l.A_log...);
    f("norm", l.norm...);
    f("out_proj.weight", l.out_proj...);
  }

  /// A in (0, 16), and a softplus that starts at 1.
  static GatedDeltaNet initialized(Random& random) {
    GatedDeltaNet layer;
    fill_fan_in(layer.in_proj_qkvz, random);
    fill_fan_in(layer.in_proj_ba, random);
    layer.conv1d = Conv::initialized(random);
    fill_fan_in(layer.out_proj, random);
    fill(layer.dt_bias, 1);
    fill(layer.norm.weight, 1);
    for (Real& a : layer.A_log.flat()) a = static_cast<Real>(std::log(random.uniform(1e-3, 16)));
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (D * (2 * keys + 3 * values + 2 * H) + Conv::in * C.conv_width + 4 * H * K * V);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = GatedDeltaNetState<Real, C.conv_width, Conv::in, H, K, V>;

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
    const auto p = linear(x, in_proj_qkvz);
    const auto ba = linear(x, in_proj_ba);
    Vector<Real, Conv::in> qkv;
    Vector<Real, values> z, o;
    Vector<Real, H> beta, a, unused, alpha;
    split(p.matrix(), qkv.matrix(), z.matrix(), false);
    split_gates(ba.matrix(), beta.matrix(), a.matrix(), false);
    auto u = conv1d.step(qkv, state.conv);
    l2_norm(columns<2 * keys>(u, 0), K, length_eps, columns<2 * keys>(u, 0));
    activate(Activation::sigmoid, beta.data(), beta.data(), H);
    step_decay(a.matrix(), dt_bias.data(), A_log.data(), limit, unused.matrix(), alpha.matrix());
    delta_rule_step(scan(u.matrix(), alpha.matrix(), beta.matrix()), state.s.data(), o.data());
    norm.apply(o.data(), z.data(), values, config.eps, o.data(), nullptr);
    return linear(o, out_proj);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;               ///< [T x D]
    typename Conv::Cache conv;         ///< [q | k | v] before the convolution
    Sequence<Real, Conv::in> u;        ///< and after it, q and k of length one
    Buffer<Real> scale;                ///< [T][2 G], 1 / length of each q and k
    Sequence<Real, values> z, o;       ///< [T x H V], the gate and what was read
    Sequence<Real, H> a, alpha, beta;  ///< [T x H]
    Buffer<Real> r;                    ///< [T H], of the norm
    KeptStates<Real> states;           ///< S every 128 rows
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

  /// dh = dy W_out,  do and dz as in heads.hpp,  dq̂, dk̂, dv, dlog α, dβ as in kernel/delta.hpp,
  /// back through the lengths and the convolution,  db = dβ β (1 - β),  da as in kernel/decay.hpp.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                             GatedDeltaNet& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, c.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, values> dz(T);
    const auto d_o =
        detail::read_out_backward(norm, out_proj, dy, c.o, c.z.data(), config.eps, c.r.data(),
                                  dz.data(), gradient.norm, gradient.out_proj);
    Sequence<Real, Conv::in> du(T);
    Sequence<Real, H> dlog(T), db(T), da(T);
    delta_rule_backward<Real>(scan(c.u.matrix(), c.alpha.matrix(), c.beta.matrix()),
                              detail::s_part(batch), c.states, d_o.matrix(),
                              {columns<keys>(du, 0), columns<keys>(du, keys),
                               columns<values>(du, 2 * keys), dlog.matrix(), db.matrix()});
    for (Index i = 0; i < db.size(); ++i) {
      const Real s = c.beta.data()[i];
      db.data()[i] *= s * (1 - s);
    }
    step_decay_backward(c.a.matrix(), dt_bias.data(), A_log.data(), limit, {}, dlog.matrix(),
                        da.matrix(), gradient.dt_bias.data(), gradient.A_log.data());
    const auto lengths = columns<2 * keys>(du, 0);
    l2_norm_backward(lengths, columns<2 * keys>(c.u, 0), K, c.scale.data(), lengths);
    du = conv1d.backward(du, conv_part(batch), c.conv, gradient.conv1d);

    Sequence<Real, 2 * keys + 2 * values> dp(T);
    Sequence<Real, 2 * H> dba(T);
    split(dp.matrix(), du.matrix(), dz.matrix(), true);
    split_gates(dba.matrix(), db.matrix(), da.matrix(), true);
    add_linear_weight_gradient(dp, c.x, gradient.in_proj_qkvz);
    add_linear_weight_gradient(dba, c.x, gradient.in_proj_ba);
    auto dx = linear_input_gradient(dp, in_proj_qkvz);
    add_linear_input_gradient(dba, in_proj_ba, dx);
    return dx;
  }

 private:
  static constexpr double length_eps = 1e-6;
  static constexpr StepLimit<Real> limit{0, std::numeric_limits<Real>::infinity()};

  template <Index n, class X>
  static auto columns(X& x, Index first) {
    return x.matrix().middle_cols(first, n);
  }
  static auto conv_part(const Batch<State>& batch) {
    return batch.part([](State& state) -> auto& { return state.conv; });
  }

  /// u holds [q | k | v].
  static StateInputs<Real> scan(MatrixView<const Real> u, MatrixView<const Real> alpha,
                                MatrixView<const Real> beta) noexcept {
    return {H,
            G,
            K,
            V,
            u.middle_cols(0, keys),
            u.middle_cols(keys, keys),
            u.middle_cols(2 * keys, values),
            alpha,
            beta,
            Real(1) / std::sqrt(Real(K))};
  }

  /// Columns `from` of x to columns `to` of y; with `back` the other way.
  template <class X>
  static void move_columns(X x, Index from, MatrixView<Real> y, Index to, Index n, bool back) {
    if (!back) return chunk::copy<Real>(x.middle_cols(from, n), y.middle_cols(to, n));
    if constexpr (std::is_same_v<X, MatrixView<Real>>) {
      chunk::copy<Real>(y.middle_cols(to, n), x.middle_cols(from, n));
    }
  }

  /// p by key head <-> [q | k | v] and z by kind.
  template <class X>
  static void split(X p, MatrixView<Real> qkv, MatrixView<Real> z, bool back) {
    for (Index g = 0; g < G; ++g) {
      const Index first = g * (2 * K + 2 * R * V);
      move_columns(p, first, qkv, g * K, K, back);
      move_columns(p, first + K, qkv, keys + g * K, K, back);
      move_columns(p, first + 2 * K, qkv, 2 * keys + g * R * V, R * V, back);
      move_columns(p, first + 2 * K + R * V, z, g * R * V, R * V, back);
    }
  }

  /// The same of b and a.
  template <class X>
  static void split_gates(X ba, MatrixView<Real> b, MatrixView<Real> a, bool back) {
    for (Index g = 0; g < G; ++g) {
      move_columns(ba, g * 2 * R, b, g * R, R, back);
      move_columns(ba, g * 2 * R + R, a, g * R, R, back);
    }
  }

  /// `Keep`: for backward.
  template <bool Keep>
  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c) const {
    const Index T = x.rows();
    Sequence<Real, Conv::in> qkv(T);
    c.z = Sequence<Real, values>(T);
    c.a = Sequence<Real, H>(T);
    c.alpha = Sequence<Real, H>(T);
    c.beta = Sequence<Real, H>(T);
    {
      const auto p = linear(x, in_proj_qkvz);
      split(p.matrix(), qkv.matrix(), c.z.matrix(), false);
      const auto ba = linear(x, in_proj_ba);
      split_gates(ba.matrix(), c.beta.matrix(), c.a.matrix(), false);
    }
    if constexpr (Keep) {
      c.u = conv1d.forward(std::move(qkv), conv_part(batch), c.conv);
      c.scale = Buffer<Real>(T * 2 * G);
      c.r = Buffer<Real>(T * H);
    } else {
      c.u = conv1d.forward(SequenceView<Real, Conv::in>(qkv), conv_part(batch));
    }
    const auto lengths = columns<2 * keys>(c.u, 0);
    l2_norm(lengths, K, length_eps, lengths, c.scale.data());
    activate(Activation::sigmoid, c.beta.data(), c.beta.data(), c.beta.size());
    Sequence<Real, H> unused(T);
    step_decay(c.a.matrix(), dt_bias.data(), A_log.data(), limit, unused.matrix(),
               c.alpha.matrix());
    c.o = Sequence<Real, values>(T);
    delta_rule(scan(c.u.matrix(), c.alpha.matrix(), c.beta.matrix()), detail::s_part(batch),
               c.o.matrix(), Keep ? &c.states : nullptr);
    return detail::read_out(norm, out_proj, c.o, c.z.data(), config.eps, c.r.data());
  }
};

}  // namespace limen::inline LIMEN_ABI
