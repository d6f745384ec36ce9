#pragma once
/// @file  Synapses with delays of their own, fixed: what is sent now arrives later, each at its
/// time.
///
///   y_t[j] = b_j + Σ_i w_ij x_{t - d_ij}[i]        x [T x I], w, d [I x O], y [T x O]
///
///   DelayedLinear   one synapse for each pair; w is learned, d is given
///   DelayLines      a list of synapses, several for a pair if need be: what pruning left. To run
///
/// Both are event-driven, a ring of `longest` + 1 rows of outputs: a spike adds w to the rows in
/// which it will arrive, the row of now is read and cleared, the cursor moves on. What has been
/// sent and not arrived is the state. A delay of 0 arrives in its own step.
///
///   dw_ij = Σ_t dy_{t + d_ij}[j] x_t[i],   dx_t[i] = Σ_j w_ij dy_{t + d_ij}[j]
///
/// Grimaldi & Perrinet, Learning heterogeneous delays in a layer of spiking neurons for fast motion
/// detection, Biological Cybernetics 117 (2023), learn a weight for every delay, a causal
/// convolution (nn/causal_conv.hpp), and prune: `synapses_of(conv)`, `strongest`, DelayLines.
/// Delays that are learned: dcls.hpp.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/nn/causal_conv.hpp>

namespace limen::inline LIMEN_ABI {

struct DelayConfig {
  Index d_in = 0;      ///< I
  Index d_out = 0;     ///< O
  Index longest = 15;  ///< the largest delay that there may be, in steps
  bool bias = false;   ///< add b
};

/// What is on its way: row (cursor + k) mod (longest + 1) arrives k steps from now.
template <class Real, Index Longest, Index O>
struct DelayState {
  Fixed<Real, Longest + 1, O> ring;
  std::int64_t cursor = 0;  ///< not used in gradients: their rows are those of the state
};

struct DelayedSynapse {
  Index from = 0, to = 0;
  Index delay = 0;  ///< steps
  double weight = 0;
};

namespace detail {

/// Sends x down `count` synapses; places[k] is delay · O + target, `now` the place of the cursor.
template <class Real>
LIMEN_INLINE void send(Real x, const std::int32_t* places, const Real* w, Index count, Index now,
                       Index size, Real* ring) noexcept {
  for (Index k = 0; k < count; ++k) {
    Index at = now + places[k];
    at = at >= size ? at - size : at;
    ring[at] += w[k] * x;
  }
}

/// What arrives now, and the row is free again.
template <class Real>
LIMEN_INLINE void arrive(Real* ring, Index longest, Index O, const Real* bias, std::int64_t& cursor,
                         Real* y) noexcept {
  Real* const row = ring + static_cast<Index>(cursor) * O;
  for (Index j = 0; j < O; ++j) {
    y[j] = bias == nullptr ? row[j] : row[j] + bias[j];
    row[j] = 0;
  }
  cursor = cursor == longest ? 0 : cursor + 1;
}

/// Runs one(x_t, ring, cursor, y_t) over the rows of a batch.
template <Index Longest, class Real, Index I, Index O, class State, class F>
Sequence<Real, O> run_delays(SequenceView<Real, I> x, const Batch<State>& batch, F one) {
  Sequence<Real, O> y(x.rows());
  Buffer<Real> own(batch.carries() ? 0 : (Longest + 1) * O);
  for (Index b = 0; b < batch.count(); ++b) {
    for (Real& v : own) v = 0;
    std::int64_t start = 0;
    Real* const ring = batch.carries() ? batch[b].ring.data() : own.data();
    std::int64_t& cursor = batch.carries() ? batch[b].cursor : start;
    for (Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
      one(x.row(t).data(), ring, cursor, y.row_data(t));
    }
  }
  return y;
}

}  // namespace detail

// ── One synapse for each pair ────────────────────────────────────────────────────────────────────

template <DelayConfig C, class S = float>
struct DelayedLinear {
  static_assert(C.d_in > 0, "DelayedLinear: .d_in must be positive");
  static_assert(C.d_out > 0, "DelayedLinear: .d_out must be positive");
  static_assert(C.longest >= 0 && C.longest <= 65535, "DelayedLinear: .longest must be 0 to 65535");

  static constexpr DelayConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out, L = C.longest, ring_size = (L + 1) * out;
  static_assert(ring_size < (Index{1} << 31), "DelayedLinear: the ring is too large");
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = DelayedLinear<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, in, out> weight;              ///< w, what one input reaches side by side
  Statistic<Real, in, out> delay;            ///< d, whole numbers from 0 to .longest; not learned
  Optional<C.bias, Tensor<Real, out>> bias;  ///< b

  template <class F, class... Ls>
  static constexpr void visit(F&& f, Ls&... l) {
    f("weight", l.weight...);
    f("delay", l.delay...);
    f("bias", l.bias...);
  }

