#pragma once
/// @file  The weight of a convolution as layers hold it.
///
///   Taps<float, O, I, K...>            Tensor<float, O, I, K...>, as checkpoints store it
///   Taps<Prepared<float>, O, I, K...>  the matrix [O x taps I] of the product, in panels
///
/// In memory the channels of a pixel lie side by side, in a checkpoint the taps of a channel do; a
/// learning layer reorders its weights in each call, a prepared one has done it.

#include <limen/core/prepared.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/conv.hpp>
#include <limen/kernel/gemm.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real, Index O, Index I, Index... K>
class PackedTaps {
 public:
  using Scalar = Real;
  static constexpr Index taps = (Index{1} * ... * K);

  void prepare_from(const Tensor<Real, O, I, K...>& w) {
    Buffer<Real> matrix(O * I * taps);
    taps_first(w.data(), O, I, taps, matrix.data());
    panels_ = Panels<Real>::pack({matrix.data(), O, I * taps, I * taps});
  }
  PanelsView<Real> view() const { return panels_.view(); }

 private:
  Panels<Real> panels_;
};

template <class S, Index O, Index I, Index... K>
using Taps = std::conditional_t<is_prepared<S>, PackedTaps<real_of<S>, O, I, K...>,
                                Tensor<real_of<S>, O, I, K...>>;

/// The weight in panels, whatever form it comes in: made for this call, or only looked at.
template <class Real, Index O, Index I, Index... K>
PackedTaps<Real, O, I, K...> packed(const Tensor<Real, O, I, K...>& w) {
  PackedTaps<Real, O, I, K...> p;
  p.prepare_from(w);
  return p;
}
template <class Real, Index O, Index I, Index... K>
const PackedTaps<Real, O, I, K...>& packed(const PackedTaps<Real, O, I, K...>& w) {
  return w;
}

}  // namespace limen::inline LIMEN_ABI
