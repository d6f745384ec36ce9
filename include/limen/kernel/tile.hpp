#pragma once
/// @file  The register tile of a matrix product.
///
///   y [Rows x width] += a [Rows x depth] b [depth x width]
///
/// A tile is `Rows` rows by `Count` panels of two vectors. Its sums stay in registers; a row of b
/// is loaded once for all rows, an element of a is broadcast from memory. Chains > 1 sums every
/// second (fourth) k apart, for products too narrow to keep the multipliers busy with one sum each.

#include <array>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/panels.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Rows of the tallest tile: what the registers (32, 16, 16) hold beside a panel row and an
/// element.
#if defined(__aarch64__) && !defined(LIMEN_SCALAR)
template <class Real>
inline constexpr int tile_rows = 12;
#else
template <class Real>
inline constexpr int tile_rows = sizeof(simd::Vec<Real>) == 64   ? 12
                                 : sizeof(simd::Vec<Real>) == 32 ? 6
                                                                 : 4;
#endif

/// Most panels that one row is multiplied with at once.
inline constexpr int tile_panels = 4;

/// How many vectors of a panel's row a tile asks for ahead of its need. One row with panels in the
/// second-level cache is better off with what the machine does by itself.
constexpr int vectors_ahead(int rows, int panels, int chains) {
  return rows > 1 || (panels == 2 && chains == 1) ? 2 : 0;
}

template <class Real>
struct TileJob {
  const Real* a;  ///< element (i, k) at a[i a_row + k a_col]
  Index a_row, a_col;
  const Real* b;  ///< row k of panel p at b[p b_panel + k b_row]
  Index b_panel, b_row;
  Index depth;
  Real* y;  ///< whole panels wide
  Index y_row;
  const Real* start;  ///< [whole panels] what the sums start from, or null
  bool add;           ///< they start from y as well
  bool relu;
  const Real* ahead;  ///< what will be needed, laid out as b: asked for, a step further with each k
  Index ahead_step;
};

template <class Real, int Rows, int Count, int Chains>
LIMEN_NOINLINE void tile(const TileJob<Real>& job) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr int vectors = 2 * Count;
  // Every third row has a pointer: the rows between are reached by an index register.
  constexpr int bases = (Rows + 2) / 3;
  constexpr int asked = vectors_ahead(Rows, Count, Chains);

  V sum[Chains][Rows][vectors];
  LIMEN_UNROLL for (int j = 0; j < vectors; ++j) {
    const V start = job.start != nullptr ? simd::load<V>(job.start + j * lanes) : V(Real(0));
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      sum[0][i][j] = start;
      LIMEN_UNROLL for (int c = 1; c < Chains; ++c) sum[c][i][j] = V(Real(0));
    }
  }
  Real* const y = job.y;
  const Index y_row = job.y_row;
  if (job.add) {
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      LIMEN_UNROLL for (int j = 0; j < vectors; ++j) {
        sum[0][i][j] = sum[0][i][j] + simd::load<V>(y + i * y_row + j * lanes);
      }
    }
  }

  const Real* a[bases];
  LIMEN_UNROLL for (int i = 0; i < bases; ++i) a[i] = job.a + 3 * i * job.a_row;
  const Real* b = job.b;
  const Real* ahead = job.ahead;
  const Index a_row = job.a_row, a_col = job.a_col, b_panel = job.b_panel, b_row = job.b_row;
  const Index ahead_step = job.ahead_step;
  // The next `steps` k, each on a chain of its own.
  const auto advance = [&](auto steps) __attribute__((always_inline)) {
    constexpr int used = decltype(steps)::value;
    LIMEN_UNROLL for (int c = 0; c < used; ++c) {
      V right[vectors];
      LIMEN_UNROLL for (int j = 0; j < vectors; ++j) {
        right[j] = simd::load<V>(b + (j / 2) * b_panel + (j % 2) * lanes);
        if constexpr (Rows > 1) right[j] = simd::in_register(right[j]);
      }
      if constexpr (asked > 0) {
        LIMEN_UNROLL for (int j = 0; j < Count * asked; ++j) {
          simd::prefetch(ahead + (j / asked) * b_panel + (j % asked) * lanes);
        }
        ahead += ahead_step;
      }
      LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
        const V left(a[i / 3][(i % 3) * a_row]);
        LIMEN_UNROLL for (int j = 0; j < vectors; ++j) {
          sum[c][i][j] = simd::fma(left, right[j], sum[c][i][j]);
        }
      }
      LIMEN_UNROLL for (int i = 0; i < bases; ++i) a[i] += a_col;
      b += b_row;
    }
  };
  Index k = job.depth;
  for (; k >= Chains; k -= Chains) advance(std::integral_constant<int, Chains>{});
  if constexpr (Chains > 1) {
    for (; k > 0; --k) advance(std::integral_constant<int, 1>{});
  }

  LIMEN_UNROLL for (int c = 1; c < Chains; ++c) {
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      LIMEN_UNROLL for (int j = 0; j < vectors; ++j) sum[0][i][j] = sum[0][i][j] + sum[c][i][j];
    }
  }
  if (job.relu) {
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      LIMEN_UNROLL for (int j = 0; j < vectors; ++j) {
        sum[0][i][j] = activate<Activation::relu>(sum[0][i][j]);
      }
    }
  }
  LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
    LIMEN_UNROLL for (int j = 0; j < vectors; ++j) {
      simd::store(y + i * y_row + j * lanes, sum[0][i][j]);
    }
  }
}

