#pragma once
/// @file  Convolution of images.
///
///   y[p, q] = b + Σ_{k,l} W_{kl} x[p s + k d - r, q s + l d - r]        0 outside of the image
///
///   A row is one image with its channels side by side: x [T x H H' I] is
///   [height][width][channels], y likewise with O channels. W [O, I, kh, kw] as PyTorch stores it,
///   b [O]; s stride, d dilation, r padding. Conv1d is an image of height 1 whose weight is stored
///   [O, I, k].
///
/// The windows of a block of positions are copied into rows (small enough for the second-level
/// cache) and multiplied; a 1 x 1 kernel multiplies the image as it lies.

#include <cstring>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/conv.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/nn/batch_norm.hpp>
#include <limen/nn/taps.hpp>

namespace limen::inline LIMEN_ABI {

struct Conv2dConfig {
  Extent image = {};     ///< of the input
  Index d_in = 0;        ///< I, channels
  Index d_out = 0;       ///< O, channels
  Extent kernel{3, 3};   ///< kh, kw
  Extent stride = {};    ///< s
  Extent padding{0, 0};  ///< r, zeros on each side
  Extent dilation = {};  ///< d
  bool bias = true;      ///< add b
  bool line = false;     ///< the weight is stored [O, I, kw], without kh = 1

  constexpr Window2d window() const { return {image, d_in, kernel, stride, padding, dilation}; }
};

template <Conv2dConfig C, class S = float>
struct Conv2d {
  static_assert(C.image.height > 0 && C.image.width > 0, "Conv2d: .image must not be empty");
  static_assert(C.d_in > 0, "Conv2d: .d_in must be positive");
  static_assert(C.d_out > 0, "Conv2d: .d_out must be positive");
  static_assert(C.kernel.height > 0 && C.kernel.width > 0, "Conv2d: .kernel must be positive");
  static_assert(C.stride.height > 0 && C.stride.width > 0, "Conv2d: .stride must be positive");
  static_assert(C.padding.height >= 0 && C.padding.width >= 0,
                "Conv2d: .padding must not be negative");
  static_assert(C.dilation.height > 0 && C.dilation.width > 0,
                "Conv2d: .dilation must be positive");
  static_assert(C.window().positions() > 0, "Conv2d: the kernel must fit into the padded image");
  static_assert(!C.line || C.kernel.height == 1, "Conv2d: a .line has a kernel of height 1");

