#pragma once
/// @file  Products of matrices with sizes known at run time.
///
///   product_nt(x, w, y)      y  = x wᵀ       x [M x K], w [N x K] or its panels, y [M x N]
///   product_nn(x, w, y)      y  = x w        w [K x N]
///   add_product_tn(x, z, y)  y += xᵀ z       x [K x M], z [K x N]
///
/// One engine serves all: tiles of up to 12 rows by one panel (kernel/tile.hpp). A right factor
/// that is not in panels is packed piece by piece, where enough rows follow to pay for it.
///
/// The result of a row depends neither on the other rows in the call nor on the number of threads:
/// every output is summed over k in one order, fixed by N and K. (One exception in kind, not in
/// bits: with weights that are not packed, fewer than `worth_packing` rows are summed in the other
/// order of kernel/gemv.hpp.)
///
/// Nothing outside the matrices is read or written, and zeros behind N never meet a result: a NaN
/// in a row of x, or in a row of w, stays in that row or column of y.

#include <cstdint>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/gemv.hpp>
#include <limen/kernel/panels.hpp>
#include <limen/kernel/tile.hpp>

namespace limen::inline LIMEN_ABI {

/// Rows from which it pays to pack the weights for one call.
inline constexpr Index worth_packing = 16;

namespace detail {

/// K is cut here: a slice of a panel stays in the first-level cache while rows pass by.
inline constexpr Index slice_depth = 256;
/// Rows are cut about here: a slice of so many stays in the second-level cache while panels pass.
inline constexpr Index block_rows = 512;
/// So many rows of a panel are asked for before they are needed, where they are needed only once:
/// 2 KiB, or 8 with tiles of more than four rows, which have time for main memory to answer.
template <class Real>
constexpr Index rows_ahead(Index tile_rows) {
  return (tile_rows > 4 ? 8192 : 2048) / (panel_width<Real> * static_cast<Index>(sizeof(Real)));
}
/// What lies n numbers after p: to ask for, never to read, for it may be past the end.
template <class Real>
LIMEN_INLINE const Real* ahead_of(const Real* p, Index n) noexcept {
  return reinterpret_cast<const Real*>(reinterpret_cast<std::uintptr_t>(p) +  // NOLINT: as above
                                       static_cast<std::uintptr_t>(n) * sizeof(Real));
}

template <class Real>
struct Product {
  /// Where the left factor lies: element (m, k) at a[m a_row + k a_col].
  const Real* a;
  Index a_row, a_col;
  /// Where the right factor lies, and as what: panels, its rows [K x N], or its columns [N x K].
  enum class Form { panels, rows, columns } form;
  MatrixView<const Real> b;
  Index depth;
  MatrixView<Real> y;
  Epilogue<Real> out;
};

constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }

/// `columns` of `rows` rows, where a tile needs whole panels and the matrix has none to spare.
template <class Real>
void copy_rows(const Real* from, Index from_row, Real* to, Index to_row, Index rows,
               Index columns) noexcept {
  for (Index r = 0; r < rows; ++r, from += from_row, to += to_row) {
    simd::for_each<Real>(columns,
                         [&](Index i, auto load, auto store) { store(to + i, load(from + i)); });
  }
}

/// A tile at the right edge of y: computed beside it, then copied.
template <class Real>
LIMEN_NOINLINE void edge_tile(Tile<Real> tile, TileJob<Real> job, Index rows,
                              Index columns) noexcept {
  constexpr Index most = tile_rows<Real> > 6 ? tile_rows<Real> : 6;  // or 2 by 3, 3 by 2 panels
  alignas(64) Real y[most * panel_width<Real>], start[tile_panels * panel_width<Real>];
  const Index width = (columns + panel_width<Real> - 1) / panel_width<Real> * panel_width<Real>;
  Real* const to = job.y;
  const Index to_row = job.y_row;
  job.y = y;
  job.y_row = width;
  if (job.add) copy_rows(to, to_row, y, width, rows, columns);
  if (job.start != nullptr) {
    for (Index i = columns; i < width; ++i) start[i] = Real(0);
    copy_rows(job.start, 0, start, 0, 1, columns);
    job.start = start;
  }
  tile(job);
  copy_rows(y, width, to, to_row, rows, columns);
}

/// Sums that start from y wait for it: the rows of the next tile are asked for during this one.
template <class Real>
LIMEN_INLINE void ask_for_rows(const MatrixView<Real>& y, Index first, Index end, Index column,
                               Index columns) noexcept {
  for (Index r = first; r < end; ++r) simd::prefetch(y.row(r) + column, columns);
}

/// Rows m0..m1 and panels p0..p1 of y. `packed` holds `group` slices of panels where the right
/// factor is not in panels.
template <class Real>
void multiply_block(const Product<Real>& q, Index m0, Index m1, Index p0, Index p1,
                    Real* packed) noexcept {
  using Form = typename Product<Real>::Form;
  constexpr Index width = panel_width<Real>;
  const Index n = q.y.cols, panels = panel_count<Real>(n), depth = q.depth;
  const Index chains = chains_for<Real>(panels);
  const Index tallest = tile_rows<Real> >> (chains / 2);
  const Index tiles = parts(m1 - m0, tallest);
  const Index height = part(m1 - m0, tiles);  // equal tiles, no small rest
  const Index groups = parts(p1 - p0, tile_panels);
  const Index of_row = panels_of_row<Real>(panels, depth);
  // Nothing passes by twice: no slices. (The same bits: a sum in y is the sum in a register.)
  const bool whole = tiles == 1 && chains == 1 && q.form == Form::panels;

  for (Index k0 = 0, k1; k0 == 0 || k0 < depth; k0 = k1) {
    k1 = whole ? depth : smaller(depth, k0 + slice_depth);
    for (Index g = 0; g < groups; ++g) {
      const Index g0 = p0 + cut(p1 - p0, g, groups), g1 = p0 + cut(p1 - p0, g + 1, groups);
      TileJob<Real> job;
      job.depth = k1 - k0;
      job.a_row = q.a_row;
      job.a_col = q.a_col;
      job.y_row = q.y.stride;
      job.add = k0 > 0 || q.out.accumulate;
      job.relu = k1 == depth && q.out.activation == Activation::relu;
      const Real* right;
      if (q.form == Form::panels) {
        right = q.b.data + g0 * width * depth + k0 * width;
        job.b_panel = width * depth;
        job.b_row = width;
      } else if (q.form == Form::rows && tiles <= 2 && g1 * width <= n) {
        right = q.b.row(k0) + g0 * width;  // so few rows would not pay for a copy
        job.b_panel = width;
        job.b_row = q.b.stride;
      } else {
        for (Index p = g0; p < g1; ++p) {
          Real* const to = packed + (p - g0) * slice_depth * width;
          if (q.form == Form::rows) {
            pack_cols_panel(q.b, p * width, k0, k1, to);
          } else {
            pack_rows_panel(q.b, p * width, k0, k1, to);
          }
        }
        right = packed;
        job.b_panel = slice_depth * width;
        job.b_row = width;
      }
      for (Index p = g0, count; p < g1; p += count) {
        count = panels_at_once<Real>(height, chains, g1 - p, of_row);
        const Index columns = smaller(n - p * width, count * width);
        job.start = k0 == 0 && q.out.bias != nullptr ? q.out.bias + p * width : nullptr;
        job.b = right + (p - g0) * job.b_panel;
        if (tiles == 1 || job.b_row != width) {
          job.ahead = ahead_of(job.b, rows_ahead<Real>(height) * job.b_row);
          job.ahead_step = job.b_row;
        } else {
          // While the tiles go down, what follows comes up from the outer caches, a share for each:
          // the next panels of this slice, or the first of the next one.
          const bool last = q.form == Form::panels && p + count == p1;
          job.ahead =
              last ? q.b.data + (p0 * depth + k1) * width : ahead_of(job.b, count * job.b_panel);
          job.ahead_step = part(width, tiles);
        }
        for (Index m = m0; m < m1; m += height) {
          const Index rows = smaller(height, m1 - m);
          job.a = q.a + m * q.a_row + k0 * q.a_col;
          job.y = q.y.row(m) + p * width;
          const Tile<Real> tile = tile_for<Real>(rows, count, chains);
          if (job.add)
            ask_for_rows(q.y, m + height, smaller(m1, m + 2 * height), p * width, columns);
          if (columns == count * width) {
            tile(job);
          } else {
            edge_tile(tile, job, rows, columns);
          }
          job.ahead += job.ahead_step * job.depth;
        }
      }
      if (k1 == depth && q.out.activation != Activation::relu) {
        const Index c0 = g0 * width, c1 = smaller(n, g1 * width);
        activate_rows(q.out.activation, q.y.middle_rows(m0, m1 - m0).middle_cols(c0, c1 - c0));
      }
    }
    if (depth == 0) break;
  }
}

/// Rows r0..r1 and panels p0..p1, in blocks of rows.
template <class Real>
void multiply_piece(const Product<Real>& q, Index r0, Index r1, Index p0, Index p1) {
  if (r0 == r1 || p0 == p1) return;
  Buffer<Real> packed;
  const bool direct = q.form == Product<Real>::Form::panels;
  if (!direct)
    packed = Buffer<Real>(smaller(p1 - p0, tile_panels) * slice_depth * panel_width<Real>);
  const Index blocks = parts(r1 - r0, block_rows);
  for (Index i = 0; i < blocks; ++i) {
    multiply_block(q, r0 + cut(r1 - r0, i, blocks), r0 + cut(r1 - r0, i + 1, blocks), p0, p1,
                   packed.data());
  }
}

/// One row by panels, as multiply_block would: a step has no time for its preparations.
template <class Real>
void multiply_row(const Product<Real>& q) noexcept {
  constexpr Index width = panel_width<Real>;
  const Index n = q.y.cols, panels = panel_count<Real>(n), chains = chains_for<Real>(panels);
  const Index of_row = panels_of_row<Real>(panels, q.depth);
  TileJob<Real> job{};
  job.a_col = q.a_col;
  job.b_panel = width * q.depth;
  job.b_row = job.ahead_step = width;
  for (Index k0 = 0, k1; k0 == 0 || k0 < q.depth; k0 = k1) {
    k1 = chains == 1 ? q.depth : smaller(q.depth, k0 + slice_depth);
    job.a = q.a + k0 * q.a_col;
    job.depth = k1 - k0;
    job.add = k0 > 0 || q.out.accumulate;
    job.relu = k1 == q.depth && q.out.activation == Activation::relu;
    for (Index p = 0, count; p < panels; p += count) {
      count = panels_at_once<Real>(1, chains, panels - p, of_row);
      job.b = q.b.data + p * job.b_panel + k0 * width;
      job.ahead = ahead_of(job.b, rows_ahead<Real>(1) * width);
      job.y = q.y.data + p * width;
      job.start = k0 == 0 && q.out.bias != nullptr ? q.out.bias + p * width : nullptr;
      const Tile<Real> tile = tile_for<Real>(1, count, chains);
      if ((p + count) * width <= n) {
        tile(job);
      } else {
        edge_tile(tile, job, 1, n - p * width);
      }
    }
    if (q.depth == 0) break;
  }
  if (q.out.activation != Activation::relu) activate_rows(q.out.activation, q.y);
}

template <class Real>
void multiply(const Product<Real>& q) {
  const Index rows = q.y.rows, panels = panel_count<Real>(q.y.cols);
  const Index threads = Threads::allowed();
  if (threads == 1) {
    if (rows == 1 && q.form == Product<Real>::Form::panels) {
      multiply_row(q);
    } else {
      multiply_piece(q, 0, rows, 0, panels);
    }
    return;
  }
  // A vector of weights costs an eighth of a nanosecond per row, or its way from the outer caches.
  const Index weights = q.y.cols * q.depth;
  const double way = weights * static_cast<Index>(sizeof(Real)) > (1 << 20) ? 1.5 : 0.25;
  const double row = 0.125 * static_cast<double>(rows);
  const double work_ns = static_cast<double>(weights) / static_cast<double>(simd::lanes<Real>) *
                         (row > way ? row : way);
  // Panels are shared out where there are enough, so that each thread packs its own; else rows.
  const bool across = panels >= 2 * threads;
  parallel_for(threads, work_ns, [&](Index i) {
    if (across) {
      multiply_piece(q, 0, rows, cut(panels, i, threads), cut(panels, i + 1, threads));
    } else {
      multiply_piece(q, cut(rows, i, threads), cut(rows, i + 1, threads), 0, panels);
    }
  });
}

}  // namespace detail

