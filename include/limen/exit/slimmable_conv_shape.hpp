#pragma once
/// @file  Sizes of a slimmable network of convolutions.

#include <algorithm>
#include <array>

#include <limen/exit/slimmable_shape.hpp>
#include <limen/kernel/conv.hpp>

namespace limen::inline LIMEN_ABI {

struct SlimmableConvConfig {
  Extent image = {};                                    ///< of the input
  Index d_in = 0;                                       ///< I, channels
  Index d_hidden = 0;                                   ///< H, channels at width 1
  Index d_out = 0;                                      ///< C
  Index depth = 2;                                      ///< L, convolutions, at most 8
  Extent kernel{3, 3};                                  ///< of all of them
  Extent padding{1, 1};                                 ///< zeros on each side
  std::array<Index, 8> stride{1, 1, 1, 1, 1, 1, 1, 1};  ///< of each
  SlimWidths widths{};                                  ///< a
  bool switchable = true;                               ///< scale and shift for each width
  double eps = 1e-5;                                    ///< of the norms

  constexpr Window2d window(Index l, Index channels) const {
    Extent from = image;
    for (Index i = 0; i < l; ++i) from = window_of(from, i, 1).out();
    return window_of(from, l, channels);
  }

 private:
  constexpr Window2d window_of(Extent from, Index l, Index channels) const {
    const Index s = stride[static_cast<std::size_t>(l)];
    return {from, channels, kernel, {s, s}, padding, {}};
  }
};

namespace detail {

template <SlimmableConvConfig C>
struct SlimmableConvShape
    : SlimRuns<SlimmableConvShape<C>, C.widths, C.image.height * C.image.width * C.d_in, C.d_out> {
  static_assert(C.image.height > 0 && C.image.width > 0 && C.d_in > 0 && C.d_hidden > 0 &&
                    C.d_out > 0 && C.depth > 0 && C.depth <= 8,
                "SlimmableConv: sizes must be positive, .depth at most 8");
  static_assert(C.widths.sound(), "SlimmableConv: .widths must ascend to 1");
  static_assert(C.window(C.depth - 1, 1).positions() > 0,
                "SlimmableConv: kernels must fit into the padded images");

  static constexpr Index I = C.d_in, H = C.d_hidden, O = C.d_out, L = C.depth;
  static constexpr Index taps = C.kernel.height * C.kernel.width;

  static constexpr Index channels(Index k) { return C.widths.channels(k, H); }
  /// Channels that layer l takes at width k; layer L is the last, a linear one.
  static constexpr Index takes(Index l, Index k) { return l == 0 ? I : channels(k); }
  static constexpr Window2d window(Index l, Index k) { return C.window(l, takes(l, k)); }
  static constexpr Index positions(Index l) { return C.window(l, 1).positions(); }
  static constexpr Index norm_rows(Index l, Index rows) { return rows * positions(l); }

  static constexpr Index macs(Index k) {
    Index sum = channels(k) * O;
    for (Index l = 0; l < L; ++l) sum += positions(l) * taps * takes(l, k) * channels(k);
    return sum;
  }

  // ── Room for one image: two maps, the windows of some positions, means ─────────────────────────
  static constexpr Index most_positions = [] {
    Index most = 0;
    for (Index l = 0; l < L; ++l) most = positions(l) > most ? positions(l) : most;
    return most;
  }();
  static constexpr Index columns = taps * (H > I ? H : I);
  /// Positions at a time: windows of 64 KiB or so.
  static constexpr Index block = columns >= 1365 ? 12 : 16384 / columns / 12 * 12;
  static constexpr Index room(Index) {
    return 2 * most_positions * H + (block < most_positions ? block : most_positions) * columns + H;
  }
};

/// Means over the rows of h.
template <class Real>
void mean_rows(MatrixView<const Real> h, Real* mean) noexcept {
  for (Index i = 0; i < h.cols; ++i) mean[i] = 0;
  for (Index p = 0; p < h.rows; ++p) {
    for (Index i = 0; i < h.cols; ++i) mean[i] += h(p, i);
  }
  for (Index i = 0; i < h.cols; ++i) mean[i] /= static_cast<Real>(h.rows);
}

/// One image through all layers at width k: layer(l, windows, to), for layer L the mean.
template <class Shape, class Real, class Layer>
void slim_image(Index k, const Real* x, Real* y, Real* room, const Layer& layer) {
  constexpr Index L = Shape::L, map = Shape::most_positions * Shape::H;
  const Index n = Shape::channels(k);
  Real *const windows = room + 2 * map, *mean = room + Shape::room(1) - Shape::H;
  for (Index l = 0; l < L; ++l) {
    const Window2d window = Shape::window(l, k);
    const Index P = Shape::positions(l), columns = window.columns();
    Real* const to = room + l % 2 * map;
    for (Index p = 0; p < P; p += Shape::block) {
      const Index some = std::min(Shape::block, P - p);
      gather_windows(window, x, p, some, windows);
      layer(l, MatrixView<Real>{windows, some, columns, columns},
            MatrixView<Real>{to + p * n, some, n, n});
    }
    x = to;
  }
  mean_rows<Real>({x, Shape::positions(L - 1), n, n}, mean);
  layer(L, MatrixView<Real>{mean, 1, n, n}, MatrixView<Real>{y, 1, Shape::O, Shape::O});
}

/// [taps][channels] of each window becomes [channels][taps], as the weight lies; and back.
template <class Real>
void turn_windows(Real* windows, Index count, Index taps, Index channels, bool back, Real* room) {
  for (Index p = 0; p < count; ++p, windows += taps * channels) {
    std::copy_n(windows, taps * channels, room);
    for (Index i = 0; i < channels; ++i) {
      for (Index j = 0; j < taps; ++j) {
        (back ? windows[j * channels + i] : windows[i * taps + j]) =
            back ? room[i * taps + j] : room[j * channels + i];
      }
    }
  }
}

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
