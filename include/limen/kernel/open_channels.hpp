#pragma once
/// @file  Products of which only some outputs and some inputs are wanted.
///
///   OpenChannels      ascending numbers of channels that are open
///   nonzero_channels  which channels of an image are not 0 everywhere
///   pack_open         panels of the open rows and columns of a weight, for one product
///   spread_open       columns that a product gave, back at their channels, scaled; others 0
///
///   product_open      a few rows against the open rows of a weight as it lies
///
/// Weights are [O][taps][I] (kernel/conv.hpp). What is closed costs nothing in the product. Packing
/// costs as much as the product with a few rows, so that few rows are better off without.

#include <algorithm>

#include <limen/core/memory.hpp>
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
void pack_open_panel(const Real* w, Index taps, Index I, const Index* out, Index n,
                     OpenChannels ins, Real* to) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, width = panel_width<Real>;
  const Index K = taps * I;
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

/// Panels [outs.count x taps ins.count] of w [O][taps][I], written to `to`.
template <class Real>
PanelsView<Real> pack_open(const Real* w, Index taps, Index I, OpenChannels outs, OpenChannels ins,
                           Real* to) noexcept {
  constexpr Index width = panel_width<Real>;
  const Index K = taps * ins.count;
  for (Index n = 0; n < outs.count; n += width) {
    detail::pack_open_panel(w, taps, I, outs.at + n, std::min(width, outs.count - n), ins,
                            to + n * K);
  }
  return {to, outs.count, K};
}

/// y[p][o] = a(x w_oᵀ + b) scale_o for open outputs o, others 0, a few rows of x [P x K] against
/// w [O x K] as it lies. Allocates nothing.
template <class Real>
void product_open(MatrixView<const Real> x, MatrixView<const Real> w, OpenChannels outs,
                  const Epilogue<Real>& how, const Real* scale, MatrixView<Real> y) noexcept {
  for (Index p = 0; p < y.rows; ++p) {
    for (Index o = 0; o < y.cols; ++o) y(p, o) = 0;
  }
  for (Index j = 0; j < outs.count;) {
    const Index first = outs.at[j];
    Index n = 1;
    while (j + n < outs.count && outs.at[j + n] == first + n) ++n;
    Epilogue<Real> part = how;
    if (part.bias != nullptr) part.bias += first;
    detail::multiply_unpacked<Real>(x, w.middle_rows(first, n), y.middle_cols(first, n), part);
    for (Index p = 0; scale != nullptr && p < y.rows; ++p) {
      for (Index o = first; o < first + n; ++o) y(p, o) *= scale[o];
    }
    j += n;
  }
}

}  // namespace limen::inline LIMEN_ABI
