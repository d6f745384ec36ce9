#pragma once
/// @file  Neurons that are joined by sparse synapses, in steps of time.
///
///   x(t) = drive + what arrives now        fired(t) = neurons(x(t))        the rest is sent
///
///     SparseNetwork<Lif<c>> net(Lif<c>{}, SparseSynapses<float>::random(...));
///     auto state = net.rest();
///     const auto fired = net.step(state, drive);       // [N] or null: who fired, ascending
///
/// Each step looks at every neuron once, in whole vectors, and at the synapses of those that
/// fired. Where most neurons hear nothing for long, LazyNetwork (spiking/lazy_network.hpp) looks
/// only at those that do. A step takes no memory and throws nothing.

#include <memory>

#include <limen/core/denormals.hpp>
#include <limen/spiking/event_step.hpp>
#include <limen/spiking/sparse_synapses.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
/// Reports and says no if they are not between N neurons, or arrive before they are sent.
template <class Real>
bool joins(const SparseSynapses<Real>& s, Index N) {
  if (s.from() != N || s.to() != N) {
    fail({"synapses of a network", "between " + std::to_string(N) + " neurons",
          "from " + std::to_string(s.from()) + " to " + std::to_string(s.to())});
    return false;
  }
  if (s.count() > 0 && s.shortest_delay() < 1) {
    fail({"delay within a network", "at least 1 step", "0"});
    return false;
  }
  return true;
}
}  // namespace detail

template <class Neuron>
  requires detail::FiresLists<Neuron>
class SparseNetwork {
 public:
  using Real = typename Neuron::Scalar;
  static constexpr Index N = Neuron::out;

  /// What the network remembers: a value, on the heap.
  struct State {
    std::unique_ptr<typename Neuron::State> neurons = std::make_unique<typename Neuron::State>();
    DelayRing<Real> ring;
    Buffer<SpikeIndex> ids;
    Buffer<Real> input, own;

    State() = default;
    State(const State& other)
        : neurons(std::make_unique<typename Neuron::State>(*other.neurons)),
          ring(other.ring),
          ids(other.ids.size()),
          input(other.input.size()),
          own(other.own.size()) {}
    State(State&&) noexcept = default;
    State& operator=(State other) noexcept {
      std::swap(neurons, other.neurons);
      ring = std::move(other.ring);
      std::swap(ids, other.ids);
      std::swap(input, other.input);
      std::swap(own, other.own);
      return *this;
    }
    ~State() = default;
  };

  SparseNetwork(Neuron neuron, SparseSynapses<Real> synapses)
      : neuron_(std::move(neuron)), synapses_(std::move(synapses)) {
    if (!detail::joins(synapses_, N)) synapses_ = SparseSynapses<Real>::of({}, N, N).value();
  }

  const Neuron& neuron() const { return neuron_; }
  const SparseSynapses<Real>& synapses() const { return synapses_; }

  State rest() const {
    State state;
    state.ring = DelayRing<Real>(N, synapses_.longest_delay() > 0 ? synapses_.longest_delay() : 1);
    state.ids = Buffer<SpikeIndex>(spike_room(N));
    state.input = Buffer<Real>(N);
    state.own = Buffer<Real>(Neuron::own_numbers * N);
    return state;
  }

  /// drive [N], or null. Who fired, until the next step of this state.
  std::span<const SpikeIndex> step(State& state, const Real* drive = nullptr) const noexcept {
    const FlushDenormals guard;
    const Real* x = state.ring.at(0);
    if (drive != nullptr) {
      Real* const sum = state.input.data();
      simd::for_each<Real>(N, [&](Index i, auto load, auto store) {
        store(sum + i, load(x + i) + load(drive + i));
      });
      x = sum;
    }
    const Index count = fire_and_list(neuron_.unit(state.own.data()), N, x, state.neurons->arrays(),
                                      state.ids.data());
    state.ring.advance();
    const std::span<const SpikeIndex> fired(state.ids.data(), static_cast<std::size_t>(count));
    synapses_.deliver(fired, state.ring, 1);
    return fired;
  }

 private:
  Neuron neuron_;
  SparseSynapses<Real> synapses_;
};

}  // namespace limen::inline LIMEN_ABI
