#pragma once
/// @file  MatrixView: rows in memory, with sizes known at run time. What kernels take.

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// `rows` rows of `cols` numbers; a row starts `stride` numbers after the one before it.
template <class Real>
struct MatrixView {
  Real* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;

  Real* row(Index r) const { return data + r * stride; }
  Real& operator()(Index r, Index c) const { return data[r * stride + c]; }

  /// `count` rows from row `first` on.
  MatrixView middle_rows(Index first, Index count) const {
    return {data == nullptr ? data : row(first), count, cols, stride};
  }
  /// `count` columns from column `first` on.
  MatrixView middle_cols(Index first, Index count) const {
    return {rows == 0 ? data : data + first, rows, count, stride};  // of no rows, perhaps no data
  }

  operator MatrixView<const Real>() const  // NOLINT: what may be written may be read
    requires(!std::is_const_v<Real>)
  {
    return {data, rows, cols, stride};
  }
};

}  // namespace limen::inline LIMEN_ABI
