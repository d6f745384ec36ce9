#pragma once
/// @file  The largest, or the mean, of each window of an image, channel by channel.
///
///   MaxPool      y[p, q] = max_{k,l} x[p s + k - r, q s + l - r]        padding is never the
///   largest AveragePool  y[p, q] = mean_{k,l} of the same                       padding counts as
///   0, or not GlobalAveragePool: one window, the whole image
///
///   A row is one image with its channels side by side: x [T x H H' C], y [T x positions C].
///   Of equals, the first is the largest: to it flows the gradient.

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/pool.hpp>

namespace limen::inline LIMEN_ABI {

struct PoolConfig {
  Extent image = {};          ///< of the input
  Index d = 0;                ///< C, channels
  Extent kernel{2, 2};        ///< the window
  Extent stride = kernel;     ///< s
  Extent padding{0, 0};       ///< r, on each side
  bool count_padding = true;  ///< the mean is over the whole window, also where it leaves the image

  constexpr Window2d window() const { return {image, d, kernel, stride, padding, {}}; }
};

enum class PoolKind { max, average };

template <PoolKind kind, PoolConfig C, class S = float>
struct Pool {
  static_assert(C.image.height > 0 && C.image.width > 0, "Pool: .image must not be empty");
  static_assert(C.d > 0, "Pool: .d must be positive");
  static_assert(C.kernel.height > 0 && C.kernel.width > 0, "Pool: .kernel must be positive");
  static_assert(C.stride.height > 0 && C.stride.width > 0, "Pool: .stride must be positive");
  static_assert(C.padding.height >= 0 && C.padding.width >= 0,
                "Pool: .padding must not be negative");
  static_assert(2 * C.padding.height <= C.kernel.height && 2 * C.padding.width <= C.kernel.width,
                "Pool: .padding must be at most half the kernel, or a window could be empty");
  static_assert(C.window().positions() > 0, "Pool: the kernel must fit into the padded image");

  static constexpr PoolConfig config = C;
  static constexpr Window2d window = C.window();
  static constexpr Extent out_image = window.out();
  static constexpr Index in = C.image.height * C.image.width * C.d;
  static constexpr Index out = window.positions() * C.d;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Pool<kind, C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}

  static Pool initialized(Random&) { return {}; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    for (Index t = 0; t < x.rows(); ++t) pool(x.row(t).data(), y.row_data(t));
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    pool(x.data(), y.data());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Index rows = 0;
    Sequence<Real, in> x;  ///< [T x H H' C] where the maximum is looked for again, else empty
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    auto y = forward(SequenceView<Real, in>(x), batch);
    cache.rows = x.rows();
    if constexpr (kind == PoolKind::max) cache.x = std::move(x);
    return y;
  }

  /// max: dx += dy at the largest of the window;  mean: dx += dy / n at its n numbers
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Pool&) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    const FlushDenormals guard;
    auto dx = Sequence<Real, in>::zeros(dy.rows());
    for (Index t = 0; t < dy.rows(); ++t) {
      const Real* d = dy.row(t).data();
      if constexpr (kind == PoolKind::max) {
        add_max_pool_gradient(window, cache.x.row(t).data(), d, dx.row_data(t));
      } else {
        add_average_pool_gradient(window, C.count_padding, d, dx.row_data(t));
      }
    }
    return dx;
  }

 private:
  static void pool(const Real* x, Real* y) noexcept {
    if constexpr (kind == PoolKind::max) {
      max_pool(window, x, y);
    } else {
      average_pool(window, C.count_padding, x, y);
    }
  }
};

template <PoolConfig C, class S = float>
using MaxPool = Pool<PoolKind::max, C, S>;
template <PoolConfig C, class S = float>
using AveragePool = Pool<PoolKind::average, C, S>;

struct GlobalPoolConfig {
  Extent image = {};  ///< of the input
  Index d = 0;        ///< C, channels

  constexpr operator PoolConfig() const {  // NOLINT: one window
    return {.image = image, .d = d, .kernel = image};
  }
};

/// y [T x C]: the mean over all pixels.
template <GlobalPoolConfig C, class S = float>
using GlobalAveragePool = AveragePool<PoolConfig(C), S>;

}  // namespace limen::inline LIMEN_ABI
