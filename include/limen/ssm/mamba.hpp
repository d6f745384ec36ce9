#pragma once
/// @file  Mamba: a selective state space model as one gated block.
///
///   [x; z] = W_in h          u = silu(conv(x))
///   [r; B; C] = W_x u        δ = softplus(W_dt r + b_dt)        A = -exp(A_log)
///   s_t = exp(δ_t A) ⊙ s_{t-1} + (δ_t ⊙ u_t) B_tᵀ               s [E x N]
///   y_t = (s_t C_t + D ⊙ u_t) ⊙ silu(z_t)          out = W_out y
///
///   T time   D d_model   E inner width   N states per channel   R rank of δ   W taps of the conv
///
/// Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752,
/// section 3 and algorithm 2. Parameter names are those of published checkpoints.

#include <limen/core/denormals.hpp>
#include <limen/core/error.hpp>
#include <limen/kernel/selective_scan_backward.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/ssm/decay_rates.hpp>

namespace limen::inline LIMEN_ABI {

struct MambaConfig {
  Index d_model = 0;      ///< D
  Index d_state = 16;     ///< N
  Index d_conv = 4;       ///< W
  Index expand = 2;       ///< E = expand D
  Index dt_rank = 0;      ///< R; 0: D / 16, rounded up
  bool bias = false;      ///< of in_proj and out_proj
  bool conv_bias = true;  ///< of conv1d
  double dt_min = 1e-3;   ///< δ starts between here ...
  double dt_max = 1e-1;   ///< ... and here, uniform in its logarithm
};

template <class Real, Index E, Index N, Index W>
struct MambaState {
  DepthwiseConvState<Real, W, E> conv;
  Fixed<Real, scan_blocks(E), N, scan_block> scan;  ///< s: (e, n) at scan_at(e, n, N)
};

template <MambaConfig C, class S = float>
struct Mamba {
  static_assert(C.d_model > 0, "Mamba: .d_model must be positive");
  static_assert(C.d_state > 0, "Mamba: .d_state must be positive");
  static_assert(C.d_conv > 1, "Mamba: .d_conv must be at least 2");
  static_assert(C.expand > 0, "Mamba: .expand must be positive");
  static_assert(C.dt_rank >= 0, "Mamba: .dt_rank must be positive, or 0 for d_model / 16");

  static constexpr MambaConfig config = C;
  static constexpr Index D = C.d_model, E = C.expand * D, N = C.d_state, W = C.d_conv;
  static constexpr Index R = C.dt_rank > 0 ? C.dt_rank : (D + 15) / 16, P = R + 2 * N;
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Mamba<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Linear<LinearConfig{D, 2 * E, C.bias}, S> in_proj;  ///< W_in: rows of x, then of z
  DepthwiseConv<DepthwiseConvConfig{E, W, C.conv_bias, Activation::silu}, S> conv1d;
  Linear<LinearConfig{E, P, false}, S> x_proj;  ///< W_x: rows of r, B, C
  Linear<LinearConfig{R, E, true}, S> dt_proj;  ///< W_dt, b_dt
  DecayRates<S, E, N> A_log;                    ///< log(-A)
  Tensor<Real, E> skip;                         ///< D, called "D" in files
  Linear<LinearConfig{E, D, C.bias}, S> out_proj;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("in_proj", l.in_proj...);
    f("conv1d", l.conv1d...);
    f("x_proj", l.x_proj...);
    f("dt_proj", l.dt_proj...);
    f("A_log", l.A_log...);
    f("D", l.skip...);
    f("out_proj", l.out_proj...);
  }

  /// Decays of rates 1 to N in every channel; δ, for an input of 0, between dt_min and dt_max.
  static Mamba initialized(Random& random) {
    Mamba layer;
    layer.in_proj = decltype(in_proj)::initialized(random);
    layer.conv1d = decltype(conv1d)::initialized(random);
    layer.x_proj = decltype(x_proj)::initialized(random);
    layer.dt_proj = decltype(dt_proj)::initialized(random);
    fill_inverse_softplus(layer.dt_proj.bias, config.dt_min, config.dt_max, random);
    fill_log_integers(layer.A_log);
    fill(layer.skip, 1);
    layer.out_proj = decltype(out_proj)::initialized(random);
    return layer;
  }

  /// What no run may start with: a step or a decay that is not a number.
  Status check() const
    requires(!is_prepared<S>)
  {
    if (Status s = check_finite("dt_proj.bias", dt_proj.bias); !s) return s;
    return check_finite("A_log", A_log);
  }

