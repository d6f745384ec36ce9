#pragma once
/// @file  The Mamba-2 block: a selective state space whose state decays by one number per head.
///
///   [z | x B C | dt] = h Wᵀ              x B C ← silu(conv(x B C))
///   δ = clamp(softplus(dt + dt_bias)),   A = -exp(A_log)
///   S_t = exp(δ_t A) S_{t-1} + B_t (δ_t x_t)ᵀ,   y_t = S_tᵀ C_t + D x_t       for each head
///   out = W_out (w ⊙ RMS(y ⊙ silu(z)))
///
///   T time   D d_model   E = expand D inner   H = E / P heads of P   N d_state   G groups
///   z, x, y [T x E]   B, C [T x G N]   dt, δ [T x H]   S [H][N][P]
///
/// Names as in checkpoints of state-spaces/mamba and transformers. Dao & Gu, "Transformers are
/// SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
/// arXiv:2405.21060, section 7; the chunked scan is kernel/ssd.hpp.

#include <cmath>
#include <limits>

#include <limen/core/denormals.hpp>
#include <limen/kernel/decay.hpp>
#include <limen/kernel/norm.hpp>
#include <limen/kernel/ssd.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct Mamba2Config {
  Index d_model = 0;      ///< D
  Index d_state = 128;    ///< N
  Index expand = 2;       ///< E / D
  Index head_dim = 64;    ///< P
  Index n_groups = 1;     ///< G, heads of a group share B and C
  Index conv_width = 4;   ///< taps of the convolution
  bool bias = false;      ///< of both projections
  bool conv_bias = true;  ///< of the convolution
  Index norm_groups = 0;  ///< pieces of E that are normalised apart; 0: G, as state-spaces/mamba
                          ///< and transformers have it
  double eps = 1e-5;      ///< of the norm
  double step_low = 0;    ///< δ is not smaller
  double step_high = std::numeric_limits<double>::infinity();  ///< nor larger
};

template <class Real, Index W, Index C, Index H, Index N, Index P>
struct Mamba2State {
  DepthwiseConvState<Real, W, C> conv;  ///< the last rows of [x | B | C], before the convolution
  Fixed<Real, H, N, P> ssm;             ///< S
};

template <Mamba2Config C, class S = float>
struct Mamba2 {
  static_assert(C.d_model > 0, "Mamba2: .d_model must be positive");
  static_assert(C.d_state > 0, "Mamba2: .d_state must be positive");
  static_assert(C.expand > 0, "Mamba2: .expand must be positive");
  static_assert(C.head_dim > 0 && C.expand * C.d_model % C.head_dim == 0,
                "Mamba2: .head_dim must divide expand * d_model");
  static_assert(C.n_groups > 0 && C.expand * C.d_model / C.head_dim % C.n_groups == 0,
                "Mamba2: .n_groups must divide the number of heads");
  static_assert(C.norm_groups >= 0 &&
                    C.expand * C.d_model % (C.norm_groups > 0 ? C.norm_groups : C.n_groups) == 0,
                "Mamba2: .norm_groups must divide expand * d_model");
  static_assert(C.eps > 0, "Mamba2: .eps must be positive");
  static_assert(C.step_low >= 0 && C.step_low <= C.step_high,
                "Mamba2: .step_low must not be negative, nor above .step_high");

