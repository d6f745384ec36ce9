#pragma once
/// @file  Synapses of a sparse network: for each neuron the targets it reaches, with weight and
/// delay.
///
///   x_j(t) = Σ over synapses (i, j, w, d) of w s_i(t - d)
///
/// Lists by the neuron before the synapse (compressed rows): a spike costs its fan-out. 8 bytes a
/// synapse for floats, 2 more where delays differ. What is on its way waits in a ring of
/// longest delay + 1 rows [N] (a ring buffer, as in Grimaldi & Perrinet, 2023, and every simulator
/// with delays).

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <limen/core/error.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/spikes.hpp>

namespace limen::inline LIMEN_ABI {

struct Synapse {
  Index from = 0, to = 0;
  double weight = 0;
  Index delay = 1;  ///< steps
};

namespace detail {
template <class T>
Buffer<T> copy_of(const Buffer<T>& from) {
  Buffer<T> to(from.size());
  for (Index i = 0; i < to.size(); ++i) to[i] = from[i];
  return to;
}
}  // namespace detail

/// What has been sent and has not arrived.
template <class Real>
class DelayRing {
 public:
  DelayRing() = default;
  DelayRing(Index neurons, Index longest_delay)
      : rows_(neurons * (longest_delay + 1)), neurons_(neurons), slots_(longest_delay + 1) {
    for (Real& x : rows_) x = 0;
  }
  DelayRing(const DelayRing& other)
      : rows_(detail::copy_of(other.rows_)),
        neurons_(other.neurons_),
        slots_(other.slots_),
        cursor_(other.cursor_) {}
  DelayRing(DelayRing&&) noexcept = default;
  DelayRing& operator=(DelayRing other) noexcept {
    std::swap(rows_, other.rows_);
    std::swap(neurons_, other.neurons_);
    std::swap(slots_, other.slots_);
    std::swap(cursor_, other.cursor_);
    return *this;
  }
  ~DelayRing() = default;

  Index neurons() const { return neurons_; }
  Index longest_delay() const { return slots_ - 1; }
  std::size_t bytes() const { return static_cast<std::size_t>(rows_.size()) * sizeof(Real); }

  /// What arrives `delay` steps from now [N]; with 0, what arrives now.
  Real* at(Index delay) {
    const Index slot = cursor_ + delay;
    return rows_.data() + (slot < slots_ ? slot : slot - slots_) * neurons_;
  }
  /// What arrived has been read; the next step begins.
  void advance() noexcept {
    Real* const row = at(0);
    for (Index i = 0; i < neurons_; ++i) row[i] = 0;
    turn();
  }
  /// The same where the reader has left zeros.
  void turn() noexcept { cursor_ = cursor_ + 1 < slots_ ? cursor_ + 1 : 0; }

 private:
  Buffer<Real> rows_;
  Index neurons_ = 0, slots_ = 1, cursor_ = 0;
};

template <class Real>
class SparseSynapses {
 public:
  static constexpr Index most_delay = 65535;

  SparseSynapses() = default;
  SparseSynapses(const SparseSynapses& other)
      : begin_(detail::copy_of(other.begin_)),
        target_(detail::copy_of(other.target_)),
        weight_(detail::copy_of(other.weight_)),
        delay_(detail::copy_of(other.delay_)),
        from_(other.from_),
        to_(other.to_),
        longest_(other.longest_) {}
  SparseSynapses(SparseSynapses&&) noexcept = default;
  SparseSynapses& operator=(SparseSynapses other) noexcept {
    std::swap(begin_, other.begin_);
    std::swap(target_, other.target_);
    std::swap(weight_, other.weight_);
    std::swap(delay_, other.delay_);
    from_ = other.from_;
    to_ = other.to_;
    longest_ = other.longest_;
    return *this;
  }
  ~SparseSynapses() = default;

  /// In any order; two between the same neurons are two synapses.
  static Result<SparseSynapses> of(std::span<const Synapse> synapses, Index from, Index to) {
    Index longest = 0;
    bool differ = false;
    for (std::size_t k = 0; k < synapses.size(); ++k) {
      const Synapse& s = synapses[k];
      const std::string who = "synapse " + std::to_string(k);
      if (s.from < 0 || s.from >= from) return out_of_range(who + " from", from, s.from);
      if (s.to < 0 || s.to >= to) return out_of_range(who + " to", to, s.to);
      if (s.delay < 0 || s.delay > most_delay) {
        return out_of_range(who + " delay", most_delay + 1, s.delay);
      }
      if (!std::isfinite(s.weight)) {
        return Error{who + " weight", "a finite number", std::to_string(s.weight)};
      }
      longest = s.delay > longest ? s.delay : longest;
      differ = differ || s.delay != synapses[0].delay;
    }
    SparseSynapses all(from, to, static_cast<Index>(synapses.size()), longest, differ);
    // Counted by delay, then by neuron, both in order: within a neuron delays ascend.
    Buffer<Index> by_delay(all.count()), start(longest + 2);
    for (Index& n : start) n = 0;
    for (const Synapse& s : synapses) ++start[s.delay + 1];
    for (Index d = 0; d <= longest; ++d) start[d + 1] += start[d];
    for (std::size_t k = 0; k < synapses.size(); ++k) {
      by_delay[start[synapses[k].delay]++] = static_cast<Index>(k);
    }
    for (const Synapse& s : synapses) ++all.begin_[s.from + 1];
    all.sum_up();
    for (const Index k : by_delay) {
      const Synapse& s = synapses[static_cast<std::size_t>(k)];
      all.put(s.from, s.to, s.weight, s.delay);
    }
    all.step_back();
    return all;
  }