/// y = a(x wᵀ + b), weights in panels.  Allocates nothing.
template <class Real>
void product_nt(std::type_identity_t<MatrixView<const Real>> x, PanelsView<Real> w,
                MatrixView<Real> y, const std::type_identity_t<Epilogue<Real>>& out = {}) noexcept {
  using Product = detail::Product<Real>;
  detail::multiply(Product{
      x.data, x.stride, 1, Product::Form::panels, {w.data, w.rows, w.cols, 0}, w.cols, y, out});
}

/// y = a(x wᵀ + b), weights as they are.  Few rows allocate nothing, more a buffer from the pool.
template <class Real>
void product_nt(std::type_identity_t<MatrixView<const Real>> x,
                std::type_identity_t<MatrixView<const Real>> w, MatrixView<Real> y,
                const std::type_identity_t<Epilogue<Real>>& out = {}) {
  using Product = detail::Product<Real>;
  if (x.rows < worth_packing) {
    detail::multiply_unpacked<Real>(x, w, y, out);
  } else {
    detail::multiply(Product{x.data, x.stride, 1, Product::Form::columns, w, w.cols, y, out});
  }
}

/// y = a(x w + b)
template <class Real>
void product_nn(std::type_identity_t<MatrixView<const Real>> x,
                std::type_identity_t<MatrixView<const Real>> w, MatrixView<Real> y,
                const std::type_identity_t<Epilogue<Real>>& out = {}) {
  using Product = detail::Product<Real>;
  detail::multiply(Product{x.data, x.stride, 1, Product::Form::rows, w, w.rows, y, out});
}

/// y += xᵀ z
template <class Real>
void add_product_tn(std::type_identity_t<MatrixView<const Real>> x,
                    std::type_identity_t<MatrixView<const Real>> z, MatrixView<Real> y) {
  if (x.rows == 0) return;
  using Product = detail::Product<Real>;
  detail::multiply(
      Product{x.data, 1, x.stride, Product::Form::rows, z, z.rows, y, {.accumulate = true}});
}

}  // namespace limen::inline LIMEN_ABI