  static constexpr Index macs(Index rows) {
    return rows * (3 * D * E + E * P + R * E + W * E + E * (3 * N + 2));
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = MambaState<Real, E, N, W>;

  /// x [T x D] -> [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto xz = linear(x, in_proj.weight, data_or_null(in_proj.bias));
    auto u = conv1d.forward(SequenceView<Real, E>(xz.data(), x.rows(), 2 * E), conv_of(batch));
    const auto p = linear(u, x_proj.weight);
    const auto delta = step_sizes(p);
    const auto z = xz.matrix().middle_cols(E, E);
    const auto decay = blocks_of(A_log);
    scan(decay, u.matrix(), delta.matrix(), z, p.matrix(), batch, u.matrix());
    return linear(u, out_proj.weight, data_or_null(out_proj.bias));
  }

  /// x [D] -> [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto xz = linear(x, in_proj.weight, data_or_null(in_proj.bias));
    auto u = conv1d.step(VectorView<Real, E>(xz.data()), state.conv);
    const auto p = linear(u, x_proj.weight);
    const auto delta = linear(VectorView<Real, R>(p.data()), dt_proj.weight, dt_proj.bias.data());
    const MatrixView<const Real> z = {xz.data() + E, 1, E, E};
    scan_step(A_log, u.matrix(), delta.matrix(), z, p.matrix(), state.scan.data());
    return linear(u, out_proj.weight, data_or_null(out_proj.bias));
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> h;  ///< [T x D], what came in
    typename decltype(conv1d)::Cache conv;
    Sequence<Real, E> z, u, delta, y;  ///< delta before softplus, y after the gate
    Sequence<Real, P> p;               ///< r, B, C
    Buffer<Real> kept;                 ///< s before every chunk of rows
    Buffer<Index> chunks;              ///< [B] chunks of earlier sequences
  };

  Sequence<Real, D> forward(Sequence<Real, D> h, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(h.rows())) return {};
    const FlushDenormals guard;
    const Index T = h.rows();
    Sequence<Real, E> x(T);
    cache.z = Sequence<Real, E>(T);
    const Real* b = data_or_null(in_proj.bias);
    product_nt(h.matrix(), x_rows(in_proj.weight), x.matrix(), {.bias = b});
    product_nt(h.matrix(), z_rows(in_proj.weight), cache.z.matrix(),
               {.bias = b != nullptr ? b + E : nullptr});
    cache.u = conv1d.forward(std::move(x), conv_of(batch), cache.conv);
    cache.p = linear(cache.u, x_proj.weight);
    cache.delta = step_sizes(cache.p);
    cache.y = Sequence<Real, E>(T);
    count_chunks(batch, T, cache);
    const auto decay = blocks_of(A_log);
    scan(decay, cache.u.matrix(), cache.delta.matrix(), cache.z.matrix(), cache.p.matrix(), batch,
         cache.y.matrix(), &cache);
    cache.h = std::move(h);
    return linear(cache.y, out_proj.weight, data_or_null(out_proj.bias));
  }

  /// The scan's own derivative stands in kernel/selective_scan_backward.hpp. Around it:
  ///   dW_out = dyᵀ y,  [dr; dB; dC] = dp,  dW_dt = dδ̃ᵀ r,  du += dp W_x,  dW_x = dpᵀ u,
  ///   dW_in = [dx; dz]ᵀ h,  dh = [dx; dz] W_in,  dA_log = dA ⊙ A
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             Mamba& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.h.rows())) return {};
    if (!fits_cache(batch.count(), cache.chunks.size(), "sequences of the batch")) return {};
    const FlushDenormals guard;
    const Index T = dy.rows();
    add_linear_weight_gradient<Real, D, E>(dy, cache.y, gradient.out_proj.weight);
    if constexpr (C.bias) add_bias_gradient<Real, D>(dy, gradient.out_proj.bias);
    auto du = linear_input_gradient<Real, D, E>(dy, out_proj.weight);  // of y, then of u
    Sequence<Real, E> d_delta(T), dz(T);
    Sequence<Real, P> dp(T);
    const auto decay = blocks_of(A_log);
    Buffer<Real> da(scan_state_size(E, N));
    for (Real& v : da) v = 0;
    const auto sequence = [&](Index i) {
      const Index first = batch.begin(i), rows = batch.end(i, T) - first;
      return ScanSequence<Real, const Real>{
          first, rows, batch.carries() ? batch[i].scan.data() : nullptr,
          cache.kept.data() + cache.chunks[i] * scan_state_size(E, N)};
    };
    selective_scan_backward<Real>(
        scan_of(decay, cache.u.matrix(), cache.delta.matrix(), cache.z.matrix(), cache.p.matrix()),
        du.matrix(), batch.count(), sequence,
        {da.data(), gradient.skip.data(), du.matrix(), d_delta.matrix(), dz.matrix(),
         dp.matrix().middle_cols(R, N), dp.matrix().middle_cols(R + N, N)});
    add_decay_gradient(da.data(), decay, gradient.A_log);

    const MatrixView<const Real> r = cache.p.matrix().middle_cols(0, R);
    add_product_tn(d_delta.matrix(), r, gradient.dt_proj.weight.matrix());
    add_bias_gradient<Real, E>(d_delta, gradient.dt_proj.bias);
    product_nn(d_delta.matrix(), dt_proj.weight.matrix(), dp.matrix().middle_cols(0, R));
    add_linear_weight_gradient<Real, P, E>(dp, cache.u, gradient.x_proj.weight);
    add_linear_input_gradient<Real, P, E>(dp, x_proj.weight, du);
    const auto dx = conv1d.backward(du, conv_of(batch), cache.conv, gradient.conv1d);
    const MatrixView<Real> dw_x = x_rows(gradient.in_proj.weight);
    const MatrixView<Real> dw_z = z_rows(gradient.in_proj.weight);
    add_product_tn(dx.matrix(), cache.h.matrix(), dw_x);
    add_product_tn(dz.matrix(), cache.h.matrix(), dw_z);
    if constexpr (C.bias) {
      add_column_sums(dx.matrix(), gradient.in_proj.bias.data());
      add_column_sums(dz.matrix(), gradient.in_proj.bias.data() + E);
    }
    Sequence<Real, D> dh(T);
    product_nn(dx.matrix(), x_rows(in_proj.weight), dh.matrix());
    product_nn(dz.matrix(), z_rows(in_proj.weight), dh.matrix(), {.accumulate = true});
    return dh;
  }

 private:
  static auto conv_of(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return s.conv; });
  }
  template <class T>
  static auto x_rows(T& weight) {
    return weight.matrix().middle_rows(0, E);
  }
  template <class T>
  static auto z_rows(T& weight) {
    return weight.matrix().middle_rows(E, E);
  }

  /// δ̃ = W_dt r + b_dt        p [T x (R + 2N)] -> [T x E]
  Sequence<Real, E> step_sizes(const Sequence<Real, P>& p) const {
    return linear(SequenceView<Real, R>(p.data(), p.rows(), P), dt_proj.weight,
                  dt_proj.bias.data());
  }

  SelectiveScan<Real> scan_of(const DecayBlocks<Real>& a, MatrixView<const Real> u,
                              MatrixView<const Real> delta, MatrixView<const Real> z,
                              MatrixView<const Real> p) const {
    return {N,
            a.data,
            a.powers,
            skip.data(),
            u,
            delta,
            z,
            p.middle_cols(R, N),
            p.middle_cols(R + N, N)};
  }

  void scan(const DecayBlocks<Real>& a, MatrixView<const Real> u, MatrixView<const Real> delta,
            MatrixView<const Real> z, MatrixView<const Real> p, const Batch<State>& batch,
            MatrixView<Real> y, Cache* cache = nullptr) const {
    const auto sequence = [&](Index i) {
      const Index first = batch.begin(i), rows = batch.end(i, u.rows) - first;
      Real* const kept = cache == nullptr
                             ? nullptr
                             : cache->kept.data() + cache->chunks[i] * scan_state_size(E, N);
      return ScanSequence<Real>{first, rows, batch.carries() ? batch[i].scan.data() : nullptr,
                                kept};
    };
    selective_scan<Real>(scan_of(a, u, delta, z, p), batch.count(), sequence, y);
  }

  void scan_step(const DecayRates<S, E, N>& rates, MatrixView<Real> u, MatrixView<const Real> delta,
                 MatrixView<const Real> z, MatrixView<const Real> p, Real* state) const noexcept {
    for_each_decay_piece(rates, [&](const DecayBlocks<Real>& a, Index e, Index channels) {
      SelectiveScan<Real> s = scan_of(a, u.middle_cols(e, channels), delta.middle_cols(e, channels),
                                      z.middle_cols(e, channels), p);
      s.d += e;
      selective_scan<Real>(
          s, 1, [&](Index) { return ScanSequence<Real>{0, 1, state + e * N, nullptr}; },
          u.middle_cols(e, channels));
    });
  }

  static void count_chunks(const Batch<State>& batch, Index T, Cache& cache) {
    cache.chunks = Buffer<Index>(batch.count());
    Index chunks = 0;
    for (Index i = 0; i < batch.count(); ++i) {
      cache.chunks[i] = chunks;
      chunks += (batch.end(i, T) - batch.begin(i) + scan_chunk - 1) / scan_chunk;
    }
    cache.kept = Buffer<Real>(chunks * scan_state_size(E, N));
  }
};

}  // namespace limen::inline LIMEN_ABI
