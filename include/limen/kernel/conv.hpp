#pragma once
/// @file  What a convolution is to a product: where the windows of an image lie. gather_windows
/// copies them into rows, so that a convolution is a product; scatter_windows adds rows back.
///
/// An image is [height][width][channels] numbers. Weights are [taps][channels]: `taps_first` makes
/// that from the [channels][taps] of checkpoints, `add_taps_last` goes back.

#include <cstring>

#include <limen/core/simd.hpp>

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

}  // namespace limen::inline LIMEN_ABI
