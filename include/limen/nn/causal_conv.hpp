#pragma once
/// @file  Causal convolution over time with a full matrix per tap, and holes between the taps.
///
///   y_t = b + Σ_{j<K} W_j x_{t-(K-1-j)d}        x_t = 0 before the start
///
///   x [T x I], y [T x O], W [O, I, K] as PyTorch stores it, b [O]; d dilation
///   State: the last M = (K - 1) d inputs.
///
/// Dilations 1, 2, 4, ... stacked are the WaveNet (van den Oord et al., arXiv:1609.03499, section
/// 2.1) and the TCN (Bai et al., arXiv:1803.01271). Without holes the windows of neighbouring rows
/// overlap in memory, and the whole convolution is one product with rows I apart and K I long.

#include <cstdint>
#include <cstring>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/conv.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/nn/taps.hpp>

namespace limen::inline LIMEN_ABI {

struct CausalConv1dConfig {
  Index d_in = 0;      ///< I
  Index d_out = 0;     ///< O
  Index width = 2;     ///< K, taps
  Index dilation = 1;  ///< d, rows from tap to tap
  bool bias = true;    ///< add b
};

/// A ring: the i-th oldest input is row (oldest + i) mod M, so that a step writes one row only.
template <class Real, Index M, Index I>
struct CausalConv1dState {
  Fixed<Real, M, I> past;
  std::int64_t oldest = 0;  ///< 0 after `forward`, and in gradients
};

template <CausalConv1dConfig C, class S = float>
struct CausalConv1d {
  static_assert(C.d_in > 0, "CausalConv1d: .d_in must be positive");
  static_assert(C.d_out > 0, "CausalConv1d: .d_out must be positive");
  static_assert(C.width > 1,
                "CausalConv1d: .width must be at least 2 (with one tap it is a Linear)");
  static_assert(C.dilation > 0, "CausalConv1d: .dilation must be positive");

  static constexpr CausalConv1dConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out, K = C.width, M = (K - 1) * C.dilation;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = CausalConv1d<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Taps<S, out, in, K> weight;                ///< W
  Optional<C.bias, Tensor<Real, out>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static CausalConv1d initialized(Random& random) {
    CausalConv1d layer;
    fill_fan_in(layer.weight, random);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{in * K}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * in * out * K; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = CausalConv1dState<Real, M, in>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return convolve(extended(x, batch), batch, x.rows());
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    Vector<Real, K * in> window;  // [K][I] for panels, [I][K] for the weight as it is stored
    for (Index j = 0; j < K; ++j) {
      const Real* from = j + 1 < K ? past_row(state, j * C.dilation) : x.data();
      for (Index i = 0; i < in; ++i) window[is_prepared<S> ? j * in + i : i * K + j] = from[i];
    }
    if constexpr (is_prepared<S>) {
      product_nt(window.matrix(), weight.view(), y.matrix(), {.bias = data_or_null(bias)});
    } else {
      product_nt(window.matrix(), weight.matrix(), y.matrix(), {.bias = data_or_null(bias)});
    }
    copy(x.data(), in, past_row(state, 0));
    state.oldest = state.oldest + 1 == M ? 0 : state.oldest + 1;
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;  ///< [B M + T x I], each sequence behind the M rows before it
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.x = extended(x, batch);
    return convolve(cache.x, batch, x.rows());
  }

