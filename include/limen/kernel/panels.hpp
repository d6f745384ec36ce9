#pragma once
/// @file  Panels: a weight laid out so that a product reads it from front to back.
///
/// w [N x K], one row per output, becomes ceil(N / panel_width) panels [K][panel_width]: the k-th
/// weights of neighbouring outputs side by side, zeros behind N. A product keeps one panel's sums
/// in two vectors and never adds across lanes.

#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// Outputs in a panel.
template <class Real>
inline constexpr Index panel_width = 2 * simd::lanes<Real>;

/// Packed weights of somebody else.
template <class Real>
struct PanelsView {
  const Real* data = nullptr;
  Index rows = 0;  ///< N
  Index cols = 0;  ///< K
};

namespace detail {

template <class Real>
constexpr Index panel_count(Index n) {
  return (n + panel_width<Real> - 1) / panel_width<Real>;
}

/// Columns k0..k1 of rows n0.. of w [N x K] as one panel: to[k - k0][j] = w(n0 + j, k).
template <class Real>
void pack_rows_panel(MatrixView<const Real> w, Index n0, Index k0, Index k1, Real* to) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, width = panel_width<Real>;
  for (Index j = 0; j < width; j += lanes) {
    const Index rows = w.rows - n0 - j;  // may be less than 1
    for (Index k = k0; k < k1; k += lanes) {
      const Index n = k1 - k < lanes ? k1 - k : lanes;
      V block[lanes];  // [j][k]
      if (rows >= lanes && n == lanes) {
        LIMEN_UNROLL for (Index i = 0; i < lanes; ++i) {
          block[i] = simd::load<V>(w.row(n0 + j + i) + k);
        }
      } else {
        for (Index i = 0; i < lanes; ++i) {
          block[i] = i < rows ? simd::load<V>(w.row(n0 + j + i) + k, n) : V(Real(0));
        }
      }
      simd::transpose(block);
      Real* out = to + (k - k0) * width + j;
      if (n == lanes) {
        LIMEN_UNROLL for (Index i = 0; i < lanes; ++i) simd::store(out + i * width, block[i]);
      } else {
        for (Index i = 0; i < n; ++i) simd::store(out + i * width, block[i]);
      }
    }
  }
}

/// Rows k0..k1 of columns n0.. of w [K x N] as one panel: to[k - k0][j] = w(k, n0 + j).
template <class Real>
void pack_cols_panel(MatrixView<const Real> w, Index n0, Index k0, Index k1, Real* to) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, width = panel_width<Real>;
  const Index left = w.cols - n0;
  for (Index k = k0; k < k1; ++k, to += width) {
    const Real* from = w.row(k) + n0;
    if (left >= width) {
      simd::store(to, simd::load<V>(from));
      simd::store(to + lanes, simd::load<V>(from + lanes));
    } else {
      simd::store(to, simd::load<V>(from, left));
      simd::store(to + lanes,
                  left > lanes ? simd::load<V>(from + lanes, left - lanes) : V(Real(0)));
    }
  }
}

}  // namespace detail

/// Weights in panels, owned: a value that copies and moves.
template <class Real>
class Panels {
 public:
  Panels() = default;

  /// w [N x K], one row per output.
  static Panels pack(MatrixView<const Real> w) {
    Panels p(w.rows, w.cols);
    Real* to = p.values_.data();
    for (Index n = 0; n < w.rows; n += panel_width<Real>, to += panel_width<Real> * w.cols) {
      detail::pack_rows_panel(w, n, 0, w.cols, to);
    }
    return p;
  }
  /// w [K x N], one column per output.
  static Panels pack_transposed(MatrixView<const Real> w) {
    Panels p(w.cols, w.rows);
    Real* to = p.values_.data();
    for (Index n = 0; n < w.cols; n += panel_width<Real>, to += panel_width<Real> * w.rows) {
      detail::pack_cols_panel(w, n, 0, w.rows, to);
    }
    return p;
  }

  Panels(const Panels& other) : Panels(other.rows_, other.cols_) {
    for (Index i = 0; i < values_.size(); ++i) values_[i] = other.values_[i];
  }
  Panels(Panels&& other) noexcept
      : values_(std::move(other.values_)),
        rows_(std::exchange(other.rows_, 0)),
        cols_(std::exchange(other.cols_, 0)) {}
  Panels& operator=(Panels other) noexcept {
    std::swap(values_, other.values_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    return *this;
  }
  ~Panels() = default;

  Index rows() const { return rows_; }  ///< N
  Index cols() const { return cols_; }  ///< K
  PanelsView<Real> view() const { return {values_.data(), rows_, cols_}; }

 private:
  Panels(Index rows, Index cols)
      : values_(detail::panel_count<Real>(rows) * panel_width<Real> * cols),
        rows_(rows),
        cols_(cols) {}

  Buffer<Real> values_;
  Index rows_ = 0;
  Index cols_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
