#pragma once
/// @file  Causal convolution of each channel with a short filter of its own.
///
///   y_t = a(b + Σ_{j<W} w_j ⊙ x_{t-(W-1)+j})        x_t = 0 before the start
///
///   x, y [T x C], w [C, 1, W] as PyTorch stores it, b [C]; the last tap multiplies the current
///   row. State: the last W - 1 inputs, oldest first.        a: SiLU, or nothing
///
/// The short filter before the scan of Mamba (Gu & Dao, arXiv:2312.00752, section 3.4) and of most
/// linear recurrent blocks since.

#include <algorithm>
#include <cstring>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/conv.hpp>
#include <limen/kernel/depthwise_conv.hpp>

namespace limen::inline LIMEN_ABI {

struct DepthwiseConvConfig {
  Index d = 0;                                   ///< C, channels
  Index width = 4;                               ///< W, taps
  bool bias = true;                              ///< add b
  Activation activation = Activation::identity;  ///< a: identity or silu
};

/// The weight [C, 1, W] with its taps turned outwards: [W][C].
template <class Real, Index C, Index W>
class PackedChannelTaps {
 public:
  using Scalar = Real;
  void prepare_from(const Tensor<Real, C, 1, W>& w) { taps_first(w.data(), 1, C, W, w_.data()); }
  const Real* data() const { return w_.data(); }

 private:
  Tensor<Real, W, C> w_;
};

template <class S, Index C, Index W>
using ChannelTaps = std::conditional_t<is_prepared<S>, PackedChannelTaps<real_of<S>, C, W>,
                                       Tensor<real_of<S>, C, 1, W>>;

template <class Real, Index W, Index D>
struct DepthwiseConvState {
  Fixed<Real, W - 1, D> past;  ///< inputs, oldest first
};

template <DepthwiseConvConfig C, class S = float>
struct DepthwiseConv {
  static_assert(C.d > 0, "DepthwiseConv: .d must be positive");
  static_assert(C.width > 1, "DepthwiseConv: .width must be at least 2");
  static_assert(C.activation == Activation::identity || C.activation == Activation::silu,
                "DepthwiseConv: .activation must be identity or silu");

  static constexpr DepthwiseConvConfig config = C;
  static constexpr Index D = C.d, W = C.width, in = D, out = D;
  static constexpr bool silu = C.activation == Activation::silu;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = DepthwiseConv<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  ChannelTaps<S, D, W> weight;             ///< w
  Optional<C.bias, Tensor<Real, D>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static DepthwiseConv initialized(Random& random) {
    DepthwiseConv layer;
    fill_fan_in(layer.weight, random);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{W}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * D * W; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = DepthwiseConvState<Real, W, D>;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return run(x, batch);
  }

  /// The same sum, and the past moves on by one.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> y;
    Real* past = state.past.data();
    if constexpr (is_prepared<S>) {
      depthwise_conv<Real>(W, silu, {x.matrix(), past, W - 1}, weight.data(), data_or_null(bias),
                           y.matrix());
    } else {
      for (Index c = 0; c < D; ++c) {
        const Real* w = weight.data() + c * W;
        Real sum = 0;
        if constexpr (C.bias) sum = bias[c];
        for (Index j = 0; j + 1 < W; ++j) sum += w[j] * past[j * D + c];
        y[c] = sum + w[W - 1] * x[c];
      }
      if constexpr (silu) activate(C.activation, y.data(), y.data(), D);
    }
    std::memmove(past, past + D, sizeof(Real) * std::size_t{(W - 2) * D});
    std::memcpy(past + (W - 2) * D, x.data(), sizeof(Real) * std::size_t{D});
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;  ///< [T x C]
    Buffer<Real> before;  ///< [B][W - 1][C], the first states; empty if all started from rest
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.before = Buffer<Real>(batch.carries() ? batch.count() * past_size : 0);
    for (Index b = 0; batch.carries() && b < batch.count(); ++b) {
      copy(batch[b].past.data(), past_size, cache.before.data() + b * past_size);
    }
    auto y = run(SequenceView<Real, D>(x), batch);
    cache.x = std::move(x);
    return y;
  }

  /// With dz = dy ⊙ a'(z), and zero outside of the sequence:
  ///   dx_t = Σ_k w_{W-1-k} ⊙ dz_{t+k},  dw_{W-1-k} = Σ_t x_t ⊙ dz_{t+k},  db = Σ_t dz_t
  /// where t also runs over the W - 1 rows of the first state. The gradient of the last state is
  /// added to the rows that it was made of.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             DepthwiseConv& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const Index kept = cache.before.size() / past_size;
    if (kept > 0 && !fits_cache(batch.count(), kept, "sequences of the batch")) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(dy.rows()), dz;
    Buffer<Real> w(W * D), dw(W * D), d_last(batch.carries() ? past_size : 0);
    taps_first(weight.data(), 1, D, W, w.data());
    for (Real& v : dw) v = 0;
    if constexpr (silu) dz = Sequence<Real, D>(dy.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), rows = batch.end(b, dy.rows()) - first;
      const Real* before = cache.before.size() > 0 ? cache.before.data() + b * past_size : nullptr;
      const CausalRows<Real> x{cache.x.matrix().middle_rows(first, rows), before, W - 1};
      MatrixView<const Real> d = dy.matrix().middle_rows(first, rows);
      if constexpr (silu) {
        const auto z = dz.matrix().middle_rows(first, rows);
        depthwise_conv<Real>(W, false, x, w.data(), data_or_null(bias), z);
        silu_backward(d, z);
        d = z;
      }
      Real* d_first = nullptr;
      if (batch.carries()) {
        d_first = batch[b].past.data();
        copy(d_first, past_size, d_last.data());
      }
      depthwise_conv_backward<Real>(W, d, x, w.data(), dx.matrix().middle_rows(first, rows),
                                    d_first, dw.data(), data_or_null(gradient.bias));
      for (Index i = 0; d_first != nullptr && i < W - 1; ++i) {
        const Index t = rows - (W - 1) + i;  // the row that became row i of the last state
        Real* to = t >= 0 ? dx.row_data(first + t) : d_first + (t + W - 1) * D;
        const Real* from = d_last.data() + i * D;
        simd::for_each<Real>(D, [&](Index c, auto load, auto store) {
          store(to + c, load(to + c) + load(from + c));
        });
      }
    }
    add_taps_last(dw.data(), 1, D, W, gradient.weight.data());
    return dx;
  }

 private:
  static constexpr Index past_size = (W - 1) * D;

  static void copy(const Real* from, Index n, Real* to) { std::copy_n(from, n, to); }

  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch) const {
    Sequence<Real, D> y(x.rows());
    Buffer<Real> turned(is_prepared<S> ? 0 : W * D);
    if constexpr (!is_prepared<S>) taps_first(weight.data(), 1, D, W, turned.data());
    const Real* w = is_prepared<S> ? weight.data() : turned.data();
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), rows = batch.end(b, x.rows()) - first;
      Real* past = batch.carries() ? batch[b].past.data() : nullptr;
      const CausalRows<Real> from{x.matrix().middle_rows(first, rows), past, W - 1};
      depthwise_conv<Real>(W, silu, from, w, data_or_null(bias),
                           y.matrix().middle_rows(first, rows));
      for (Index i = 0; batch.carries() && rows > 0 && i < W - 1; ++i) {
        copy(from.row(rows - (W - 1) + i), D, past + i * D);  // from later rows to earlier ones
      }
    }
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