  /// dW_j = Σ_t dy_t x_{t-(K-1-j)d}ᵀ,  dx_s = Σ_j W_jᵀ dy_{s+(K-1-j)d},  db = Σ_t dy_t
  /// where x and dx reach M rows into the first state, and the gradient of the last state is added
  /// to the last M rows of dx.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              CausalConv1d& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows())) return {};
    if (!fits_cache(dy.rows(), cache.x.rows() - batch.count() * M)) return {};
    const FlushDenormals guard;
    Sequence<Real, in> dx(dy.rows());
    Buffer<Real> w(out * K * in), dw(out * K * in);
    taps_first(weight.data(), out, in, K, w.data());
    for (Real& v : dw) v = 0;
    const MatrixView<const Real> W{w.data(), out, K * in, K * in};
    const MatrixView<Real> dW{dw.data(), out, K * in, K * in};
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), rows = batch.end(b, dy.rows()) - first;
      const auto d = dy.matrix().middle_rows(first, rows);
      auto d_long = Sequence<Real, in>::zeros(M + rows);
      if (batch.carries()) {
        for (Index i = 0; i < M; ++i) copy(past_row(batch[b], i), in, d_long.row_data(rows + i));
      }
      for (Index j = 0; j < K; ++j) {
        product_nn(d, W.middle_cols(j * in, in), d_long.matrix().middle_rows(j * C.dilation, rows),
                   {.accumulate = true});
      }
      const Real* x = cache.x.row(first + b * M).data();
      if constexpr (C.dilation == 1) {
        add_product_tn(d, {x, rows, K * in, in}, dW);
      } else {
        for (Index j = 0; j < K; ++j) {
          add_product_tn(d, {x + j * C.dilation * in, rows, in, in}, dW.middle_cols(j * in, in));
        }
      }
      if (batch.carries()) {
        copy(d_long.data(), M * in, batch[b].past.data());
        batch[b].oldest = 0;
      }
      if (rows > 0) copy(d_long.row_data(M), rows * in, dx.row_data(first));
    }
    add_taps_last(dw.data(), out, in, K, gradient.weight.data());
    if constexpr (C.bias) add_column_sums(dy.matrix(), gradient.bias.data());
    return dx;
  }

 private:
  static void copy(const Real* from, Index n, Real* to) {
    std::memcpy(to, from, sizeof(Real) * static_cast<std::size_t>(n));
  }

  static Real* past_row(State& state, Index i) {
    const Index row = static_cast<Index>(state.oldest) + i;
    return state.past.data() + (row < M ? row : row - M) * in;
  }

  /// Each sequence behind the M rows before it; its last M rows become the state.
  static Sequence<Real, in> extended(SequenceView<Real, in> x, const Batch<State>& batch) {
    Sequence<Real, in> all(x.rows() + batch.count() * M);
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), rows = batch.end(b, x.rows()) - first;
      const Index start = first + b * M;
      for (Index i = 0; i < M; ++i) {
        if (batch.carries()) {
          copy(past_row(batch[b], i), in, all.row_data(start + i));
        } else {
          std::memset(all.row_data(start + i), 0, sizeof(Real) * std::size_t{in});
        }
      }
      for (Index t = 0; t < rows; ++t) {
        copy(x.row(first + t).data(), in, all.row_data(start + M + t));
      }
      if (batch.carries()) {
        copy(all.row_data(start + rows), M * in, batch[b].past.data());
        batch[b].oldest = 0;
      }
    }
    return all;
  }

  Sequence<Real, out> convolve(const Sequence<Real, in>& all, const Batch<State>& batch,
                               Index total) const {
    Sequence<Real, out> y(total);
    const auto& w = packed(weight);
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), rows = batch.end(b, total) - first;
      const Real* x = all.row(first + b * M).data();
      const auto to = y.matrix().middle_rows(first, rows);
      if constexpr (C.dilation == 1) {
        product_nt<Real>({x, rows, K * in, in}, w.view(), to, {.bias = data_or_null(bias)});
      } else {
        constexpr Index block = K * in < 512 ? 32768 / (K * in) : 64;  // windows of 128 KiB
        Buffer<Real> windows((rows < block ? rows : block) * K * in);
        for (Index t = 0; t < rows; t += block) {
          const Index n = rows - t < block ? rows - t : block;
          for (Index r = 0; r < n; ++r) {
            for (Index j = 0; j < K; ++j) {
              copy(x + (t + r + j * C.dilation) * in, in, windows.data() + (r * K + j) * in);
            }
          }
          product_nt<Real>({windows.data(), n, K * in, K * in}, w.view(), to.middle_rows(t, n),
                           {.bias = data_or_null(bias)});
        }
      }
    }
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
