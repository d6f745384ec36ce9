#pragma once
/// @file  Scores of many rows at once: a row in each lane of a vector, a class after the other. The
/// same bits as row by row (exit/scores.hpp), since the sums are taken in the order of
/// simd::reduce_add.
///
///   z [T x C], up to 16 rows of float at a time, C up to 64: a tenth of the time of ten logits

#include <limen/core/matrix.hpp>
#include <limen/exit/scores.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
class RowScores {
  using V = simd::Vec<Real>;
  static constexpr std::size_t width = V::size;

 public:
  static constexpr Index rows = simd::lanes<Real>, most_classes = 64;

  /// z [n x C], n at most `rows`.
  LIMEN_NOINLINE void read(MatrixView<const Real> z) noexcept {
    turn(z);
    const auto C = static_cast<std::size_t>(z.cols);
    const V m = largest(C);
    const V zero(Real(0)), one(Real(1));
    V best = zero, good = one, equals = zero, next = zero;
    for (std::size_t c = C; c-- > 0;) {
      const V v = at(c), a = v - m, e = math::exp(a), e2 = e * e;
      const V ea = simd::select(e == zero, zero, e * a);  // 0 log 0 = 0
      const V e2a = simd::select(e2 == zero, zero, e2 * a);
      simd::store(e_[c], e);
      simd::store(ea_[c], ea);
      simd::store(e2_[c], e2);
      simd::store(e2a_[c], e2a);
      best = simd::select(v == m, V(static_cast<Real>(c)), best);
      // NaN is no good. NOLINTNEXTLINE(misc-redundant-expression)
      good = simd::select(v == v, good, zero);
      equals = equals + simd::select(a == zero, one, zero);
      next = simd::max(next, simd::select(a == zero, zero, e));
    }
    const V sum = total(e_, C), squares = total(e2_, C);
    simd::store(sum_, sum);
    simd::store(weighted_, total(ea_, C));
    simd::store(squares_, squares);
    simd::store(weighted2_, total(e2a_, C));
    simd::store(log_sum_, math::log(sum));
    simd::store(log_squares_, math::log(squares));
    simd::store(next_, simd::select(one < equals, one, next));
    simd::store(best_, simd::select(good == one, best, zero - one));
  }

  RowSums<Real> operator[](Index i) const noexcept {
    return {sum_[i],     next_[i],      weighted_[i],    log_sum_[i],
            squares_[i], weighted2_[i], log_squares_[i], static_cast<Index>(best_[i])};
  }

 private:
  void turn(MatrixView<const Real> z) noexcept {
    for (Index i = 0; i < rows; ++i) {
      const Real* row = z.row(i < z.rows ? i : 0);
      for (Index c = 0; c < z.cols; ++c) z_[c][i] = row[c];
    }
  }
  V at(std::size_t c) const noexcept { return simd::load<V>(z_[c]); }
  V largest(std::size_t C) const noexcept {
    V m = at(0);
    for (std::size_t c = 1; c < C; ++c) m = simd::max(m, at(c));
    return m;
  }

  /// Σ_c x[c]: what would be one lane of a vector first, then lanes folded in halves.
  static V total(Real (*x)[width], std::size_t C) noexcept {
    const auto add = [x](std::size_t to, std::size_t from) {
      simd::store(x[to], simd::load<V>(x[to]) + simd::load<V>(x[from]));
    };
    for (std::size_t c = width; c < C; ++c) add(c % width, c);
    std::size_t live = std::min(C, width);
    for (std::size_t half = width / 2; half > 0; half /= 2) {
      for (std::size_t c = half; c < live; ++c) add(c - half, c);
      live = std::min(live, half);
    }
    return simd::load<V>(x[0]);
  }

  alignas(64) Real z_[most_classes][width];
  alignas(64) Real e_[most_classes][width], ea_[most_classes][width];
  alignas(64) Real e2_[most_classes][width], e2a_[most_classes][width];
  alignas(64) Real sum_[width], next_[width], weighted_[width], log_sum_[width];
  alignas(64) Real squares_[width], weighted2_[width], log_squares_[width], best_[width];
};

}  // namespace limen::inline LIMEN_ABI
