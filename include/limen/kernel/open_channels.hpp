#pragma once
/// @file  Products of which only some outputs and some inputs are wanted.
///
///   OpenChannels      ascending numbers of channels that are open
///   nonzero_channels  which channels of an image are not 0 everywhere
///   pack_open         panels of the open rows and columns of a weight, for one product
///   spread_open       columns that a product gave, back at their channels, scaled; others 0
///
///   product_open      a few rows against the open rows of a weight as it lies
///   product_windows   a convolution without copies of its windows
///
/// Weights are [O][taps][I] (kernel/conv.hpp). What is closed costs nothing in the product. Packing
/// costs as much as the product with a few rows, so that few rows are better off without. Windows
/// in rows cost as much whatever is closed, a fifth of a 3 x 3 convolution of 64 to 64 channels:
/// that is why they are not copied.

#include <algorithm>

#include <limen/core/memory.hpp>
#include <limen/kernel/conv.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/panels.hpp>

namespace limen::inline LIMEN_ABI {

struct OpenChannels {
  const Index* at = nullptr;
  Index count = 0;
};

/// Writes to `at` [channels] which have a number other than 0 in a row of x; how many there are.
/// `sums` [channels] is room to work.
template <class Real>
Index nonzero_channels(MatrixView<const Real> x, Real* sums, Index* at) noexcept {
  using V = simd::Vec<Real>;
  for (Index i = 0; i < x.cols; ++i) sums[i] = 0;
  for (Index p = 0; p < x.rows; ++p) {
    simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) {
      const V v = load(x.row(p) + i);
      store(sums + i, load(sums + i) + simd::max(v, V(Real(0)) - v));  // NaN stays NaN
    });
  }
  Index count = 0;
  for (Index i = 0; i < x.cols; ++i) {
    at[count] = i;
    count += sums[i] == Real(0) ? 0 : 1;
  }
  return count;
}

/// to[p][j] = from[p][open.at[j]]
template <class Real>
void gather_channels(MatrixView<const Real> from, OpenChannels open, Real* to) noexcept {
  for (Index p = 0; p < from.rows; ++p, to += open.count) {
    const Real* row = from.row(p);
    for (Index j = 0; j < open.count; ++j) to[j] = row[open.at[j]];
  }
}

/// y[p][open.at[j]] = scale[open.at[j]] from[p][j], all others 0.  scale may be null: 1.
template <class Real>
void spread_open(const Real* from, OpenChannels open, const Real* scale,
                 MatrixView<Real> y) noexcept {
  for (Index p = 0; p < y.rows; ++p, from += open.count) {
    Real* row = y.row(p);
    for (Index o = 0; o < y.cols; ++o) row[o] = 0;
    if (scale == nullptr) {
      for (Index j = 0; j < open.count; ++j) row[open.at[j]] = from[j];
    } else {
      for (Index j = 0; j < open.count; ++j) row[open.at[j]] = scale[open.at[j]] * from[j];
    }
  }
}

namespace detail {

/// Rows w[out[0..n)] as one panel [taps open ins][panel_width], zeros behind n.
template <class Real>
void pack_open_panel(const Real* w, Index K, Index taps, Index I, const Index* out, Index n,
                     OpenChannels ins, Real* to) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, width = panel_width<Real>;
  for (Index j = 0; j < width; j += lanes) {
    const Real* row[lanes];
    for (Index i = 0; i < lanes; ++i) row[i] = j + i < n ? w + out[j + i] * K : nullptr;
    Real* at = to + j;
    for (Index t = 0; t < taps; ++t) {
      Index next = 0;  // open inputs before this block
      for (Index k = 0; k < I; k += lanes) {
        const Index end = k + lanes < I ? k + lanes : I;
        if (next == ins.count || ins.at[next] >= end) continue;
        V block[lanes];
        for (Index i = 0; i < lanes; ++i) {
          block[i] = row[i] != nullptr ? simd::load<V>(row[i] + t * I + k, end - k) : V(Real(0));
        }
        simd::transpose(block);
        for (; next < ins.count && ins.at[next] < end; ++next, at += width) {
          simd::store(at, block[ins.at[next] - k]);
        }
      }
    }
  }
}

}  // namespace detail

/// Room for the panels of so many outputs and inputs.
template <class Real>
constexpr Index open_panels_size(Index outs, Index taps, Index ins) {
  return detail::panel_count<Real>(outs) * panel_width<Real> * taps * ins;
}

/// Panels [outs.count x taps ins.count] of rows w [O][taps][I], which begin `stride` numbers apart,
/// written to `to`.
template <class Real>
PanelsView<Real> pack_open(const Real* w, Index stride, Index taps, Index I, OpenChannels outs,
                           OpenChannels ins, Real* to) noexcept {
  constexpr Index width = panel_width<Real>;
  const Index K = taps * ins.count;
  const Index last = K > 0 ? outs.count : 0;  // with all inputs closed there is nothing to write
  for (Index n = 0; n < last; n += width) {
    detail::pack_open_panel(w, stride, taps, I, outs.at + n, std::min(width, outs.count - n), ins,
                            to + n * K);
  }
  return {to, outs.count, K};
}