  static constexpr Conv2dConfig config = C;
  static constexpr Window2d window = C.window();
  static constexpr Extent out_image = window.out();
  static constexpr Index I = C.d_in, O = C.d_out, P = window.positions(), K = window.columns();
  static constexpr Index in = C.image.height * C.image.width * I, out = P * O;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Conv2d<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  std::conditional_t<C.line, Taps<S, O, I, C.kernel.width>,
                     Taps<S, O, I, C.kernel.height, C.kernel.width>>
      weight;                              ///< W
  Optional<C.bias, Tensor<Real, O>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static Conv2d initialized(Random& random) {
    Conv2d layer;
    fill_fan_in(layer.weight, random);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{K}), random);
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * P * K * O; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    return convolve(x);
  }

  /// One image. The learning form, which may not allocate, multiplies position by position with the
  /// weight as it is stored.
  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    constexpr Index block = is_prepared<S> ? (K <= 512 ? 12 : K <= 2048 ? 4 : 1) : 1;
    Vector<Real, block * K> windows;
    for (Index p = 0; p < P; p += block) {
      const Index n = P - p < block ? P - p : block;
      gather_windows(window, x.data(), p, n, windows.data());
      const MatrixView<Real> to{y.data() + p * O, n, O, O};
      if constexpr (is_prepared<S>) {
        product_nt<Real>({windows.data(), n, K, K}, weight.view(), to,
                         {.bias = data_or_null(bias)});
      } else {
        Vector<Real, K> turned;  // [I][taps]
        taps_first(windows.data(), 1, window.taps(), I, turned.data());
        product_nt<Real>(turned.matrix(), weight.matrix(), to, {.bias = data_or_null(bias)});
      }
    }
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;  ///< [T x H H' I]
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    auto y = convolve(x);
    cache.x = std::move(x);
    return y;
  }

  /// With X the windows of x, one position a row:  dW = dyᵀ X,  dX = dy W,  db = Σ dy,
  /// and dx sums what dX has for each pixel.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Conv2d& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    auto dx = Sequence<Real, in>::zeros(dy.rows());
    Buffer<Real> w(O * K), dw(O * K), windows(most_rows * K);
    taps_first(weight.data(), O, I, window.taps(), w.data());
    for (Real& v : dw) v = 0;
    for (Index t = 0; t < dy.rows(); ++t) {
      for (Index p = 0; p < P; p += most_rows) {
        const Index n = P - p < most_rows ? P - p : most_rows;
        const MatrixView<const Real> d{dy.row(t).data() + p * O, n, O, O};
        const MatrixView<Real> X{windows.data(), n, K, K};
        gather_windows(window, cache.x.row(t).data(), p, n, windows.data());
        add_product_tn<Real>(d, X, {dw.data(), O, K, K});
        product_nn<Real>(d, {w.data(), O, K, K}, X);
        scatter_windows(window, windows.data(), p, n, dx.row_data(t));
        if constexpr (C.bias) add_column_sums(d, gradient.bias.data());
      }
    }
    add_taps_last(dw.data(), O, I, window.taps(), gradient.weight.data());
    return dx;
  }

 private:
  /// Positions at a time: their windows take at most 128 KiB or so.
  static constexpr Index most_rows = K >= 2048       ? 24
                                     : 32768 / K < P ? (32768 / K + 11) / 12 * 12
                                                     : P;
  static constexpr bool direct = window.taps() == 1 && P * I == in;

  Sequence<Real, out> convolve(SequenceView<Real, in> x) const {
    Sequence<Real, out> y(x.rows());
    if (x.rows() == 0) return y;
    const auto& w = packed(weight);
    if (direct && x.stride() == in) {
      product_nt<Real>({x.data(), x.rows() * P, I, I}, w.view(), {y.data(), x.rows() * P, O, O},
                       {.bias = data_or_null(bias)});
      return y;
    }
    constexpr Index pieces = (P + most_rows - 1) / most_rows;
    const double work_ns = 0.02 * double{P * K * O} * static_cast<double>(x.rows());
    parallel_for(x.rows() * pieces, work_ns, [&](Index piece) {
      const Index t = piece / pieces, p = piece % pieces * most_rows;
      const Index n = P - p < most_rows ? P - p : most_rows;
      Buffer<Real> windows(n * K);
      gather_windows(window, x.row(t).data(), p, n, windows.data());
      product_nt<Real>({windows.data(), n, K, K}, w.view(), {y.row_data(t) + p * O, n, O, O},
                       {.bias = data_or_null(bias)});
    });
    return y;
  }
};

struct Conv1dConfig {
  Index length = 0;    ///< positions of the input
  Index d_in = 0;      ///< I, channels
  Index d_out = 0;     ///< O, channels
  Index kernel = 3;    ///< k
  Index stride = 1;    ///< s
  Index padding = 0;   ///< r, zeros on each side
  Index dilation = 1;  ///< d
  bool bias = true;    ///< add b

  constexpr operator Conv2dConfig() const {  // NOLINT: a line is an image of height 1
    return {.image = {1, length},
            .d_in = d_in,
            .d_out = d_out,
            .kernel = {1, kernel},
            .stride = {1, stride},
            .padding = {0, padding},
            .dilation = {1, dilation},
            .bias = bias,
            .line = true};
  }
};

/// x [T x length I] -> [T x length' O]: not causal; CausalConv1d runs over the rows instead.
template <Conv1dConfig C, class S = float>
using Conv1d = Conv2d<Conv2dConfig(C), S>;

namespace detail {
constexpr Conv2dConfig with_bias(Conv2dConfig c) {
  c.bias = true;
  return c;
}
}  // namespace detail

/// One Conv2d that computes norm(conv(x)) as in inference.
template <Conv2dConfig C, BatchNormConfig N, class Real>
Conv2d<detail::with_bias(C), Real> fold(const Conv2d<C, Real>& conv,
                                        const BatchNorm<N, Real>& norm) {
  static_assert(N.d == C.d_out && N.positions == C.window().positions(),
                "fold: the norm must fit the output");
  Conv2d<detail::with_bias(C), Real> folded;
  constexpr Index K = C.window().columns();
  for (Index o = 0; o < C.d_out; ++o) {
    Real before = 0;
    if constexpr (C.bias) before = conv.bias[o];
    const detail::FoldedChannel<N, Real> channel(norm, o, before);
    for (Index k = 0; k < K; ++k) folded.weight[o * K + k] = channel.scale * conv.weight[o * K + k];
    folded.bias[o] = channel.bias;
  }
  return folded;
}

}  // namespace limen::inline LIMEN_ABI
