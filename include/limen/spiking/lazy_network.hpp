#pragma once
/// @file  A sparse network that looks only at neurons that hear something.
///
///   v ← a^(t - t') v + g x          t': when the neuron was last looked at
///
/// A leaky neuron that hears nothing only forgets, and k steps of that are one factor a^k. Neurons
/// are therefore left alone until a spike arrives: a step costs what arrives, not how many neurons
/// there are. It fires as SparseNetwork does, up to rounding (a^k is one product there of k), and
/// to the bit where a^k is exact.
///
/// This is exact only if nothing else moves a neuron, and that is asked when the program is
/// compiled (lazy_is_exact): rest below the threshold, no refractory time, nothing learned per
/// neuron, the reset paid at once; there is no drive. A neuron that is above its threshold after
/// its reset (a soft reset of a strong input) would fire again by itself: it is looked at in the
/// next step too.

#include <algorithm>
#include <cmath>
#include <memory>

#include <limen/spiking/lif_config.hpp>
#include <limen/spiking/sparse_network.hpp>

namespace limen::inline LIMEN_ABI {

template <LifConfig C>
inline constexpr bool lazy_is_exact =
    C.rest < C.threshold && C.when == When::now && C.refractory == 0 &&
    C.learn_decay == Learned::no && C.learn_gain == Learned::no &&
    C.learn_threshold == Learned::no && C.learn_reset_to == Learned::no;

template <LifConfig C, class Real = float>
class LazyNetwork {
  static_assert(C.rest < C.threshold,
                "LazyNetwork: a neuron with .rest at or above .threshold fires without input");
  static_assert(C.when == When::now, "LazyNetwork: .when must be now");
  static_assert(C.refractory == 0, "LazyNetwork: a .refractory time runs without input");
  static_assert(lazy_is_exact<C>, "LazyNetwork: no number of the neurons may be learned");

  static constexpr LifConfig config = C;

 public:
  static constexpr Index N = C.d_model;

  class State {
   public:
    explicit State(Index longest_delay)
        : ring_(N, longest_delay), v_(N), last_(N), ids_(spike_room(N)), heard_(longest_delay + 1) {
      for (Index i = 0; i < N; ++i) v_[i] = 0, last_[i] = 0;
      marks_ = Buffer<std::uint8_t>(N * slots());
      for (std::uint8_t& m : marks_) m = 0;
      lists_ = Buffer<SpikeIndex>((N + 1) * slots());
      for (Index& n : heard_) n = 0;
    }
    State(State&&) noexcept = default;
    State& operator=(State&&) noexcept = default;

    std::size_t bytes() const {
      const auto each = sizeof(Real) + sizeof(std::uint32_t) + sizeof(SpikeIndex);
      return ring_.bytes() + static_cast<std::size_t>(N) * each +
             static_cast<std::size_t>(N * slots()) * (1 + sizeof(SpikeIndex));
    }

    /// Membrane of neuron i above rest, now.
    Real membrane(Index i, const LazyNetwork& net) const {
      return net.decayed(v_[i], now_ - last_[i]);
    }

   private:
    friend LazyNetwork;

    Index slots() const { return ring_.longest_delay() + 1; }
    Index slot(Index delay) const {
      const Index s = cursor_ + delay;
      return s < slots() ? s : s - slots();
    }
    /// Neuron j is to be looked at. No branch: who is there already is written and not counted.
    LIMEN_INLINE void mark(Index slot, Index j) noexcept {
      std::uint8_t& m = marks_[slot * N + j];
      Index& n = heard_[slot];
      lists_[slot * (N + 1) + n] = static_cast<SpikeIndex>(j);
      n += 1 - m;
      m = 1;
    }

    DelayRing<Real> ring_;
    Buffer<Real> v_;              ///< [N] at the step of last_
    Buffer<std::uint32_t> last_;  ///< [N]
    Buffer<SpikeIndex> ids_;      ///< who fired
    Buffer<std::uint8_t> marks_;  ///< [slots][N] is in the list
    Buffer<SpikeIndex> lists_;    ///< [slots][N + 1] who hears something
    Buffer<Index> heard_;         ///< [slots] how many
    Index cursor_ = 0;
    std::uint32_t now_ = 0;
  };

  explicit LazyNetwork(SparseSynapses<Real> synapses) : synapses_(std::move(synapses)) {
    if (!detail::joins(synapses_, N)) synapses_ = SparseSynapses<Real>::of({}, N, N).value();
    for (int k = 0; k < 256; ++k) {
      low_[k] = static_cast<Real>(std::pow(config.decay, k));
      high_[k] = static_cast<Real>(std::pow(config.decay, 256.0 * k));
    }
  }

  const SparseSynapses<Real>& synapses() const { return synapses_; }
  State rest() const { return State(std::max<Index>(synapses_.longest_delay(), 1)); }

  /// What neuron i hears in the next step besides.
  static void hear(State& state, Index i, Real x) noexcept {
    state.ring_.at(0)[i] += x;
    state.mark(state.slot(0), i);
  }

  /// Who fired, ascending, until the next step of this state.
  std::span<const SpikeIndex> step(State& state) const noexcept {
    const FlushDenormals guard;
    const Index slot = state.slot(0), next = state.slot(1);
    const Real gain =
        static_cast<Real>(C.decay_input ? config.gain * (1 - config.decay) : config.gain);
    const Real theta = static_cast<Real>(config.threshold - config.rest),
               by = static_cast<Real>(config.reset_by == 0 ? config.threshold : config.reset_by),
               to = static_cast<Real>(config.reset_to - config.rest),
               decay = static_cast<Real>(config.decay);
    const auto above = [theta](Real h) {
      return C.test == SpikeTest::ge ? h - theta >= Real(0) : h - theta > Real(0);
    };
    Real* const x = state.ring_.at(0);
    const SpikeIndex* const heard = state.lists_.data() + slot * (N + 1);
    ++state.now_;
    Index count = 0;
    for (Index k = 0; k < state.heard_[slot]; ++k) {
      const Index j = heard[k];
      Real h = std::fma(gain, x[j], decayed(state.v_[j], state.now_ - state.last_[j]));
      x[j] = 0;
      state.marks_[slot * N + j] = 0;
      if (above(h)) {
        state.ids_[count++] = static_cast<SpikeIndex>(j);
        if constexpr (C.reset == Reset::subtract) h -= by;
        if constexpr (C.reset == Reset::to_value) h = to;
        if (above(decay * h)) state.mark(next, j);
      }
      state.v_[j] = h;
      state.last_[j] = state.now_;
    }
    state.heard_[slot] = 0;
    state.cursor_ = next;
    state.ring_.turn();
    std::sort(state.ids_.data(), state.ids_.data() + count);
    const std::span<const SpikeIndex> fired(state.ids_.data(), static_cast<std::size_t>(count));
    for (const SpikeIndex i : fired) {
      synapses_.for_each(i, [&](SpikeIndex j, Real w, Index delay) {
        state.ring_.at(delay - 1)[j] += w;
        state.mark(state.slot(delay - 1), j);
      });
    }
    return fired;
  }

 private:
  Real decayed(Real v, std::uint32_t steps) const noexcept {
    if (steps >= 65536) return v * static_cast<Real>(std::pow(config.decay, steps));
    return v * (high_[steps >> 8] * low_[steps & 255]);
  }

  SparseSynapses<Real> synapses_;
  Real low_[256], high_[256];  ///< a^k = high[k / 256] low[k mod 256]
};

}  // namespace limen::inline LIMEN_ABI
