#pragma once
/// @file  Synapses with delays of their own, fixed: what is sent now arrives later, each at its
/// time.
///
///   y_t[j] = b_j + Σ_i w_ij x_{t - d_ij}[i]        x [T x I], w, d [I x O], y [T x O]
///
/// One synapse for each pair; w is learned, d is given. Event-driven, a ring of `longest` + 1 rows
/// of outputs: a spike adds w to the rows in which it will arrive, the row of now is read and
/// cleared, the cursor moves on. What has been sent and not arrived is the state. A delay of 0
/// arrives in its own step.
///
///   dw_ij = Σ_t dy_{t + d_ij}[j] x_t[i],   dx_t[i] = Σ_j w_ij dy_{t + d_ij}[j]
///
/// Lists of synapses, from pruning or rounding: delay_lines.hpp. Delays that are learned: dcls.hpp.
/// The ring is that of Grimaldi & Perrinet, Learning heterogeneous delays in a layer of spiking
/// neurons for fast motion detection, Biological Cybernetics 117 (2023).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/reduce.hpp>

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

}  // namespace limen::inline LIMEN_ABI
