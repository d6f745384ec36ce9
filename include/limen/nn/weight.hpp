#pragma once
/// @file  A weight as layers hold it, and its products.
///
///   Weight<float, O, I>            Tensor<float, O, I>, one row per output, as checkpoints store
///   it Weight<Prepared<float>, O, I>  PackedTensor<float, O, I>, the same numbers in panels
///
///   y  = linear(x, w)                          x wᵀ        rows or one vector
///   dx = linear_input_gradient(dy, w)          dy w
///   add_linear_weight_gradient(dy, x, dw)      dw += dyᵀ x
///
/// Shapes are checked by the compiler; the products are kernels with run-time sizes.

#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/sequence.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/tiny.hpp>

namespace limen::inline LIMEN_ABI {

/// Panels with the shape in the type.
template <class Real, Index O, Index I>
class PackedTensor {
 public:
  using Scalar = Real;
  static constexpr bool tiny = O <= tiny_width && I <= tiny_width;

  void prepare_from(const Tensor<Real, O, I>& w) {
    panels_ = Panels<Real>::pack(w.matrix());
    if constexpr (tiny) tiny_.place(w.data());
  }
  PanelsView<Real> view() const { return panels_.view(); }

  /// y = x wᵀ + b of one row, where tiny.
  LIMEN_INLINE void row_product(const Real* x, const Real* bias, Real* y) const noexcept {
    tiny_.product(x, bias, y);
  }

 private:
  Panels<Real> panels_;
  Optional<tiny, TinyWeight<Real, O, I>> tiny_;
};

template <class S, Index O, Index I>
using Weight =
    std::conditional_t<is_prepared<S>, PackedTensor<real_of<S>, O, I>, Tensor<real_of<S>, O, I>>;

namespace detail {
template <class Real, Index O, Index I>
MatrixView<const Real> operand(const Tensor<Real, O, I>& w) {
  return {w.data(), O, I, I};
}
template <class Real, Index O, Index I>
PanelsView<Real> operand(const PackedTensor<Real, O, I>& w) {
  return w.view();
}
template <class W>
struct WeightShape;
template <class Real, Index O, Index I>
struct WeightShape<Tensor<Real, O, I>> {
  static constexpr Index out = O, in = I;
};
template <class Real, Index O, Index I>
struct WeightShape<PackedTensor<Real, O, I>> {
  static constexpr Index out = O, in = I;
};

/// Is a row worth code for exactly this shape?
template <class W>
inline constexpr bool is_tiny = false;
template <class Real, Index O, Index I>
inline constexpr bool is_tiny<PackedTensor<Real, O, I>> = PackedTensor<Real, O, I>::tiny;
}  // namespace detail

/// y = a(x wᵀ + b)        x [T x I]  ->  [T x O].  `bias` may be null.
template <class Real, Index I, class W>
auto linear(SequenceView<Real, I> x, const W& w, const Real* bias = nullptr,
            Activation activation = Activation::identity) {
  using Shape = detail::WeightShape<W>;
  static_assert(Shape::in == I, "linear: x must have as many columns as w");
  Sequence<Real, Shape::out> y(x.rows());
  product_nt(x.matrix(), detail::operand(w), y.matrix(), {.bias = bias, .activation = activation});
  return y;
}

template <class Real, Index I, class W>
auto linear(const Sequence<Real, I>& x, const W& w, const Real* bias = nullptr,
            Activation activation = Activation::identity) {
  return linear(SequenceView<Real, I>(x), w, bias, activation);
}

/// One row: x [I] -> [O].  Allocates nothing.
template <class Real, Index I, class W>
auto linear(VectorView<Real, I> x, const W& w, const Real* bias = nullptr,
            Activation activation = Activation::identity) noexcept {
  using Shape = detail::WeightShape<W>;
  static_assert(Shape::in == I, "linear: x must have as many columns as w");
  Vector<Real, Shape::out> y;
  if constexpr (detail::is_tiny<W>) {
    w.row_product(x.data(), bias, y.data());
    if (activation != Activation::identity) {
      activate(activation, y.data(), y.data(), Shape::out);
    }
  } else {
    product_nt(x.matrix(), detail::operand(w), y.matrix(),
               {.bias = bias, .activation = activation});
  }
  return y;
}

template <class Real, Index I, class W>
auto linear(const Vector<Real, I>& x, const W& w, const Real* bias = nullptr,
            Activation activation = Activation::identity) noexcept {
  return linear(VectorView<Real, I>(x), w, bias, activation);
}

/// dx = dy w        dy [T x O], w [O x I]  ->  [T x I]
template <class Real, Index O, Index I>
Sequence<Real, I> linear_input_gradient(std::type_identity_t<SequenceView<Real, O>> dy,
                                        const Tensor<Real, O, I>& w) {
  Sequence<Real, I> dx(dy.rows());
  product_nn(dy.matrix(), w.matrix(), dx.matrix());
  return dx;
}

/// dx += dy w
template <class Real, Index O, Index I>
void add_linear_input_gradient(std::type_identity_t<SequenceView<Real, O>> dy,
                               const Tensor<Real, O, I>& w, Sequence<Real, I>& dx) {
  product_nn(dy.matrix(), w.matrix(), dx.matrix(), {.accumulate = true});
}

/// dw += dyᵀ x      dy [T x O], x [T x I], dw [O x I]
template <class Real, Index O, Index I>
void add_linear_weight_gradient(std::type_identity_t<SequenceView<Real, O>> dy,
                                std::type_identity_t<SequenceView<Real, I>> x,
                                Tensor<Real, O, I>& dw) {
  add_product_tn(dy.matrix(), x.matrix(), dw.matrix());
}

/// db += Σ_t dy_t
template <class Real, Index O>
void add_bias_gradient(std::type_identity_t<SequenceView<Real, O>> dy, Tensor<Real, O>& db) {
  add_column_sums(dy.matrix(), db.data());
}

}  // namespace limen::inline LIMEN_ABI