namespace detail {
/// Lane i of the result: x · w[i].
template <class Real>
LIMEN_INLINE simd::Vec<Real> dot_with_each(const Real* x, const Real* const* w, Index K) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  V sums[lanes];
  LIMEN_UNROLL for (Index i = 0; i < lanes; ++i) sums[i] = V(Real(0));
  Index k = 0;
  for (; k + lanes <= K; k += lanes) {
    const V v = simd::load<V>(x + k);
    LIMEN_UNROLL for (Index i = 0; i < lanes; ++i) {
      sums[i] = simd::fma(simd::load<V>(w[i] + k), v, sums[i]);
    }
  }
  if (k < K) {
    const V v = simd::load<V>(x + k, K - k);
    LIMEN_UNROLL for (Index i = 0; i < lanes; ++i) {
      sums[i] = simd::fma(simd::load<V>(w[i] + k, K - k), v, sums[i]);
    }
  }
  return simd::reduce_add_each<std::size_t{lanes}>(sums);
}
}  // namespace detail

/// y[p][o] = a(x w_oᵀ + b) scale_o for open outputs o, others 0, a few rows of x [P x K] against
/// w [O x K] as it lies: as many outputs at a time as a vector has lanes. Allocates nothing.
template <class Real>
void product_open(MatrixView<const Real> x, MatrixView<const Real> w, OpenChannels outs,
                  const Epilogue<Real>& how, const Real* scale, MatrixView<Real> y) noexcept {
  constexpr Index lanes = simd::lanes<Real>;
  for (Index p = 0; p < y.rows; ++p) {
    for (Index o = 0; o < y.cols; ++o) y(p, o) = 0;
  }
  for (Index j = 0; j < outs.count; j += lanes) {
    const Index n = std::min(lanes, outs.count - j);
    const Real* rows[lanes];
    for (Index i = 0; i < lanes; ++i) rows[i] = w.row(outs.at[j + std::min(i, n - 1)]);
    for (Index p = 0; p < y.rows; ++p) {
      alignas(64) Real sums[lanes];
      simd::store(sums, detail::dot_with_each<Real>(x.row(p), rows, x.cols));
      for (Index i = 0; i < n && how.bias != nullptr; ++i) sums[i] += how.bias[outs.at[j + i]];
      activate(how.activation, sums, sums, n);
      for (Index i = 0; i < n; ++i) {
        const Index o = outs.at[j + i];
        y(p, o) = scale == nullptr ? sums[i] : scale[o] * sums[i];
      }
    }
  }
}

// ── Convolutions without copies ──────────────────────────────────────────────────────────────────

/// An image with a margin of zeros: to [height + 2 r][width + 2 r'][ins.count].
template <class Real>
void pad_open(const Window2d& s, const Real* image, OpenChannels ins, Real* to) noexcept {
  const Index C = ins.count, wide = s.image.width + 2 * s.padding.width;
  const Index margin = s.padding.width * C;
  for (Index y = -s.padding.height; y < s.image.height + s.padding.height; ++y, to += wide * C) {
    if (y < 0 || y >= s.image.height) {
      std::fill_n(to, wide * C, Real(0));
      continue;
    }
    std::fill_n(to, margin, Real(0));
    std::fill_n(to + (wide * C - margin), margin, Real(0));
    const MatrixView<const Real> from{image + y * s.image.width * s.channels, s.image.width,
                                      s.channels, s.channels};
    if (C == s.channels) {
      std::copy_n(from.data, from.rows * C, to + margin);
    } else {
      gather_channels(from, ins, to + margin);
    }
  }
}

/// y [positions x n] = a(windows wᵀ + b), row of positions after row of positions and row of the
/// kernel after row of the kernel: the windows of a row are a matrix whose rows overlap in the
/// padded image. w: [n x kw channels] for each row of the kernel. Dilation across must be 1.
template <class Real>
void product_windows(const Window2d& s, const Real* padded, const PanelsView<Real>* w,
                     const Epilogue<Real>& how, MatrixView<Real> y) noexcept {
  const Index C = s.channels, line = (s.image.width + 2 * s.padding.width) * C;
  const Extent out = s.out();
  for (Index p = 0; p < out.height; ++p) {
    const MatrixView<Real> to = y.middle_rows(p * out.width, out.width);
    for (Index a = 0; a < s.kernel.height; ++a) {
      const Real* from = padded + (p * s.stride.height + a * s.dilation.height) * line;
      Epilogue<Real> part{.accumulate = a > 0};
      if (a == 0) part.bias = how.bias;
      if (a + 1 == s.kernel.height) part.activation = how.activation;
      product_nt<Real>({from, out.width, s.kernel.width * C, s.stride.width * C}, w[a], to, part);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
