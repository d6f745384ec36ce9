#pragma once
/// @file  Convolutions and pooling over rows whose channels lie side by side.
///
///   depthwise_conv    y_t = a(b + Σ_j w_j ⊙ x_{t-(W-1)+j})      one filter per channel
///   Window2d          where the windows of an image lie; gather_windows copies them into rows, so
///                     that a convolution is a product, scatter_windows adds rows back
///   max_pool, average_pool and what flows back
///
/// An image is [height][width][channels] numbers. Weights are [taps][channels]: `taps_first` makes
/// that from the [channels][taps] of checkpoints, `add_taps_last` goes back.

#include <cstring>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// to[o][k][i] = w[o][i][k]
template <class Real>
void taps_first(const Real* w, Index outs, Index ins, Index taps, Real* to) noexcept {
  for (Index o = 0; o < outs; ++o, w += ins * taps, to += ins * taps) {
    for (Index i = 0; i < ins; ++i) {
      for (Index k = 0; k < taps; ++k) to[k * ins + i] = w[i * taps + k];
    }
  }
}

/// to[o][i][k] += w[o][k][i]
template <class Real>
void add_taps_last(const Real* w, Index outs, Index ins, Index taps, Real* to) noexcept {
  for (Index o = 0; o < outs; ++o, w += ins * taps, to += ins * taps) {
    for (Index i = 0; i < ins; ++i) {
      for (Index k = 0; k < taps; ++k) to[i * taps + k] += w[k * ins + i];
    }
  }
}

// ── Depthwise, causal ────────────────────────────────────────────────────────────────────────────

/// What a depthwise convolution runs over: row t is x.row(t), and for -(W - 1) <= t < 0 a row of
/// `before` [W - 1][C], oldest first; zeros if that is null.
template <class Real>
struct CausalRows {
  MatrixView<const Real> x;
  const Real* before;
  Index past;  ///< W - 1

  const Real* row(Index t) const {
    if (t >= 0) return x.row(t);
    return before == nullptr ? nullptr : before + (t + past) * x.cols;
  }
};

namespace detail {

/// Rows at a time: long enough to load weights and the first window seldom, short enough that the
/// rows a column of vectors runs through stay in the cache for the next one.
inline constexpr Index conv_rows = 16;

template <class Real, int W, bool Silu>
void depthwise_conv(const CausalRows<Real>& in, const Real* w, const Real* b,
                    MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols;
  for (Index t0 = 0; t0 < y.rows; t0 += conv_rows) {
    const Index t1 = t0 + conv_rows < y.rows ? t0 + conv_rows : y.rows;
    const Real* early[W];
    for (int j = 0; j + 1 < W; ++j) early[j] = in.row(t0 - (W - 1) + j);
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V weight[W], window[W];
      LIMEN_UNROLL for (int j = 0; j < W; ++j) weight[j] = load(w + j * C + i);
      LIMEN_UNROLL for (int j = 0; j + 1 < W; ++j) {
        window[j] = early[j] != nullptr ? load(early[j] + i) : V(Real(0));
      }
      const V bias = b != nullptr ? load(b + i) : V(Real(0));
      const Real* from = in.x.row(t0) + i;
      Real* to = y.row(t0) + i;
      for (Index t = t0; t < t1; ++t, from += in.x.stride, to += y.stride) {
        window[W - 1] = load(from);
        V sum = bias;
        LIMEN_UNROLL for (int j = 0; j < W; ++j) sum = simd::fma(weight[j], window[j], sum);
        if constexpr (Silu) sum = math::silu(sum);
        store(to, sum);
        LIMEN_UNROLL for (int j = 0; j + 1 < W; ++j) window[j] = window[j + 1];
      }
    });
  }
}

/// The same for any width.
template <class Real>
void depthwise_conv_any(Index W, bool silu, const CausalRows<Real>& in, const Real* w,
                        const Real* b, MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols;
  for (Index t = 0; t < y.rows; ++t) {
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V sum = b != nullptr ? load(b + i) : V(Real(0));
      for (Index j = 0; j < W; ++j) {
        const Real* row = in.row(t - (W - 1) + j);
        if (row != nullptr) sum = simd::fma(load(w + j * C + i), load(row + i), sum);
      }
      store(y.row(t) + i, silu ? math::silu(sum) : sum);
    });
  }
}

