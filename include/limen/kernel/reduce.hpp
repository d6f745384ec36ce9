#pragma once
/// @file  Sums and maxima of rows and columns. The order of additions depends on the shape alone,
/// not on threads or alignment: the same numbers give the same bits.
///
///   row_sum, row_max      over n numbers in memory
///   reduce_row            the same over values that are computed on the way
///   add_column_sums       sums += Σ over rows

#include <limits>
#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// f(sum, i, load) -> sum over 0 <= i < n a vector at a time, in four chains, which hides the time
/// an addition takes. Lanes past the end are loaded as 0 and must not count.
template <class V, class F, class G>
LIMEN_INLINE V in_four_chains(Index n, const V& start, F&& f, G&& join) {
  using Real = typename V::value_type;
  constexpr Index width = static_cast<Index>(V::size);
  V sum[4] = {start, start, start, start};
  const auto load = [](const Real* p) { return simd::load<V>(p); };
  Index i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    LIMEN_UNROLL for (int k = 0; k < 4; ++k) sum[k] = f(sum[k], i + k * width, load);
  }
  for (; i + width <= n; i += width) sum[0] = f(sum[0], i, load);
  if (i < n) {
    const Index rest = n - i;
    sum[1] = f(sum[1], i, [rest](const Real* p) { return simd::load<V>(p, rest); });
  }
  return join(join(sum[0], sum[1]), join(sum[2], sum[3]));
}

}  // namespace detail

/// Σ f(i, load) over 0 <= i < n: f gives a vector of values, 0 where `load` reads past the end (as
/// 0).
///
///     dot = reduce_row<float>(n, [&](Index i, auto load) { return load(x + i) * load(y + i); });
template <class Real, class F>
LIMEN_INLINE Real reduce_row(Index n, F&& f) {
  using V = simd::Vec<Real>;
  return simd::reduce_add(detail::in_four_chains(
      n, V(Real(0)), [&](const V& sum, Index i, auto load) { return sum + f(i, load); },
      [](const V& a, const V& b) { return a + b; }));
}

/// x[0] + ... + x[n - 1]
template <class Real>
Real row_sum(const Real* x, Index n) noexcept {
  return reduce_row<Real>(n, [x](Index i, auto load) { return load(x + i); });
}

/// The largest of x[0..n), -inf of none. NaN is passed over.
template <class Real>
Real row_max(const Real* x, Index n) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  Real most = -std::numeric_limits<Real>::infinity();
  if (n >= width) {
    const auto larger = [](const V& a, const V& b) { return simd::max(b, a); };
    most = simd::reduce_max(detail::in_four_chains(
        n - n % width, V(most),
        [&](const V& all, Index i, auto load) { return larger(all, load(x + i)); }, larger));
  }
  for (Index i = n - n % width; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

/// sums[c] += Σ_r x(r, c).  Rows in turn, four at a time: sums are loaded and stored once for four.
template <class Real>
void add_column_sums(std::type_identity_t<MatrixView<const Real>> x, Real* sums) noexcept {
  const Index fours = x.rows - x.rows % 4;
  for (Index t = 0; t < fours; t += 4) {
    const Real *a = x.row(t), *b = x.row(t + 1), *c = x.row(t + 2), *d = x.row(t + 3);
    simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) {
      store(sums + i, load(sums + i) + ((load(a + i) + load(b + i)) + (load(c + i) + load(d + i))));
    });
  }
  for (Index t = fours; t < x.rows; ++t) {
    const Real* row = x.row(t);
    simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) {
      store(sums + i, load(sums + i) + load(row + i));
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