  /// Each pair of neurons with this probability, weight(from) each, none to itself where `from` is
  /// `to`. One delay for all. Made in place: what it takes is what it keeps.
  template <class Weight>
  static SparseSynapses random(Index from, Index to, double probability, Index delay,
                               Weight&& weight, Random& random) {
    if (!(probability > 0 && probability <= 1)) {
      fail({"SparseSynapses: probability", "above 0, at most 1", std::to_string(probability)});
      return {};
    }
    if (delay < 0 || delay > most_delay) {
      fail({"SparseSynapses: delay", "from 0 to " + std::to_string(most_delay),
            std::to_string(delay)});
      return {};
    }
    const Random same = random;  // drawn twice: to count, and to fill
    Index count = 0;
    for_each_pair(from, to, probability, random, [&](Index, Index) { ++count; });
    SparseSynapses all(from, to, count, delay, false);
    random = same;
    Index k = 0, row = 0;
    for_each_pair(from, to, probability, random, [&](Index i, Index j) {
      while (row < i) all.begin_[++row] = k;
      all.target_[k] = static_cast<SpikeIndex>(j);
      all.weight_[k++] = static_cast<Real>(weight(i));
    });
    while (row < from) all.begin_[++row] = k;
    return all;
  }

  Index from() const { return from_; }
  Index to() const { return to_; }
  Index count() const { return target_.size(); }
  Index longest_delay() const { return longest_; }
  /// Of neuron i.
  Index fan_out(Index i) const { return begin_[i + 1] - begin_[i]; }
  Index shortest_delay() const {
    if (delay_.size() == 0) return longest_;
    Index least = longest_;
    for (const std::uint16_t d : delay_) least = d < least ? d : least;
    return least;
  }
  std::size_t bytes() const {
    return static_cast<std::size_t>(target_.size()) * (sizeof(SpikeIndex) + sizeof(Real)) +
           static_cast<std::size_t>(delay_.size()) * sizeof(std::uint16_t) +
           static_cast<std::size_t>(begin_.size()) * sizeof(Index);
  }

  /// f(to, weight, delay) for each synapse of neuron i.
  template <class F>
  LIMEN_INLINE void for_each(Index i, F&& f) const {
    for (Index k = begin_[i]; k < begin_[i + 1]; ++k) {
      f(target_[k], weight_[k], delay_.size() > 0 ? Index{delay_[k]} : longest_);
    }
  }

  /// Puts what those who fired send into the ring, `passed` steps after they did. Returns how many
  /// synapses that were.
  Index deliver(std::span<const SpikeIndex> fired, DelayRing<Real>& ring,
                Index passed = 0) const noexcept {
    Index sent = 0;
    for (std::size_t n = 0; n < fired.size(); ++n) {
      const Index first = begin_[fired[n]], last = begin_[fired[n] + 1];
      if (n + 1 < fired.size()) ask_for(begin_[fired[n + 1]]);
      sent += last - first;
      for (Index k = first, end; k < last; k = end) {
        const Index delay = delay_.size() > 0 ? Index{delay_[k]} : longest_;
        end = delay_.size() > 0 ? k + 1 : last;
        while (end < last && delay_[end] == delay_[k]) ++end;
        Real* const row = ring.at(delay - passed);
        const SpikeIndex* const target = target_.data();
        const Real* const weight = weight_.data();
        for (Index s = k; s < end; ++s) row[target[s]] += weight[s];
      }
    }
    return sent;
  }

 private:
  SparseSynapses(Index from, Index to, Index count, Index longest, bool differ)
      : begin_(from + 1),
        target_(count),
        weight_(count),
        delay_(differ ? count : 0),
        from_(from),
        to_(to),
        longest_(longest) {
    for (Index& n : begin_) n = 0;
  }

  static Error out_of_range(std::string who, Index end, Index found) {
    return {std::move(who), "from 0 to " + std::to_string(end - 1), std::to_string(found)};
  }

  void sum_up() {
    for (Index i = 0; i < from_; ++i) begin_[i + 1] += begin_[i];
  }
  /// The next place of neuron i; begin_[i] walks to where it ends.
  void put(Index i, Index j, double weight, Index delay) {
    const Index at = begin_[i]++;
    target_[at] = static_cast<SpikeIndex>(j);
    weight_[at] = static_cast<Real>(weight);
    if (delay_.size() > 0) delay_[at] = static_cast<std::uint16_t>(delay);
  }
  void step_back() {
    for (Index i = from_; i > 0; --i) begin_[i] = begin_[i - 1];
    if (from_ > 0) begin_[0] = 0;
  }

  LIMEN_INLINE void ask_for(Index k) const noexcept {
    simd::prefetch(target_.data() + k);
    simd::prefetch(weight_.data() + k);
  }

  /// f(i, j) for each pair that is drawn, in order: the gaps between them are geometric.
  template <class F>
  static void for_each_pair(Index from, Index to, double p, Random& random, F&& f) {
    const double scale = p < 1 ? 1 / std::log1p(-p) : 0;
    for (Index i = 0; i < from; ++i) {
      for (double j = -1;;) {
        const double gap = p < 1 ? std::floor(std::log1p(-random.uniform()) * scale) : 0;
        j += 1 + gap;
        if (!(j < static_cast<double>(to))) break;
        if (from != to || static_cast<Index>(j) != i) f(i, static_cast<Index>(j));
      }
    }
  }

  Buffer<Index> begin_;          ///< [from + 1]
  Buffer<SpikeIndex> target_;    ///< [count]
  Buffer<Real> weight_;          ///< [count]
  Buffer<std::uint16_t> delay_;  ///< [count], none where all are `longest_`
  Index from_ = 0, to_ = 0, longest_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
