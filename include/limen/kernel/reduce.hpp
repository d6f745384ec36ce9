#pragma once
// provisional, until the engineer named "math" lands the real one (same names)
#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
namespace limen::inline LIMEN_ABI {
template <class Real> void add_column_sums(std::type_identity_t<MatrixView<const Real>> x, Real* sums) {
  for (Index t = 0; t < x.rows; ++t) simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) { store(sums + i, load(sums + i) + load(x.row(t) + i)); });
}
}
