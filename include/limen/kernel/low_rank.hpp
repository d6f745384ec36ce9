#pragma once
/// @file  The change that a low-rank adapter makes, folded into a matrix and taken out again.
///
///   add_low_rank(w, b, a, c)      w += c b a      w [O x I], b [O x R], a [R x I]
///
/// In double, rounded once: what was folded in and is taken out with -c is back to a rounding.

#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
void add_low_rank(MatrixView<Real> w, std::type_identity_t<MatrixView<const Real>> b,
                  std::type_identity_t<MatrixView<const Real>> a, double c) {
  Buffer<double> row(w.cols);
  for (Index o = 0; o < w.rows; ++o) {
    for (Index i = 0; i < w.cols; ++i) row[i] = 0;
    for (Index r = 0; r < a.rows; ++r) {
      const double scale = c * static_cast<double>(b(o, r));
      const Real* const from = a.row(r);
      for (Index i = 0; i < w.cols; ++i) row[i] += scale * static_cast<double>(from[i]);
    }
    Real* const to = w.row(o);
    for (Index i = 0; i < w.cols; ++i) {
      to[i] = static_cast<Real>(static_cast<double>(to[i]) + row[i]);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
