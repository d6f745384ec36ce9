#pragma once
/// @file  The weight of a layer that spikes come in to, and when it is worth to follow them.
///
///   learning form    Tensor<Real, O, I>, as checkpoints store it
///   inference form   panels for dense products, and the fan-out of each input side by side
///                    (kernel/spike_sums.hpp) for events; of these what the layer may need
///
/// Both are derived from the learning form and never saved.

#include <algorithm>

#include <limen/core/prepared.hpp>
#include <limen/kernel/spike_sums.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

/// How a layer with spikes for input computes.
enum class Execution {
  dense,     ///< as a product of matrices; the input may be anything
  event,     ///< by the rows of the weights that spikes name
  automatic  ///< whichever takes less time for so many rows and spikes
};

template <class Real, Index O, Index I, Execution E, bool Half>
class PackedSpikeWeight {
 public:
  using Scalar = Real;
  using Stored = std::conditional_t<Half && std::is_same_v<Real, float>, HalfPair, Real>;

  void prepare_from(const Tensor<Real, O, I>& w) {
    if constexpr (E != Execution::event) panels.prepare_from(w);
    if constexpr (E != Execution::dense) fan_out_ = FanOut<Real, Stored>::pack(w.matrix());
  }
  FanOutView<Real, Stored> fan_out() const
    requires(E != Execution::dense)
  {
    return fan_out_.view();
  }

  Optional<E != Execution::event, PackedTensor<Real, O, I>> panels;

 private:
  Optional<E != Execution::dense, FanOut<Real, Stored>> fan_out_;
};

template <class S, Index O, Index I, Execution E, bool Half>
using SpikeWeight = std::conditional_t<is_prepared<S>, PackedSpikeWeight<real_of<S>, O, I, E, Half>,
                                       Tensor<real_of<S>, O, I>>;

/// What a product with `spikes` of rows x in is expected to take, in units of a vector of weights
/// multiplied and added by a full tile. Measured on one core of a Zen 5 (docs/spiking_events.md).
struct SpikeCost {
  double dense = 0, event = 0;
};

template <class Real>
constexpr SpikeCost spike_cost(Index rows, double spikes, Index in, Index out) {
  const double vectors = static_cast<double>((out + simd::lanes<Real> - 1) / simd::lanes<Real>);
  const double all = static_cast<double>(in) * vectors, n = static_cast<double>(rows);
  const double bytes = all * static_cast<double>(sizeof(simd::Vec<Real>));
  const bool far = bytes > (1 << 20);
  // Weights come from the outer caches once for all rows of a dense product.
  const double dense = std::max(all * n, all * (far ? 5.0 : 1.6));
  // Of a list, each weight comes from there, unless many lists pass one after another.
  const double event = spikes * vectors * (far && rows < 4 ? 5.0 : 2.0) + 40.0 * n;
  return {dense, event};
}

}  // namespace limen::inline LIMEN_ABI
