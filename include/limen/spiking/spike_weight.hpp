#pragma once
/// @file  The weight of a layer that spikes come in to, and when it is worth to follow them.
///
///   learning form    Tensor<Real, O, I>, as checkpoints store it
///   inference form   panels for dense products, and the fan-out of each input side by side
///                    (kernel/spike_sums.hpp) for events; of these what the layer may need
///
/// Both are derived from the learning form and never saved.

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

/// The share of spikes below which events take less time than a product. Measured on one core of a
/// Zen 5 for 256 x 256 to 1024 x 1024 (docs/spiking_events.md): one row reads all its weights from
/// the caches either way and is better off with fewer; of many rows, a product reads each weight
/// once, and events compete with its multipliers.
template <class Real>
constexpr double follow_below(Index rows, Index in, Index out) {
  const bool far = in * out * static_cast<Index>(sizeof(Real)) > (1 << 20);  // second-level cache
  if (rows == 1) return 0.7;
  if (rows == 2) return 0.42;
  return far ? 0.31 : 0.35;
}

}  // namespace limen::inline LIMEN_ABI
