#pragma once
/// @file  What layers learn and remember.
///
///   Tensor<Real, dims...>     on the heap, shape in the type, zero by default    parameters
///   Statistic<Real, dims...>  a tensor that is measured, not learned             running averages
///   Fixed<Real, dims...>      in place, trivially copyable, zero by default      states
///
/// All are values: copying copies the numbers, nothing is shared.

#include <array>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>

namespace limen::inline LIMEN_ABI {

/// A parameter. The shape is part of the type, so a gradient, a momentum or a checkpoint entry of
/// the wrong shape does not compile. Row-major, aligned to a cache line.
template <class Real, Index... Dims>
class Tensor {
 public:
  using Scalar = Real;
  static constexpr std::array<Index, sizeof...(Dims)> shape{Dims...};
  static constexpr Index size = (Index{1} * ... * Dims);
  static_assert(sizeof...(Dims) > 0 && ((Dims > 0) && ...),
                "Tensor: every dimension must be positive");

  Tensor() : values_(size) { std::memset(data(), 0, bytes); }
  Tensor(const Tensor& other) : values_(size) { std::memcpy(data(), other.data(), bytes); }
  Tensor& operator=(const Tensor& other) {
    if (this != &other) std::memcpy(data(), other.data(), bytes);
    return *this;
  }
  // A moved-from tensor would have no numbers; swapping leaves both whole.
  Tensor(Tensor&& other) : Tensor() { std::swap(values_, other.values_); }
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(values_, other.values_);
    return *this;
  }

  Real* data() { return values_.data(); }
  const Real* data() const { return values_.data(); }

  /// All values in row-major order.
  std::span<Real> flat() { return {data(), static_cast<std::size_t>(size)}; }
  std::span<const Real> flat() const { return {data(), static_cast<std::size_t>(size)}; }
  Real& operator[](Index i) { return data()[i]; }
  const Real& operator[](Index i) const { return data()[i]; }

  /// As rows: the first dimension against all others together.
  MatrixView<Real> matrix() { return {data(), rows, size / rows, size / rows}; }
  MatrixView<const Real> matrix() const { return {data(), rows, size / rows, size / rows}; }
  Real& operator()(Index r, Index c) { return data()[r * (size / rows) + c]; }
  const Real& operator()(Index r, Index c) const { return data()[r * (size / rows) + c]; }

  friend bool operator==(const Tensor& a, const Tensor& b) {
    for (Index i = 0; i < size; ++i) {
      if (!(a[i] == b[i])) return false;
    }
    return true;
  }

 private:
  static constexpr Index rows = shape[0];
  static constexpr std::size_t bytes = static_cast<std::size_t>(size) * sizeof(Real);
  Buffer<Real> values_;
};

/// A tensor that is measured while training, not learned: the running mean of a batch norm. It is
/// named in `visit` and saved like any other. In a gradient it gathers Σ weight · (measured - old)
/// and the weights; `settle` then moves the model's value by the momentum's share of their mean.
/// Optimizers leave it alone.
template <class Real, Index... Dims>
class Statistic : public Tensor<Real, Dims...> {
 public:
  Real weight = 0;
};

template <class T>
inline constexpr bool is_tensor = false;
template <class Real, Index... Dims>
inline constexpr bool is_tensor<Tensor<Real, Dims...>> = true;
template <class Real, Index... Dims>
inline constexpr bool is_tensor<Statistic<Real, Dims...>> = true;

template <class T>
inline constexpr bool is_statistic = false;
template <class Real, Index... Dims>
inline constexpr bool is_statistic<Statistic<Real, Dims...>> = true;

/// Stands where a config left a member out. (T keeps two of them apart, so that neither takes
/// room.)
template <class T>
struct Absent {};
template <class T>
inline constexpr bool is_absent = false;
template <class T>
inline constexpr bool is_absent<Absent<T>> = true;

/// A member that a config may leave out.
template <bool Present, class T>
using Optional = std::conditional_t<Present, T, Absent<T>>;

/// The numbers of a member that a config may have left out: null then.
template <class T>
  requires is_tensor<std::remove_const_t<T>>
auto* data_or_null(T& tensor) {
  return tensor.data();
}
template <class T>
typename T::Scalar* data_or_null(const Absent<T>&) {
  return nullptr;
}

/// Part of a state: copied, sent and saved as plain bytes.
template <class Real, Index... Dims>
struct Fixed {
  static constexpr Index size = (Index{1} * ... * Dims);

  alignas(size * sizeof(Real) >= alignment
              ? alignment
              : alignof(Real)) std::array<Real, static_cast<std::size_t>(size)> values{};

  Real* data() { return values.data(); }
  const Real* data() const { return values.data(); }
  Real& operator[](Index i) { return values[static_cast<std::size_t>(i)]; }
  const Real& operator[](Index i) const { return values[static_cast<std::size_t>(i)]; }
};

}  // namespace limen::inline LIMEN_ABI