template <class Real, int W>
void depthwise_conv_backward(MatrixView<const Real> dy, const CausalRows<Real>& in, const Real* w,
                             MatrixView<Real> dx, Real* d_before, Real* dw, Real* db) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols, T = in.x.rows;
  const auto d_row = [&](Index t) { return t >= 0 && t < T ? dy.row(t) : nullptr; };
  for (Index t0 = 1 - W; t0 < T; t0 += conv_rows) {
    const Index t1 = t0 + conv_rows < T ? t0 + conv_rows : T;
    const Real* early[W];
    for (int k = 0; k + 1 < W; ++k) early[k] = d_row(t0 + k);
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V weight[W], d_weight[W], window[W];  // window[k] is dy of row t + k
      LIMEN_UNROLL for (int j = 0; j < W; ++j) {
        weight[j] = load(w + j * C + i);
        d_weight[j] = load(dw + j * C + i);
      }
      LIMEN_UNROLL for (int k = 0; k + 1 < W; ++k) {
        window[k] = early[k] != nullptr ? load(early[k] + i) : V(Real(0));
      }
      V d_bias = db != nullptr ? load(db + i) : V(Real(0));
      for (Index t = t0; t < t1; ++t) {
        const Real* ahead = t + W - 1 < T ? dy.row(t + W - 1) : nullptr;
        window[W - 1] = ahead != nullptr ? load(ahead + i) : V(Real(0));
        V sum(Real(0));
        LIMEN_UNROLL for (int k = 0; k < W; ++k) {
          sum = simd::fma(weight[W - 1 - k], window[k], sum);
        }
        if (const Real* row = in.row(t)) {
          const V x = load(row + i);
          LIMEN_UNROLL for (int k = 0; k < W; ++k) {
            d_weight[W - 1 - k] = simd::fma(x, window[k], d_weight[W - 1 - k]);
          }
        }
        if (t >= 0) {
          d_bias = d_bias + window[0];
          store(dx.row(t) + i, sum);
        } else if (d_before != nullptr) {
          store(d_before + (t + W - 1) * C + i, sum);
        }
        LIMEN_UNROLL for (int k = 0; k + 1 < W; ++k) window[k] = window[k + 1];
      }
      LIMEN_UNROLL for (int j = 0; j < W; ++j) store(dw + j * C + i, d_weight[j]);
      if (db != nullptr) store(db + i, d_bias);
    });
  }
}

template <class Real>
void depthwise_conv_backward_any(Index W, MatrixView<const Real> dy, const CausalRows<Real>& in,
                                 const Real* w, MatrixView<Real> dx, Real* d_before, Real* dw,
                                 Real* db) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols, T = in.x.rows;
  for (Index t = 1 - W; t < T; ++t) {
    const Real* row = in.row(t);
    Real* to = t >= 0 ? dx.row(t) : d_before == nullptr ? nullptr : d_before + (t + W - 1) * C;
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V sum(Real(0));
      for (Index k = t < 0 ? -t : 0; k < W && t + k < T; ++k) {
        const Index at = (W - 1 - k) * C + i;
        const V d = load(dy.row(t + k) + i);
        sum = simd::fma(load(w + at), d, sum);
        if (row != nullptr) store(dw + at, simd::fma(load(row + i), d, load(dw + at)));
      }
      if (t >= 0 && db != nullptr) store(db + i, load(db + i) + load(dy.row(t) + i));
      if (to != nullptr) store(to + i, sum);
    });
  }
}

}  // namespace detail

