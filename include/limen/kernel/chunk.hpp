#pragma once
/// @file  What the chunked forms of matrix-state recurrences are made of: small products of factors
/// that lie in the caches, decays, triangular solves.
///
///   multiply          y(i, :) = s_i y(i, :) + Σ_k a(i, k) b(k, :)
///   transpose         to[c][r] = x(r, c)
///   decay_matrix      Γ(i, j) = a_{j+1} a_{j+2} ... a_i for j <= i, else 0
///   solve_unit_lower  x = (I + A)^-1 x, and with (I + A)ᵀ
///
/// Decays are products of numbers in [0, 1], never quotients, nor e to the power of a difference of
/// sums: nothing overflows, nothing cancels, a decay of 0 is a decay like any other, and there is
/// no exponential left in the chunk.

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/tile.hpp>

namespace limen::inline LIMEN_ABI::chunk {

template <class Real>
using View = MatrixView<const Real>;

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
    constexpr Index line = 64 / sizeof(Real);
    for (Index end = std::min(next_ + each_, rows_.rows); next_ < end; ++next_) {
      for (Index c = 0; c < rows_.cols; c += line) simd::prefetch(rows_.row(next_) + c);
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

/// n, rounded up to whole vectors.
template <class Real>
constexpr Index whole(Index n) {
  return (n + simd::lanes<Real> - 1) / simd::lanes<Real> * simd::lanes<Real>;
}

/// to[c][r] = x(r, c); rows of `to` are `stride` apart and get zeros up to a whole vector.
template <class Real>
void transpose(MatrixView<const Real> x, Real* to, Index stride) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  for (Index r = 0; r < x.rows; r += width) {
    for (Index c = 0; c < x.cols; c += width) {
      const Index rows = x.rows - r, columns = x.cols - c;
      V block[width];
      if (rows >= width && columns >= width) {
        LIMEN_UNROLL for (Index i = 0; i < width; ++i) block[i] = simd::load<V>(x.row(r + i) + c);
      } else {
        for (Index i = 0; i < width; ++i) {
          block[i] = i < rows ? simd::load<V>(x.row(r + i) + c, columns) : V(Real(0));
        }
      }
      simd::transpose(block);
      if (columns >= width) {
        LIMEN_UNROLL for (Index i = 0; i < width; ++i) {
          simd::store(to + (c + i) * stride + r, block[i]);
        }
      } else {
        for (Index i = 0; i < columns; ++i) simd::store(to + (c + i) * stride + r, block[i]);
      }
    }
  }
}

/// to(r, :) = s_r x(r, :), or without s a copy.
template <class Real>
void scale_rows(MatrixView<const Real> x, const Real* s, MatrixView<Real> to) noexcept {
  using V = simd::Vec<Real>;
  for (Index r = 0; r < x.rows; ++r) {
    const Real* from = x.row(r);
    Real* out = to.row(r);
    const V factor(s != nullptr ? s[r] : Real(1));
    simd::for_each<Real>(
        x.cols, [&](Index i, auto load, auto store) { store(out + i, load(from + i) * factor); });
  }
}

/// to = x, row by row.
template <class Real>
void copy(std::type_identity_t<MatrixView<const Real>> x, MatrixView<Real> to) noexcept {
  scale_rows<Real>(x, nullptr, to);
}

/// y = a b, elementwise.
template <class Real>
void multiply_elements(MatrixView<const Real> a, MatrixView<const Real> b,
                       MatrixView<Real> y) noexcept {
  for (Index r = 0; r < y.rows; ++r) {
    const Real *ar = a.row(r), *br = b.row(r);
    Real* to = y.row(r);
    simd::for_each<Real>(y.cols, [&](Index i, auto load, auto store) {
      store(to + i, load(ar + i) * load(br + i));
    });
  }
}

/// Σ a b over n numbers.
template <class Real>
Real dot(const Real* a, const Real* b, Index n) noexcept {
  using V = simd::Vec<Real>;
  V sum[2] = {V(Real(0)), V(Real(0))};
  Index i = 0;
  for (; i + 2 * simd::lanes<Real> <= n; i += 2 * simd::lanes<Real>) {
    LIMEN_UNROLL for (int c = 0; c < 2; ++c) {
      const Index at = i + c * simd::lanes<Real>;
      sum[c] = simd::fma(simd::load<V>(a + at), simd::load<V>(b + at), sum[c]);
    }
  }
  for (; i < n; i += simd::lanes<Real>) {
    sum[0] = simd::fma(simd::load<V>(a + i, n - i), simd::load<V>(b + i, n - i), sum[0]);
  }
  return simd::reduce_add(sum[0] + sum[1]);
}

/// Γ [n x whole(n)] of the decays a [n]; zeros above the diagonal and behind it.
template <class Real>
void decay_matrix(const Real* a, Index n, Real* gamma, Index stride) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  alignas(64) Real unit[2 * width] = {};
  unit[width] = 1;
  for (Index j = 0; j < n; j += width) {
    V g(Real(0));
    for (Index i = 0; i < j; ++i) simd::store(gamma + i * stride + j, g);
    const Index diagonal = n < j + width ? n : j + width;
    for (Index i = j; i < diagonal; ++i) {  // a one enters in lane i - j
      g = simd::fma(g, V(a[i]), simd::load<V>(unit + width - (i - j)));
      simd::store(gamma + i * stride + j, g);
    }
    for (Index i = diagonal; i < n; ++i) {
      g = g * V(a[i]);
      simd::store(gamma + i * stride + j, g);
    }
  }
}

