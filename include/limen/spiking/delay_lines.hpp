#pragma once
/// @file  A list of synapses with delays, several for a pair if need be: what pruning or rounding
/// left of a layer that has learned. To run, not to train.
///
///   y_t[j] = b_j + Σ over synapses (i, j, d, w) of w x_{t - d}[i]        x [T x I], y [T x O]
///
/// Event-driven, on the ring of delays.hpp; a spike costs its fan-out. Grimaldi & Perrinet,
/// Learning heterogeneous delays in a layer of spiking neurons for fast motion detection,
/// Biological Cybernetics 117 (2023), learn a weight for every delay, which is a causal convolution
/// (nn/causal_conv.hpp), and prune:
///
///     DelayLines<ring>::from(strongest(synapses_of(conv), 1000), conv.bias.flat())

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <limen/core/sort.hpp>
#include <limen/nn/causal_conv.hpp>
#include <limen/spiking/delays.hpp>

namespace limen::inline LIMEN_ABI {

struct DelayedSynapse {
  Index from = 0, to = 0;
  Index delay = 0;  ///< steps
  double weight = 0;
};

/// The synapses of each input side by side, by delay. Weights are not learned here.
template <DelayConfig C, class S = float>
class DelayLines {
 public:
  static constexpr DelayConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out, L = C.longest, ring_size = (L + 1) * out;
  static_assert(in > 0 && out > 0, "DelayLines: .d_in and .d_out must be positive");
  static_assert(L >= 0 && L <= 65535, "DelayLines: .longest must be 0 to 65535");
  static_assert(ring_size < (Index{1} << 31), "DelayLines: the ring is too large");
  using Scalar = S;
  using Real = S;
  using State = DelayState<Real, L, out>;
  static constexpr bool work_depends_on_data = true;

  /// `bias` [O], or none.
  static Result<DelayLines> from(std::span<const DelayedSynapse> synapses,
                                 std::span<const Real> bias = {}) {
    if (!bias.empty() && bias.size() != std::size_t{out}) {
      return Error{"DelayLines: bias", std::to_string(out), std::to_string(bias.size())};
    }
    std::vector<DelayedSynapse> sorted(synapses.begin(), synapses.end());
    for (std::size_t k = 0; k < sorted.size(); ++k) {
      const DelayedSynapse& s = sorted[k];
      const auto wrong = [&](const char* what, Index last, Index found) {
        return Error{"synapse " + std::to_string(k) + ": " + what, "0 to " + std::to_string(last),
                     std::to_string(found)};
      };
      if (s.from < 0 || s.from >= in) return wrong("from", in - 1, s.from);
      if (s.to < 0 || s.to >= out) return wrong("to", out - 1, s.to);
      if (s.delay < 0 || s.delay > L) return wrong("delay", L, s.delay);
      if (s.weight - s.weight != 0) {
        return Error{"synapse " + std::to_string(k) + ": weight", "a number",
                     std::to_string(s.weight)};
      }
    }
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
      return a.from != b.from     ? a.from < b.from
             : a.delay != b.delay ? a.delay < b.delay
                                  : a.to < b.to;
    });
    DelayLines lines;
    lines.bias_.assign(bias.begin(), bias.end());
    for (const DelayedSynapse& s : sorted) {
      ++lines.begin_[static_cast<std::size_t>(s.from) + 1];
      lines.place_.push_back(static_cast<std::int32_t>(s.delay * out + s.to));
      lines.weight_.push_back(static_cast<Real>(s.weight));
    }
    for (std::size_t i = 0; i < std::size_t{in}; ++i) lines.begin_[i + 1] += lines.begin_[i];
    return lines;
  }

  Index synapses() const { return static_cast<Index>(weight_.size()); }

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return detail::run_delays<L, Real, in, out>(
        x, batch, [&](const Real* x_t, Real* ring, std::int64_t& cursor, Real* y) {
          one(x_t, ring, cursor, y);
        });
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    one(x.data(), state.ring.data(), state.cursor, y.data());
    return y;
  }

 private:
  void one(const Real* x, Real* ring, std::int64_t& cursor, Real* y) const noexcept {
    const Index now = static_cast<Index>(cursor) * out;
    for (Index i = 0; i < in; ++i) {
      if (x[i] == Real(0)) continue;
      const Index first = begin_[static_cast<std::size_t>(i)];
      detail::send(x[i], place_.data() + first, weight_.data() + first,
                   begin_[static_cast<std::size_t>(i) + 1] - first, now, ring_size, ring);
    }
    detail::arrive(ring, L, out, bias_.empty() ? nullptr : bias_.data(), cursor, y);
  }

  std::vector<Index> begin_ = std::vector<Index>(std::size_t{in} + 1, 0);
  std::vector<std::int32_t> place_;  ///< delay · O + target
  std::vector<Real> weight_, bias_;
};

// ── From one form to the other ───────────────────────────────────────────────────────────────────

template <DelayConfig C, class Real>
std::vector<DelayedSynapse> synapses_of(const DelayedLinear<C, Real>& layer) {
  std::vector<DelayedSynapse> synapses;
  for (Index k = 0; k < layer.weight.size; ++k) {
    synapses.push_back({k / C.d_out, k % C.d_out, static_cast<Index>(layer.delay[k]),
                        static_cast<double>(layer.weight[k])});
  }
  return synapses;
}

/// A tap of a causal convolution is a delay: the last one of 0, the one before it of 1.
template <CausalConv1dConfig C, class Real>
std::vector<DelayedSynapse> synapses_of(const CausalConv1d<C, Real>& conv) {
  std::vector<DelayedSynapse> synapses;
  for (Index k = 0; k < conv.weight.size; ++k) {
    const Index tap = k % C.width, i = k / C.width % C.d_in, o = k / (C.width * C.d_in);
    synapses.push_back(
        {i, o, (C.width - 1 - tap) * C.dilation, static_cast<double>(conv.weight[k])});
  }
  return synapses;
}

/// The `count` with the largest weights, in the order in which they came; of equals, the first.
inline std::vector<DelayedSynapse> strongest(std::vector<DelayedSynapse> synapses, Index count) {
  const auto size = static_cast<Index>(synapses.size());
  if (count >= size) return synapses;
  std::vector<Index> order;
  for (Index k = 0; k < size; ++k) order.push_back(k);
  const auto strength = [&](Index k) {
    return std::abs(synapses[static_cast<std::size_t>(k)].weight);
  };
  sort_by_highest(order, strength);
  order.resize(static_cast<std::size_t>(std::max<Index>(count, 0)));
  std::sort(order.begin(), order.end());
  std::vector<DelayedSynapse> kept;
  for (const Index k : order) kept.push_back(synapses[static_cast<std::size_t>(k)]);
  return kept;
}

}  // namespace limen::inline LIMEN_ABI