  /// Delays are drawn, each equally likely.
  static DelayedLinear initialized(Random& random) {
    DelayedLinear layer;
    fill_uniform(layer.weight, 1 / std::sqrt(double{in}), random);
    for (Real& d : layer.delay.flat()) d = static_cast<Real>(random.below(std::uint64_t{L + 1}));
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{in}), random);
    return layer;
  }

  static constexpr bool work_depends_on_data = true;

  /// Empty if all delays are whole numbers that the ring holds.
  Status check() const {
    for (Index k = 0; k < delay.size; ++k) {
      const double d = static_cast<double>(delay[k]);
      if (d >= 0 && d <= static_cast<double>(L) && d == std::floor(d)) continue;
      return Error{"delay from " + std::to_string(k / out) + " to " + std::to_string(k % out),
                   "a whole number from 0 to " + std::to_string(L), std::to_string(d)};
    }
    return {};
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = DelayState<Real, L, out>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows()) || !sound()) return {};
    const FlushDenormals guard;
    return run(x, batch);
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    const Index now = static_cast<Index>(state.cursor) * out;
    for (Index i = 0; i < in; ++i) {
      if (x[i] == Real(0)) continue;
      for (Index j = 0; j < out; ++j) {
        const std::int32_t place = place_of(i * out + j);
        detail::send(x[i], &place, weight.data() + i * out + j, 1, now, ring_size,
                     state.ring.data());
      }
    }
    detail::arrive(state.ring.data(), L, out, data_or_null(bias), state.cursor, y.data());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;         ///< [T x I]
    Buffer<std::int64_t> cursor;  ///< [B] of the first states
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows()) || !sound()) return {};
    const FlushDenormals guard;
    cache.cursor = Buffer<std::int64_t>(batch.count());
    for (Index b = 0; b < batch.count(); ++b) {
      cache.cursor[b] = batch.carries() ? batch[b].cursor : 0;
    }
    auto y = run(SequenceView<Real, in>(x), batch);
    cache.x = std::move(x);
    return y;
  }

  /// Time lies innermost: a synapse is then a product of two pieces of rows, shifted by its delay.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              DelayedLinear& gradient) const {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    if (!fits_cache(batch.count(), cache.cursor.size(), "sequences of the batch")) return {};
    const FlushDenormals guard;
    Sequence<Real, in> dx(dy.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), T = batch.end(b, dy.rows()) - first;
      if (T == 0) continue;
      Real* const d_ring = batch.carries() ? batch[b].ring.data() : nullptr;
      const Index cursor = static_cast<Index>(cache.cursor[b]);
      const auto row = [&](Index k) { return (cursor + k) % (L + 1) * out; };
      const Index wide = T + L;
      Buffer<Real> g(out * wide);  // dy, and behind it what the last state says
      for (Index t = 0; t < wide; ++t) {
        for (Index j = 0; j < out; ++j) {
          g[j * wide + t] = t < T               ? dy(first + t, j)
                            : d_ring == nullptr ? Real(0)
                                                : d_ring[row(t) + j];
        }
      }
      for (Index k = 0; d_ring != nullptr && k <= L; ++k) {
        for (Index j = 0; j < out; ++j) d_ring[row(k) + j] = g[j * wide + k];
      }
      parallel_for(in, static_cast<double>(in * out * T) / 8, [&](Index i) {
        Buffer<Real> x(T), d(T);
        for (Index t = 0; t < T; ++t) {
          x[t] = cache.x(first + t, i);
          d[t] = 0;
        }
        for (Index j = 0; j < out; ++j) {
          const Real* from = g.data() + j * wide + place_of(i * out + j) / out;
          gradient.weight[i * out + j] += reduce_row<Real>(
              T, [&](Index t, auto load) { return load(x.data() + t) * load(from + t); });
          const simd::Vec<Real> w(weight[i * out + j]);
          simd::for_each<Real>(T, [&](Index t, auto load, auto store) {
            store(d.data() + t, simd::fma(w, load(from + t), load(d.data() + t)));
          });
        }
        for (Index t = 0; t < T; ++t) dx(first + t, i) = d[t];
      });
    }
    if constexpr (C.bias) add_column_sums(dy.matrix(), gradient.bias.data());
    return dx;
  }

 private:
  bool sound() const {
    const Status s = check();
    if (!s) fail(s.error());
    return static_cast<bool>(s);
  }

  /// Where synapse k arrives, d · O + j; within the ring whatever the delay says.
  std::int32_t place_of(Index k) const noexcept {
    const Real d = delay[k] > Real(0) ? delay[k] : Real(0);
    const Index whole = d < static_cast<Real>(L) ? static_cast<Index>(d) : L;
    return static_cast<std::int32_t>(whole * out + k % out);
  }

  Sequence<Real, out> run(SequenceView<Real, in> x, const Batch<State>& batch) const {
    Buffer<std::int32_t> places(in * out);
    for (Index k = 0; k < in * out; ++k) places[k] = place_of(k);
    return detail::run_delays<L, Real, in, out>(
        x, batch, [&](const Real* x_t, Real* ring, std::int64_t& cursor, Real* y) {
          const Index now = static_cast<Index>(cursor) * out;
          for (Index i = 0; i < in; ++i) {
            if (x_t[i] == Real(0)) continue;
            detail::send(x_t[i], places.data() + i * out, weight.data() + i * out, out, now,
                         ring_size, ring);
          }
          detail::arrive(ring, L, out, data_or_null(bias), cursor, y);
        });
  }
};

// ── A list of them ───────────────────────────────────────────────────────────────────────────────

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
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
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
  std::stable_sort(order.begin(), order.end(),
                   [&](Index a, Index b) { return strength(a) > strength(b); });
  order.resize(static_cast<std::size_t>(std::max<Index>(count, 0)));
  std::sort(order.begin(), order.end());
  std::vector<DelayedSynapse> kept;
  for (const Index k : order) kept.push_back(synapses[static_cast<std::size_t>(k)]);
  return kept;
}

}  // namespace limen::inline LIMEN_ABI