/// y_t = a(b + Σ_j w_j ⊙ x_{t-(W-1)+j})        w [W][C], b [C] or null, a: SiLU or nothing
template <class Real>
void depthwise_conv(Index width, bool silu, const CausalRows<Real>& in, const Real* w,
                    const Real* b, MatrixView<Real> y) noexcept {
  const auto run = [&](auto W) {
    if (silu) {
      detail::depthwise_conv<Real, W, true>(in, w, b, y);
    } else {
      detail::depthwise_conv<Real, W, false>(in, w, b, y);
    }
  };
  switch (width) {
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 3:
      return run(std::integral_constant<int, 3>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    default:
      return detail::depthwise_conv_any(width, silu, in, w, b, y);
  }
}

/// For a = identity, with dy = 0 outside of its rows:
///   dx_t = Σ_k w_{W-1-k} ⊙ dy_{t+k},  dw_{W-1-k} += Σ_t x_t ⊙ dy_{t+k},  db += Σ_t dy_t
/// Rows t < 0 of dx go to `d_before` [W - 1][C] (overwritten, null: dropped). db may be null.
template <class Real>
void depthwise_conv_backward(Index width, std::type_identity_t<MatrixView<const Real>> dy,
                             const CausalRows<Real>& in, const Real* w, MatrixView<Real> dx,
                             Real* d_before, Real* dw, Real* db) noexcept {
  const auto run = [&](auto W) {
    detail::depthwise_conv_backward<Real, W>(dy, in, w, dx, d_before, dw, db);
  };
  switch (width) {
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 3:
      return run(std::integral_constant<int, 3>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    default:
      return detail::depthwise_conv_backward_any<Real>(width, dy, in, w, dx, d_before, dw, db);
  }
}

/// dz = dy silu'(z), where z is overwritten:  silu' = s (1 + z (1 - s)),  s = sigma(z)
template <class Real>
void silu_backward(std::type_identity_t<MatrixView<const Real>> dy, MatrixView<Real> z) noexcept {
  for (Index t = 0; t < z.rows; ++t) {
    const Real* d = dy.row(t);
    Real* to = z.row(t);
    simd::for_each<Real>(z.cols, [&](Index i, auto load, auto store) {
      const auto v = load(to + i);
      using V = std::remove_const_t<decltype(v)>;
      const V s = math::sigmoid(v);
      store(to + i, load(d + i) * s * simd::fma(v, V(Real(1)) - s, V(Real(1))));
    });
  }
}

// ── Windows of an image ──────────────────────────────────────────────────────────────────────────

/// Height and width of something.
struct Extent {
  Index height = 1;
  Index width = 1;
};

/// The windows that a kernel sees of an image [height][width][channels].
struct Window2d {
  Extent image = {};
  Index channels = 1;
  Extent kernel = {};
  Extent stride = {};
  Extent padding{0, 0};
  Extent dilation = {};

  static constexpr Index count(Index size, Index kernel, Index stride, Index padding,
                               Index dilation) {
    const Index span = dilation * (kernel - 1) + 1;
    return size + 2 * padding < span ? 0 : (size + 2 * padding - span) / stride + 1;
  }
  constexpr Extent out() const {
    return {count(image.height, kernel.height, stride.height, padding.height, dilation.height),
            count(image.width, kernel.width, stride.width, padding.width, dilation.width)};
  }
  constexpr Index positions() const { return out().height * out().width; }
  constexpr Index taps() const { return kernel.height * kernel.width; }
  /// Numbers in a window.
  constexpr Index columns() const { return taps() * channels; }
};

namespace detail {

/// f(tap, pixel) for the taps of window p; pixel counts pixels of the image, -1 is padding.
template <class F>
LIMEN_INLINE void for_each_tap(const Window2d& s, Index p, F&& f) {
  const Index across = s.out().width;
  const Index y0 = (p / across) * s.stride.height - s.padding.height;
  const Index x0 = (p % across) * s.stride.width - s.padding.width;
  Index tap = 0;
  for (Index a = 0; a < s.kernel.height; ++a) {
    const Index y = y0 + a * s.dilation.height;
    for (Index b = 0; b < s.kernel.width; ++b, ++tap) {
      const Index x = x0 + b * s.dilation.width;
      const bool inside = y >= 0 && y < s.image.height && x >= 0 && x < s.image.width;
      f(tap, inside ? y * s.image.width + x : Index{-1});
    }
  }
}

/// f(offset in a window, offset in the image or -1, count) for runs of numbers of window p that lie
/// side by side in both; -1 is padding. Without holes a run is a whole row of the kernel.
template <class F>
LIMEN_INLINE void for_each_run(const Window2d& s, Index p, F&& f) {
  const Index across = s.out().width, C = s.channels;
  const Index y0 = (p / across) * s.stride.height - s.padding.height;
  const Index x0 = (p % across) * s.stride.width - s.padding.width;
  for (Index a = 0; a < s.kernel.height; ++a) {
    const Index y = y0 + a * s.dilation.height, at = a * s.kernel.width * C;
    if (y < 0 || y >= s.image.height) {
      f(at, Index{-1}, s.kernel.width * C);
    } else if (s.dilation.width == 1) {
      const Index left = x0 < 0 ? -x0 : 0, beyond = x0 + s.kernel.width - s.image.width;
      const Index end = beyond > 0 ? s.kernel.width - beyond : s.kernel.width;  // of what is inside
      const Index from = left < s.kernel.width ? left : s.kernel.width,
                  to = end > from ? end : from;
      if (from > 0) f(at, Index{-1}, from * C);
      if (to > from) f(at + from * C, (y * s.image.width + x0 + from) * C, (to - from) * C);
      if (to < s.kernel.width) f(at + to * C, Index{-1}, (s.kernel.width - to) * C);
    } else {
      for (Index b = 0; b < s.kernel.width; ++b) {
        const Index x = x0 + b * s.dilation.width;
        const bool inside = x >= 0 && x < s.image.width;
        f(at + b * C, inside ? (y * s.image.width + x) * C : Index{-1}, C);
      }
    }
  }
}

}  // namespace detail

/// Row r of `columns` is window first + r of `image`: [taps][channels], zeros for padding.
template <class Real>
void gather_windows(const Window2d& s, const Real* image, Index first, Index count,
                    Real* columns) noexcept {
  using V = simd::Vec<Real>;
  for (Index p = first; p < first + count; ++p, columns += s.columns()) {
    detail::for_each_run(s, p, [&](Index to, Index from, Index n) {
      if (from >= 0) {
        simd::transform(image + from, columns + to, n, [](auto v) { return v; });
      } else {
        simd::for_each<Real>(
            n, [&](Index i, auto, auto store) { store(columns + to + i, V(Real(0))); });
      }
    });
  }
}

/// The way back: adds each window to the numbers it came from.
template <class Real>
void scatter_windows(const Window2d& s, const Real* columns, Index first, Index count,
                     Real* image) noexcept {
  for (Index p = first; p < first + count; ++p, columns += s.columns()) {
    detail::for_each_run(s, p, [&](Index from, Index to, Index n) {
      if (to < 0) return;
      const Real* a = columns + from;
      Real* sum = image + to;
      simd::for_each<Real>(
          n, [&](Index i, auto load, auto store) { store(sum + i, load(sum + i) + load(a + i)); });
    });
  }
}

// ── Pooling ──────────────────────────────────────────────────────────────────────────────────────

namespace detail {

/// The largest of window p in the channels from i on, and the first tap that has it. NaN is larger
/// than any number.
template <class Real, class V, class Load>
LIMEN_INLINE void largest(const Window2d& s, const Real* image, Index p, Index i, Load load,
                          V& best, V& where) {
  bool found = false;
  for_each_tap(s, p, [&](Index tap, Index pixel) {
    if (pixel < 0) return;
    const V v = load(image + pixel * s.channels + i);
    const V t(static_cast<Real>(tap));
    if (found) {
      // A NaN stays. NOLINTNEXTLINE(misc-redundant-expression)
      const auto known = best == best;
      where = simd::select(v <= best, where, simd::select(known, t, where));
      best = simd::select(v <= best, best, simd::select(known, v, best));
    } else {
      best = v;
      where = t;
      found = true;
    }
  });
}

}  // namespace detail

/// y [positions][channels]: the largest of each window, padding left out.
template <class Real>
void max_pool(const Window2d& s, const Real* image, Real* y) noexcept {
  using V = simd::Vec<Real>;
  for (Index p = 0; p < s.positions(); ++p) {
    simd::for_each<Real>(s.channels, [&](Index i, auto load, auto store) {
      V best(Real(0)), where(Real(0));
      detail::largest(s, image, p, i, load, best, where);
      store(y + p * s.channels + i, best);
    });
  }
}

/// d_image += dy at the pixel that was the largest; of equals, the first.
template <class Real>
void add_max_pool_gradient(const Window2d& s, const Real* image, const Real* dy,
                           Real* d_image) noexcept {
  using V = simd::Vec<Real>;
  for (Index p = 0; p < s.positions(); ++p) {
    simd::for_each<Real>(s.channels, [&](Index i, auto load, auto store) {
      V best(Real(0)), where(Real(0));
      detail::largest(s, image, p, i, load, best, where);
      const V d = load(dy + p * s.channels + i);
      detail::for_each_tap(s, p, [&](Index tap, Index pixel) {
        if (pixel < 0) return;
        Real* to = d_image + pixel * s.channels + i;
        store(to, load(to) + simd::select(where == V(static_cast<Real>(tap)), d, V(Real(0))));
      });
    });
  }
}

/// One over the numbers that a mean over window p counts: all taps, or those inside the image.
template <class Real>
Real window_share(const Window2d& s, Index p, bool count_padding) noexcept {
  Index inside = 0;
  detail::for_each_tap(s, p, [&](Index, Index pixel) { inside += pixel >= 0 ? 1 : 0; });
  return Real(1) / static_cast<Real>(count_padding ? s.taps() : inside);
}

/// y [positions][channels]: the mean of each window, padding being 0 or left out.
template <class Real>
void average_pool(const Window2d& s, bool count_padding, const Real* image, Real* y) noexcept {
  using V = simd::Vec<Real>;
  for (Index p = 0; p < s.positions(); ++p) {
    const V share(window_share<Real>(s, p, count_padding));
    simd::for_each<Real>(s.channels, [&](Index i, auto load, auto store) {
      V sum(Real(0));
      detail::for_each_tap(s, p, [&](Index, Index pixel) {
        if (pixel >= 0) sum = sum + load(image + pixel * s.channels + i);
      });
      store(y + p * s.channels + i, sum * share);
    });
  }
}

/// d_image += dy, shared out over the window.
template <class Real>
void add_average_pool_gradient(const Window2d& s, bool count_padding, const Real* dy,
                               Real* d_image) noexcept {
  using V = simd::Vec<Real>;
  for (Index p = 0; p < s.positions(); ++p) {
    const V share(window_share<Real>(s, p, count_padding));
    simd::for_each<Real>(s.channels, [&](Index i, auto load, auto store) {
      const V d = load(dy + p * s.channels + i) * share;
      detail::for_each_tap(s, p, [&](Index, Index pixel) {
        if (pixel < 0) return;
        Real* to = d_image + pixel * s.channels + i;
        store(to, load(to) + d);
      });
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