template <class Real>
using Tile = void (*)(const TileJob<Real>&) noexcept;

// Equal parts of something. (One part is common, and a division costs as much as ten products.)
constexpr Index parts(Index size, Index most) {
  return size <= most ? 1 : (size + most - 1) / most;
}
/// The longest of so many parts.
constexpr Index part(Index size, Index parts) {
  return parts == 1 ? size : (size + parts - 1) / parts;
}
/// Where the i-th part begins.
constexpr Index cut(Index size, Index i, Index parts) {
  return parts == 1 ? size * i : size * i / parts;
}

/// How many panels one row takes at once, by what they hold. Four keep the multipliers busy with
/// what is near. Short panels in the second-level cache come fastest in one stream (190 instead of
/// 135 GB/s on Zen 5), and the end of one then overlaps the next; from further away two, asked for
/// ahead.
template <class Real>
constexpr Index panels_of_row(Index panels, Index depth) {
  const Index row = panel_width<Real> * static_cast<Index>(sizeof(Real)),
              bytes = panels * depth * row;
  if (bytes > 1 << 20) return 2;
  return depth <= 128 && bytes > 64 << 10 && tile_rows<Real> == 12 ? 1 : tile_panels;
}

/// How many panels tiles of `rows` rows take at once, of `left`: enough sums to keep the
/// multipliers busy, not more than the registers hold.
template <class Real>
constexpr Index panels_at_once(Index rows, Index chains, Index left, Index of_row) {
  const Index most[] = {of_row, 3, 2, tile_rows<Real> == 12 ? 2 : 1};
  if (chains > 1) return rows == 1 && chains == 2 ? left : 1;
  if (rows > 4) return 1;
  return part(left, parts(left, most[rows - 1]));
}

/// Tiles of 1, 2, ... rows.
template <class Real, int Count, int Chains, int... I>
constexpr std::array<Tile<Real>, sizeof...(I)> tiles(std::integer_sequence<int, I...>) {
  return {tile<Real, I + 1, Count, Chains>...};
}
template <class Real, int... I>
constexpr std::array<Tile<Real>, sizeof...(I)> row_tiles(std::integer_sequence<int, I...>) {
  return {tile<Real, 1, I + 1, 1>...};
}

/// The tile for so many rows, panels and chains: those that panels_at_once can ask for.
template <class Real>
Tile<Real> tile_for(Index rows, Index panels, Index chains) noexcept {
  constexpr int most = tile_rows<Real>;
  static constexpr auto tall = tiles<Real, 1, 1>(std::make_integer_sequence<int, most>{});
  static constexpr auto row = row_tiles<Real>(std::make_integer_sequence<int, tile_panels>{});
  static constexpr auto two = tiles<Real, 1, 2>(std::make_integer_sequence<int, most / 2>{});
  const std::size_t r = static_cast<std::size_t>(rows - 1);
  if constexpr (most == 12) {
    static constexpr auto four = tiles<Real, 1, 4>(std::make_integer_sequence<int, 3>{});
    if (chains == 4) return four[r];
  }
  if (chains == 2) return panels == 2 ? tile<Real, 1, 2, 2> : two[r];
  if (rows == 1) return row[static_cast<std::size_t>(panels - 1)];
  if (panels == 3) return tile<Real, 2, 3, 1>;
  if (panels == 2) {
    if (rows == 2) return tile<Real, 2, 2, 1>;
    if (rows == 3) return tile<Real, 3, 2, 1>;
    if constexpr (most == 12) return tile<Real, 4, 2, 1>;
  }
  return tall[r];
}

/// Chains of k for a product of so many panels. It must not look at rows: their bits would differ.
template <class Real>
constexpr Index chains_for(Index panels) {
  if (panels == 1) return tile_rows<Real> == 12 ? 4 : 2;
  return panels == 2 ? 2 : 1;
}

}  // namespace limen::inline LIMEN_ABI::detail
