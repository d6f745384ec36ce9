#pragma once
/// @file  Maximum and mean over windows of an image, and what flows back.

#include <limen/core/simd.hpp>
#include <limen/kernel/conv.hpp>

namespace limen::inline LIMEN_ABI {

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