/// to[i] = a_0 a_1 ... a_i
template <class Real>
void running_product(const Real* a, Index n, Real* to) noexcept {
  Real product = 1;
  for (Index i = 0; i < n; ++i) to[i] = product *= a[i];
}

namespace detail {

/// Rows 0..Rows of x, each less what the others of the block bring. m(i, j) = -A(i, j), j < i, or
/// with `Turned` -A(j, i), j > i.
template <class Real, int Rows, bool Turned>
LIMEN_NOINLINE void solve_block(const Real* m, Index stride, Real* x, Index x_row,
                                Index columns) noexcept {
  simd::for_each<Real>(columns, [&](Index c, auto load, auto store) {
    simd::Vec<Real> v[Rows];
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) v[i] = load(x + i * x_row + c);
    LIMEN_UNROLL for (int n = 1; n < Rows; ++n) {
      const int i = Turned ? Rows - 1 - n : n;
      LIMEN_UNROLL for (int k = 0; k < n; ++k) {
        const int j = Turned ? Rows - 1 - k : k;
        const Real factor = Turned ? m[j * stride + i] : m[i * stride + j];
        v[i] = simd::fma(simd::Vec<Real>(factor), v[j], v[i]);
      }
    }
    LIMEN_UNROLL for (int i = 0; i < Rows; ++i) store(x + i * x_row + c, v[i]);
  });
}

}  // namespace detail

/// x = (I - M)^-1 x for strictly lower M [n x n], zeros on and above its diagonal; x [n x V].
template <class Real>
void solve_unit_lower(const Real* m, Index stride, MatrixView<Real> x) noexcept {
  constexpr Index block = 8;
  for (Index i = 0, rows; i < x.rows; i += rows) {
    rows = x.rows - i >= block ? block : 1;
    if (i > 0) {
      multiply<Real>(Part::all, {m + i * stride, stride, 1}, x.middle_rows(0, i), add<Real>,
                     x.middle_rows(i, rows));
    }
    if (rows == block) {
      detail::solve_block<Real, block, false>(m + i * stride + i, stride, x.row(i), x.stride,
                                              x.cols);
    }
  }
}

/// x = (I - Mᵀ)^-1 x
template <class Real>
void solve_unit_lower_transposed(const Real* m, Index stride, MatrixView<Real> x) noexcept {
  constexpr Index block = 8;
  for (Index end = x.rows, rows; end > 0; end -= rows) {
    rows = end >= block ? block : 1;
    const Index i = end - rows;
    if (end < x.rows) {
      multiply<Real>(Part::all, {m + end * stride + i, 1, stride}, x.middle_rows(end, x.rows - end),
                     add<Real>, x.middle_rows(i, rows));
    }
    if (rows == block) {
      detail::solve_block<Real, block, true>(m + i * stride + i, stride, x.row(i), x.stride,
                                             x.cols);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI::chunk
