#pragma once
/// @file  Widths of slimmable networks, and the runs at them that all their forms share.

#include <array>
#include <span>
#include <string>
#include <utility>

#include <limen/core/layer.hpp>
#include <limen/core/memory.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

/// Channels of v: a multiple of 8 nearby, at least 8, never less than 0.9 v.
constexpr Index slim_channels(double v) {
  const Index near = static_cast<Index>(v + 4) / 8 * 8;
  const Index n = near < 8 ? 8 : near;
  return static_cast<double>(n) < 0.9 * v ? n + 8 : n;
}

/// Shares of the channels, ascending to 1; zeros in front of them or behind are unused.
struct SlimWidths {
  double at[8] = {0.25, 0.5, 0.75, 1.0};

  constexpr Index unused() const {  // in front
    Index n = 0;
    while (n < 8 && at[n] == 0) ++n;
    return n;
  }
  constexpr Index count() const {
    Index n = 0;
    for (const double a : at) n += a != 0 ? 1 : 0;
    return n;
  }
  constexpr double operator[](Index k) const { return at[unused() + k]; }
  constexpr Index channels(Index k, Index all) const {
    if ((*this)[k] == 1) return all;
    const Index n = slim_channels((*this)[k] * static_cast<double>(all));
    return n < all ? n : all;
  }
  constexpr bool sound() const {
    double before = 0;
    for (Index k = 0; k < count(); ++k) {
      const double a = unused() + k < 8 ? (*this)[k] : 0;
      if (!(a > before)) return false;
      before = a;
    }
    return before == 1;
  }
};

struct SlimmableConfig {
  Index d_in = 0;          ///< I
  Index d_hidden = 0;      ///< H, at width 1
  Index d_out = 0;         ///< C
  Index depth = 2;         ///< L, hidden layers
  SlimWidths widths{};     ///< a
  bool switchable = true;  ///< scale and shift for each width
  double eps = 1e-5;       ///< of the norms
};

namespace detail {

/// Runs at widths of a network that has `at(k, x, y, room)`; Shape says how much room(rows) that
/// takes. I and O: numbers in a row, and classes.
template <class Shape, SlimWidths W, Index I, Index O>
struct SlimRuns {
  static constexpr Index K = W.count();

  /// The listed width that is `share`.
  static Result<Index> width_of(double share) {
    std::string all;
    for (Index k = 0; k < K; ++k) {
      if (W[k] == share) return k;
      all += (k > 0 ? ", " : "") + std::to_string(W[k]);
    }
    return Error{"Slimmable: width", "one that has statistics: " + all, std::to_string(share)};
  }
  static bool known(Index k) {
    if (k >= 0 && k < K) return true;
    fail({"Slimmable: width", "a number below " + std::to_string(K), std::to_string(k)});
    return false;
  }

  /// All widths side by side.
  template <class Net, class Real>
  static Sequence<Real, K * O> forward(const Net& net, SequenceView<Real, I> x) {
    Sequence<Real, K * O> y(x.rows());
    Buffer<Real> room(Shape::room(x.rows()));
    for (Index k = 0; k < K && x.rows() > 0; ++k) {
      net.at(k, x.matrix(), y.matrix().middle_cols(k * O, O), room.data());
    }
    return y;
  }
  template <class Net, class Real>
  static Vector<Real, K * O> step(const Net& net, VectorView<Real, I> x) noexcept {
    Vector<Real, K * O> y;
    Vector<Real, Shape::room(1)> room;
    for (Index k = 0; k < K; ++k) {
      net.at(k, x.matrix(), y.matrix().middle_cols(k * O, O), room.data());
    }
    return y;
  }

  template <class Net, class Real>
  static Sequence<Real, O> run(const Net& net, SequenceView<Real, I> x, Index k) {
    if (!known(k)) return {};
    Sequence<Real, O> y(x.rows());
    Buffer<Real> room(Shape::room(x.rows()));
    if (x.rows() > 0) net.at(k, x.matrix(), y.matrix(), room.data());
    return y;
  }

  /// Rows of one width together, in order.
  template <class Net, class Real>
  static Sequence<Real, O> run(const Net& net, SequenceView<Real, I> x,
                               std::span<const Index> widths) {
    if (static_cast<Index>(widths.size()) != x.rows()) {
      fail({"Slimmable: widths", std::to_string(x.rows()), std::to_string(widths.size())});
      return {};
    }
    for (const Index k : widths) {
      if (!known(k)) return {};
    }
    Sequence<Real, O> y(x.rows());
    Buffer<Index> mine(x.rows());
    for (Index k = 0; k < K; ++k) {
      Index n = 0;
      for (Index t = 0; t < x.rows(); ++t) {
        mine[n] = t;  // counted only if it is of this width
        n += widths[static_cast<std::size_t>(t)] == k ? 1 : 0;
      }
      if (n == 0) continue;
      Sequence<Real, I> some(n);
      gather_rows<Real>(x.matrix(), mine.data(), some.matrix());
      const auto part = run(net, SequenceView<Real, I>(some), k);
      scatter_rows<Real>(part.matrix(), mine.data(), y.matrix());
    }
    return y;
  }
};

template <SlimmableConfig C>
struct SlimmableShape : SlimRuns<SlimmableShape<C>, C.widths, C.d_in, C.d_out> {
  static_assert(C.d_in > 0 && C.d_hidden > 0 && C.d_out > 0 && C.depth > 0,
                "Slimmable: sizes must be positive");
  static_assert(C.widths.sound(), "Slimmable: .widths must ascend to 1");

  static constexpr Index I = C.d_in, H = C.d_hidden, O = C.d_out, L = C.depth;
  static constexpr Index room(Index rows) { return 2 * rows * H; }
  static constexpr Index norm_rows(Index, Index rows) { return rows; }  ///< that a norm averages

  static constexpr Index channels(Index k) { return C.widths.channels(k, H); }
  /// Numbers that layer l takes at width k; layer L is the last.
  static constexpr Index takes(Index l, Index k) { return l == 0 ? I : channels(k); }
  static constexpr Index gives(Index l, Index k) { return l == L ? O : channels(k); }

  static constexpr Index macs(Index k) {
    Index sum = 0;
    for (Index l = 0; l <= L; ++l) sum += takes(l, k) * gives(l, k);
    return sum;
  }

  /// layer(l, from, to) for all layers; `room` holds 2 x rows x H.
  template <class Real, class Layer>
  static void walk(Index k, MatrixView<const Real> x, MatrixView<Real> y, Real* room,
                   const Layer& layer) {
    for (Index l = 0; l <= L; ++l) {
      const Index n = gives(l, k);
      const MatrixView<Real> to =
          l == L ? y : MatrixView<Real>{room + l % 2 * x.rows * H, y.rows, n, n};
      layer(l, x, to);
      x = to;
    }
  }
};

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
