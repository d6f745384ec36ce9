#pragma once
/// @file  Small products of factors that lie in the caches: nothing is packed.
///
///   y(i, :) = s_i y(i, :) + Σ_k a(i, k) b(k, :)
///
/// The left factor may be turned, one side of its diagonal may be zero, and rows that are wanted
/// later come from memory meanwhile: the rows of one head lie far apart, where no machine guesses
/// that they will be read.

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include <limen/kernel/chunk.hpp>
#include <limen/kernel/tile.hpp>

namespace limen::inline LIMEN_ABI::chunk {

/// The left factor of a product: element (i, k) is data[i row + k col].
template <class Real>
struct Left {
  const Real* data;
  Index row, col;
};

/// Where the left factor is not zero. Its zeros must be there: whole tiles of them are skipped, not
/// every one.
enum class Part { all, lower, upper };

/// What y is multiplied with before the product is added: nothing (y is overwritten), or step 0:
/// one number, step 1: a number for each row. `from`: read these rows instead of y's.
template <class Real>
struct Keep {
  const Real* factor = nullptr;
  Index step = 0;
  const Real* from = nullptr;
  Index from_row = 0;
};

template <class Real>
inline constexpr Real one = 1;
/// y += ...
template <class Real>
inline constexpr Keep<Real> add{&one<Real>, 0};

namespace detail {

using limen::detail::cut;
using limen::detail::parts;

template <class Real>
struct Job {
  Left<Real> a;
  const Real* b;
  Index b_row, depth;
  Keep<Real> keep;
  Real* y;
  Index y_row, lanes;  ///< lanes: of the last vector
};

template <class Real, int Rows, int Vectors, bool Ragged>
LIMEN_NOINLINE void tile(const Job<Real>& job) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  constexpr int bases = (Rows + 2) / 3;  // rows between them are reached by an index register
  const Index n = job.lanes;
  const auto load = [n](const Real* p) __attribute__((always_inline)) {
    return Ragged ? simd::load<V>(p, n) : simd::load<V>(p);
  };
  V sum[Rows][Vectors];
  if (job.keep.factor == nullptr) {
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) sum[i][j] = V(Real(0));
    }
  } else {
    const Real* from = job.keep.from;
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      const V s(job.keep.factor[i * job.keep.step]);
      LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
        sum[i][j] = s * load(from + i * job.keep.from_row + j * width);
      }
    }
  }
  const Real* a[bases];
  LIMEN_UNROLL for (int i = 0; i < bases; ++i) a[i] = job.a.data + 3 * i * job.a.row;
  const Real* b = job.b;
  const Index a_row = job.a.row, a_col = job.a.col, b_row = job.b_row;
  for (Index k = job.depth; k > 0; --k) {
    V right[Vectors];
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      right[j] = load(b + j * width);
      if constexpr (Rows > 1) right[j] = simd::in_register(right[j]);
    }
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
      const V left(a[i / 3][(i % 3) * a_row]);
      LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
        sum[i][j] = simd::fma(left, right[j], sum[i][j]);
      }
    }
    LIMEN_UNROLL for (int i = 0; i < bases; ++i) a[i] += a_col;
    b += b_row;
  }
  LIMEN_UNROLL for (int i = 0; i < Rows; ++i) {
    LIMEN_UNROLL for (int j = 0; j < Vectors; ++j) {
      Real* const to = job.y + i * job.y_row + j * width;
      if constexpr (Ragged) {
        simd::store(to, sum[i][j], n);
      } else {
        simd::store(to, sum[i][j]);
      }
    }
  }
}

template <class Real>
using Tile = void (*)(const Job<Real>&) noexcept;

template <class Real, int Vectors, bool Ragged, int... I>
constexpr std::array<Tile<Real>, sizeof...(I)> tiles(std::integer_sequence<int, I...>) {
  return {tile<Real, I + 1, Vectors, Ragged>...};
}

/// Rows of a tile; few where the last vector is not full, which is rare.
template <class Real>
inline constexpr int tile_rows = limen::detail::tile_rows<Real>;
inline constexpr int ragged_rows = 4;

/// Asks for some of the rows at a time, for all of them within a product that gives y.
template <class Real>
class Fetch {
 public:
  Fetch(View<Real> rows, View<Real> y)
      : rows_(rows),
        tiles_((y.cols + 2 * simd::lanes<Real> - 1) /
               (2 * simd::lanes<Real>)*parts(y.rows, Index{tile_rows<Real>})),
        each_(tiles_ > 0 ? (rows.rows + tiles_ - 1) / tiles_ : 0) {}

  void some() {
    for (Index end = std::min(next_ + each_, rows_.rows); next_ < end; ++next_) {
      simd::prefetch(rows_.row(next_), rows_.cols);
    }
  }

 private:
  const View<Real> rows_;
  const Index tiles_, each_;
  Index next_ = 0;
};

}  // namespace detail

/// y(i, :) = keep_i y(i, :) + Σ_k a(i, k) b(k, :)        b [depth x N], y [M x N]
/// `ahead`: rows that are wanted next; they come from memory meanwhile, some with every tile.
template <class Real>
void multiply(Part part, Left<Real> a, MatrixView<const Real> b, Keep<Real> keep,
              MatrixView<Real> y, std::type_identity_t<View<Real>> ahead = {}) noexcept {
  using detail::Job;
  constexpr Index width = simd::lanes<Real>;
  static constexpr auto pairs =
      detail::tiles<Real, 2, false>(std::make_integer_sequence<int, detail::tile_rows<Real>>{});
  static constexpr auto singles =
      detail::tiles<Real, 1, false>(std::make_integer_sequence<int, detail::tile_rows<Real>>{});
  static constexpr auto ragged =
      detail::tiles<Real, 1, true>(std::make_integer_sequence<int, detail::ragged_rows>{});
  if (keep.from == nullptr) {
    keep.from = y.data;
    keep.from_row = y.stride;
  }
  detail::Fetch<Real> fetch(ahead, y);
  for (Index c = 0, columns; c < y.cols; c += columns) {
    const Index left = y.cols - c;
    columns = left >= 2 * width ? 2 * width : left >= width ? width : left;
    const Index count = detail::parts(
        y.rows, columns < width ? Index{detail::ragged_rows} : Index{detail::tile_rows<Real>});
    for (Index m = 0; m < count; ++m) {
      const Index i0 = detail::cut(y.rows, m, count), i1 = detail::cut(y.rows, m + 1, count);
      const Index k0 = part == Part::upper && i0 < b.rows ? i0 : 0;
      const Index k1 = part == Part::lower && i1 < b.rows ? i1 : b.rows;
      const Job<Real> job{{a.data + i0 * a.row + k0 * a.col, a.row, a.col},
                          b.row(k0) + c,
                          b.stride,
                          k1 - k0,
                          {keep.factor == nullptr ? nullptr : keep.factor + i0 * keep.step,
                           keep.step, keep.from + i0 * keep.from_row + c, keep.from_row},
                          y.row(i0) + c,
                          y.stride,
                          columns};
      const auto rows = static_cast<std::size_t>(i1 - i0 - 1);
      fetch.some();
      if (columns == 2 * width) {
        pairs[rows](job);
      } else if (columns == width) {
        singles[rows](job);
      } else {
        ragged[rows](job);
      }
    }
  }
}

}  // namespace limen::inline LIMEN_ABI::chunk
