#pragma once
/// @file  Activations, with the width in the type.
///
///   Sequence<Real, D>      [T x D]  T known at run time, memory from the pool    owns
///   SequenceView<Real, D>  [T x D]  a look at rows that somebody else owns       for arguments
///   Vector<Real, D>        [D]      one time step, on the stack                  owns
///   VectorView<Real, D>    [D]      a look at one                                for arguments
///
/// A width that does not fit is a compile error; inside kernels the widths are run-time values
/// (`matrix()`), so that no kernel is compiled once per shape.

#include <cstring>
#include <initializer_list>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/tensor.hpp>

namespace limen::inline LIMEN_ABI {

/// D numbers on the stack. An aggregate: `Vector<float, 2> x{1, 2}`; `{}` is all zero.
template <class Real, Index D>
struct Vector {
  alignas(D * sizeof(Real) >= alignment ? alignment : alignof(Real)) Real values[D];

  Real* data() { return values; }
  const Real* data() const { return values; }
  Real& operator[](Index d) { return values[d]; }
  const Real& operator[](Index d) const { return values[d]; }
  static constexpr Index size() { return D; }
  MatrixView<Real> matrix() { return {values, 1, D, D}; }
  MatrixView<const Real> matrix() const { return {values, 1, D, D}; }
};

template <class Real, Index D>
class VectorView {
 public:
  explicit VectorView(const Real* data) noexcept : data_(data) {}
  VectorView(const Vector<Real, D>& v) noexcept : data_(v.values) {}  // NOLINT: only a look
  VectorView(const Fixed<Real, D>& v) noexcept : data_(v.data()) {}   // NOLINT: only a look

  const Real* data() const { return data_; }
  const Real& operator[](Index d) const { return data_[d]; }
  static constexpr Index size() { return D; }
  MatrixView<const Real> matrix() const { return {data_, 1, D, D}; }

  Vector<Real, D> copy() const {
    Vector<Real, D> v;
    std::memcpy(v.values, data_, sizeof(v.values));
    return v;
  }

 private:
  const Real* data_;
};

template <class Real, Index D>
class Sequence {
 public:
  using Scalar = Real;
  static constexpr Index width = D;

  Sequence() = default;

  /// Room for `rows` rows, not yet filled.
  explicit Sequence(Index rows) : rows_(rows), values_(rows * D) {}

  /// Given row by row: Sequence<float, 2>{{1, 2}, {3, 4}}.
  Sequence(std::initializer_list<Vector<Real, D>> rows)
      : Sequence(static_cast<Index>(rows.size())) {
    Real* to = data();
    for (const auto& r : rows) {
      std::memcpy(to, r.values, sizeof(r.values));
      to += D;
    }
  }

  static Sequence zeros(Index rows) {
    Sequence x(rows);
    if (rows > 0) std::memset(x.data(), 0, static_cast<std::size_t>(rows * D) * sizeof(Real));
    return x;
  }

  Sequence(const Sequence& other) : Sequence(other.rows_) {
    if (rows_ > 0)
      std::memcpy(data(), other.data(), static_cast<std::size_t>(size()) * sizeof(Real));
  }
  Sequence& operator=(const Sequence& other) {
    if (this != &other) *this = Sequence(other);
    return *this;
  }
  Sequence(Sequence&& other) noexcept
      : rows_(std::exchange(other.rows_, 0)), values_(std::move(other.values_)) {}
  Sequence& operator=(Sequence&& other) noexcept {
    rows_ = std::exchange(other.rows_, 0);
    values_ = std::move(other.values_);
    return *this;
  }

  Index rows() const { return rows_; }
  Index size() const { return rows_ * D; }
  Real* data() { return values_.data(); }
  const Real* data() const { return values_.data(); }
  Real& operator()(Index t, Index d) { return values_[t * D + d]; }
  const Real& operator()(Index t, Index d) const { return values_[t * D + d]; }
  Real* row_data(Index t) { return data() + t * D; }
  VectorView<Real, D> row(Index t) const { return VectorView<Real, D>(data() + t * D); }

  MatrixView<Real> matrix() { return {data(), rows_, D, D}; }
  MatrixView<const Real> matrix() const { return {data(), rows_, D, D}; }

 private:
  Index rows_ = 0;
  Buffer<Real> values_;
};

template <class Real, Index D>
class SequenceView {
 public:
  SequenceView() = default;
  /// Rows of D numbers, `stride` apart, that somebody keeps alive.
  SequenceView(const Real* data, Index rows, Index stride = D)
      : data_(data), rows_(rows), stride_(stride) {}
  SequenceView(const Sequence<Real, D>& x)  // NOLINT: a look costs nothing
      : data_(x.data()), rows_(x.rows()) {}

  Index rows() const { return rows_; }
  Index stride() const { return stride_; }
  const Real* data() const { return data_; }
  const Real& operator()(Index t, Index d) const { return data_[t * stride_ + d]; }
  VectorView<Real, D> row(Index t) const { return VectorView<Real, D>(data_ + t * stride_); }
  SequenceView middle_rows(Index first, Index count) const {
    return {data_ + first * stride_, count, stride_};
  }

  MatrixView<const Real> matrix() const { return {data_, rows_, D, stride_}; }

  Sequence<Real, D> copy() const {
    Sequence<Real, D> x(rows_);
    for (Index t = 0; t < rows_; ++t) {
      std::memcpy(x.row_data(t), data_ + t * stride_, static_cast<std::size_t>(D) * sizeof(Real));
    }
    return x;
  }

 private:
  const Real* data_ = nullptr;
  Index rows_ = 0;
  Index stride_ = D;
};

/// Rows `first` to `first + count` of x.
template <class Real, Index D>
SequenceView<Real, D> middle_rows(const Sequence<Real, D>& x, Index first, Index count) {
  return SequenceView<Real, D>(x).middle_rows(first, count);
}

}  // namespace limen::inline LIMEN_ABI