  static constexpr Mamba2Config config = C;
  static constexpr Index D = C.d_model, E = C.expand * D, P = C.head_dim, H = E / P;
  static constexpr Index N = C.d_state, G = C.n_groups, K = E + 2 * G * N;
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Mamba2<C, T>;
  using InProj = Linear<LinearConfig{.d_in = D, .d_out = E + K + H, .bias = C.bias}, S>;
  using Conv = DepthwiseConv<
      DepthwiseConvConfig{
          .d = K, .width = C.conv_width, .bias = C.conv_bias, .activation = Activation::silu},
      S>;
  using OutProj = Linear<LinearConfig{.d_in = E, .d_out = D, .bias = C.bias}, S>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  InProj in_proj;           ///< rows [z | x | B | C | dt]
  Conv conv1d;              ///< over [x | B | C]
  Tensor<Real, H> dt_bias;  ///< the step sizes of a token that says nothing
  Tensor<Real, H> A_log;    ///< log(-A)
  Tensor<Real, H> skip;     ///< D
  Tensor<Real, E> norm;     ///< w
  OutProj out_proj;         ///< W_out

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("in_proj", l.in_proj...);
    f("conv1d", l.conv1d...);
    f("dt_bias", l.dt_bias...);
    f("A_log", l.A_log...);
    f("D", l.skip...);
    f("norm.weight", l.norm...);
    f("out_proj", l.out_proj...);
  }

  /// A in [-16, -1], δ in [1e-3, 0.1] for a token that says nothing, both log-uniform or uniform as
  /// the authors draw them.
  static Mamba2 initialized(Random& random) {
    Mamba2 layer;
    layer.in_proj = InProj::initialized(random);
    layer.conv1d = Conv::initialized(random);
    layer.out_proj = OutProj::initialized(random);
    for (Index h = 0; h < H; ++h) {
      const double step = std::exp(random.uniform(std::log(1e-3), std::log(0.1)));
      layer.dt_bias[h] = static_cast<Real>(step + std::log(-std::expm1(-step)));
      layer.A_log[h] = static_cast<Real>(std::log(random.uniform(1, 16)));
    }
    fill(layer.skip, 1);
    fill(layer.norm, 1);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (D * (E + K + H) + K * C.conv_width + 3 * H * N * P + E * D);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = Mamba2State<Real, C.conv_width, K, H, N, P>;

  /// h [T x D] -> out [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> h, Batch<State> batch) const {
    const Index T = h.rows();
    if (!batch.fits(T)) return {};
    const FlushDenormals guard;
    const auto p = linear(h, in_proj.weight, data_or_null(in_proj.bias));
    const auto u =
        conv1d.forward(SequenceView<Real, K>(columns<K>(p, E).data, T, width), conv_part(batch));
    Sequence<Real, H> delta(T), a(T);
    step_decay(columns<H>(p, E + K), dt_bias.data(), A_log.data(), limit, delta.matrix(),
               a.matrix());
    Sequence<Real, E> y(T);
    ssd(scan(u.matrix(), a.matrix(), delta.matrix()), ssm_part(batch), y.matrix());
    gated_norm(y.matrix(), u.matrix(), columns<E>(p, 0), y.matrix(), nullptr);
    return linear(y, out_proj.weight, data_or_null(out_proj.bias));
  }

  /// h [D] -> out [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> h, State& state) const noexcept {
    const FlushDenormals guard;
    const auto p = linear(h, in_proj.weight, data_or_null(in_proj.bias));
    const auto u = conv1d.step(VectorView<Real, K>(p.data() + E), state.conv);
    Vector<Real, H> delta, a;
    step_decay({p.data() + E + K, 1, H, H}, dt_bias.data(), A_log.data(), limit, delta.matrix(),
               a.matrix());
    Vector<Real, E> y;
    ssd_step(scan(u.matrix(), a.matrix(), delta.matrix()), state.ssm.data(), y.data());
    gated_norm(y.matrix(), u.matrix(), {p.data(), 1, E, E}, y.matrix(), nullptr);
    return linear(y, out_proj.weight, data_or_null(out_proj.bias));
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> h;         ///< [T x D]
    Sequence<Real, E> z;         ///< [T x E]
    Sequence<Real, H> dt;        ///< [T x H]
    typename Conv::Cache conv;   ///< [x | B | C] before the convolution, [T x K]
    Sequence<Real, K> u;         ///< and after it
    Sequence<Real, H> delta, a;  ///< [T x H], steps and decays
    Sequence<Real, E> y;         ///< [T x E], without D x
    Buffer<Real> r;              ///< [norm groups][T], of the norm
    KeptStates<Real> states;     ///< S every 128 rows
  };

  Sequence<Real, D> forward(Sequence<Real, D> h, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const Index T = h.rows();
    if (!batch.fits(T)) return {};
    const FlushDenormals guard;
    Sequence<Real, K> xBC(T);
    cache.z = Sequence<Real, E>(T);
    cache.dt = Sequence<Real, H>(T);
    {
      const auto p = linear(h, in_proj.weight, data_or_null(in_proj.bias));
      chunk::copy<Real>(columns<E>(p, 0), cache.z.matrix());
      chunk::copy<Real>(columns<K>(p, E), xBC.matrix());
      chunk::copy<Real>(columns<H>(p, E + K), cache.dt.matrix());
    }
    cache.u = conv1d.forward(std::move(xBC), conv_part(batch), cache.conv);
    cache.delta = Sequence<Real, H>(T);
    cache.a = Sequence<Real, H>(T);
    step_decay(cache.dt.matrix(), dt_bias.data(), A_log.data(), limit, cache.delta.matrix(),
               cache.a.matrix());
    cache.y = Sequence<Real, E>(T);
    ssd(scan(cache.u.matrix(), cache.a.matrix(), cache.delta.matrix()), ssm_part(batch),
        cache.y.matrix(), &cache.states);
    cache.r = Buffer<Real>(T * norm_groups);
    Sequence<Real, E> n(T);
    gated_norm(cache.y.matrix(), cache.u.matrix(), cache.z.matrix(), n.matrix(), cache.r.data());
    cache.h = std::move(h);
    return linear(n, out_proj.weight, data_or_null(out_proj.bias));
  }

  /// With v = (y + D x) ⊙ silu(z) and n = w ⊙ RMS(v), from the end to the start:
  ///   dn = dout W_out,  dv as in rms_norm,  dy = dv ⊙ silu(z),  dz = dv ⊙ (y + D x) ⊙ silu'(z),
  ///   dx, dB, dC, dlog a, dδ as in ssd,  dx += D dy,  dD = Σ dy x,
  ///   dδ += A dlog a,  dA_log = Σ dlog a log a,  ddt = dδ softplus'(dt + dt_bias).
  Sequence<Real, D> backward(SequenceView<Real, D> dout, Batch<State> batch, const Cache& cache,
                             Mamba2& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dout.rows();
    if (!batch.fits(T) || !fits_cache(T, cache.h.rows())) return {};
    const FlushDenormals guard;
    const auto& [h, z, dt, conv, u, delta, a, y, r, states] = cache;
    Sequence<Real, E + K + H> dp(T);
    const auto dz = columns<E>(dp, 0), dt_rows = columns<H>(dp, E + K);

    Sequence<Real, E> v(T);
    gated_norm(y.matrix(), u.matrix(), z.matrix(), v.matrix(), nullptr);  // n
    add_linear_weight_gradient<Real, D, E>(dout, v, gradient.out_proj.weight);
    if constexpr (C.bias) add_bias_gradient<Real, D>(dout, gradient.out_proj.bias);
    auto dy = linear_input_gradient(dout, out_proj.weight);  // dn, dv, then dy
    skip_gate(y.matrix(), u.matrix(), skip.data(), P, z.matrix(), v.matrix());
    for (Index g = 0; g < norm_groups; ++g) {
      const Index first = g * norm_width;
      const auto part = dy.matrix().middle_cols(first, norm_width);
      rms_norm_backward(part, v.matrix().middle_cols(first, norm_width), norm.data() + first,
                        Real(0), r.data() + g * T, part, gradient.norm.data() + first);
    }
    skip_gate_backward(dy.matrix(), y.matrix(), u.matrix(), skip.data(), P, z.matrix(), dy.matrix(),
                       dz);

    Sequence<Real, K> du(T);
    Sequence<Real, H> dlog_a(T), d_delta(T);
    ssd_backward<Real>(
        scan(u.matrix(), a.matrix(), delta.matrix()), ssm_part(batch), states, dy.matrix(),
        {du.matrix().middle_cols(E + G * N, G * N), du.matrix().middle_cols(E, G * N),
         du.matrix().middle_cols(0, E), dlog_a.matrix(), d_delta.matrix()});
    skip_backward(dy.matrix(), u.matrix(), skip.data(), P, du.matrix().middle_cols(0, E),
                  gradient.skip.data());
    step_decay_backward(dt.matrix(), dt_bias.data(), A_log.data(), limit, d_delta.matrix(),
                        dlog_a.matrix(), dt_rows, gradient.dt_bias.data(), gradient.A_log.data());
    const auto dxBC = conv1d.backward(du, conv_part(batch), conv, gradient.conv1d);
    chunk::copy<Real>(dxBC.matrix(), columns<K>(dp, E));
    add_linear_weight_gradient<Real, width, D>(dp, h, gradient.in_proj.weight);
    if constexpr (C.bias) add_bias_gradient<Real, width>(dp, gradient.in_proj.bias);
    return linear_input_gradient(dp, in_proj.weight);
  }

 private:
  static constexpr Index width = E + K + H;
  static constexpr Index norm_groups = C.norm_groups > 0 ? C.norm_groups : G;
  static constexpr Index norm_width = E / norm_groups;
  static constexpr StepLimit<Real> limit{static_cast<Real>(config.step_low),
                                         static_cast<Real>(config.step_high)};

  template <Index n, class X>
  static auto columns(X& x, Index first) {
    return x.matrix().middle_cols(first, n);
  }
  static auto conv_part(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return s.conv; });
  }
  static auto ssm_part(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return s.ssm; });
  }

  /// u holds [x | B | C].
  static StateInputs<Real> scan(MatrixView<const Real> u, MatrixView<const Real> a,
                                MatrixView<const Real> delta) noexcept {
    return {H,
            G,
            N,
            P,
            u.middle_cols(E + G * N, G * N),
            u.middle_cols(E, G * N),
            u.middle_cols(0, E),
            a,
            delta};
  }

  /// n = w ⊙ RMS((y + D x) ⊙ silu(z)).  n may be y.
  void gated_norm(MatrixView<const Real> y, MatrixView<const Real> u, MatrixView<const Real> z,
                  MatrixView<Real> n, Real* r) const noexcept {
    skip_gate(y, u, skip.data(), P, z, n);
    for (Index g = 0; g < norm_groups; ++g) {
      const auto part = n.middle_cols(g * norm_width, norm_width);
      rms_norm(part, norm.data() + g * norm_width, Real(0), config.eps, part,
               r == nullptr ? nullptr : r + g * n.rows);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
