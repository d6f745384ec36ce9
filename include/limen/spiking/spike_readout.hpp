#pragma once
/// @file  What a train of spikes, or a membrane, has said so far.
///
///   count        y_t = Σ_{s<=t} x_s                 dx_t = Σ_{s>=t} dy_s
///   mean         y_t = count_t / (t + 1)            dx_t = Σ_{s>=t} dy_s / (s + 1)
///   weighted     y_t = k y_{t-1} + x_t              dx_t = dy_t + k dx_{t+1}
///   max          y_t = max_{s<=t} x_s               to the first row that has it, alone
///   farthest     y_t = the x_s with the largest |x_s|, of equals that below 0        likewise
///   first_spike  y_t = row of the first x != 0, t + 1 as long as there is none
///
///   x, y [T x D].  The mean of spikes is their rate; weighted: Σ_s k^(t-s) x_s.
///
/// Each row is a readout of the rows up to it, so a stream can be asked at any time; the answer of
/// a sequence is its last row (spiking/decisions.hpp). The time of a first spike has no slope; what
/// is given back is ds = -dy at the spike (more drive there, earlier spike), which the surrogate of
/// the neuron takes on, and nothing where it was silent.

#include <cstdint>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/random.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

enum class Readout { count, mean, weighted, max, farthest, first_spike };

struct SpikeReadoutConfig {
  Index d_model = 0;  ///< D
  Readout kind = Readout::count;
  double keep = 0.8;  ///< k, of `weighted`
};

template <class Real, Index D>
struct SpikeReadoutState {
  Fixed<Real, D> y;    ///< sum, what is kept, or time of the first spike plus 1 (0: none yet)
  std::int64_t t = 0;  ///< rows so far; not used in gradients
};

template <SpikeReadoutConfig C, class S = float>
struct SpikeReadout {
  static_assert(C.d_model > 0, "SpikeReadout: .d_model must be positive");
  static_assert(C.keep >= 0 && C.keep <= 1, "SpikeReadout: .keep must be from 0 to 1");

  static constexpr SpikeReadoutConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = SpikeReadout<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static SpikeReadout initialized(Random&) { return {}; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = SpikeReadoutState<Real, D>;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return run(x, batch, nullptr, nullptr);
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> y;
    read<false>(x.data(), state, y.data(), nullptr);
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Index rows = 0;
    Sequence<Real, D> took;     ///< [T x D] where one row is the answer: 1 if it is this one
    Buffer<std::int64_t> from;  ///< [B] rows before each sequence, of mean
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.rows = x.rows();
    cache.from = Buffer<std::int64_t>(batch.count());
    if constexpr (takes) cache.took = Sequence<Real, D>(x.rows());
    return run(SequenceView<Real, D>(x), batch, cache.took.data(), cache.from.data());
  }

  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             SpikeReadout&) const {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.rows)) return {};
    if (!fits_cache(batch.count(), cache.from.size(), "sequences of the batch")) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(dy.rows());
    Vector<Real, D> own;
    for (Index b = 0; b < batch.count(); ++b) {
      if (!batch.carries()) own = {};
      Real* const g = batch.carries() ? batch[b].y.data() : own.data();  // of the state
      const Index first = batch.begin(b);
      for (Index t = batch.end(b, dy.rows()); t-- > first;) {
        const Real n = static_cast<Real>(cache.from[b] + (t - first) + 1);
        take_back(dy.row(t).data(), n,
                  cache.took.data() == nullptr ? nullptr : cache.took.data() + t * D, g,
                  dx.row_data(t));
      }
    }
    return dx;
  }

 private:
  using V = simd::Vec<Real>;
  static constexpr bool takes =
      C.kind == Readout::max || C.kind == Readout::farthest || C.kind == Readout::first_spike;

  template <bool Keep>
  static void read(const Real* x, State& state, Real* y, Real* took) noexcept {
    Real* const now = state.y.data();
    const bool first = state.t++ == 0;
    const Real rows = static_cast<Real>(state.t);
    const V zero(Real(0)), one(Real(1));
    simd::for_each<Real>(D, [&](Index c, auto load, auto store) {
      const V v = load(x + c), old = load(now + c);
      V next = old, said = old;
      if constexpr (C.kind == Readout::count || C.kind == Readout::mean) {
        next = old + v;
        said = C.kind == Readout::mean ? next / V(rows) : next;
      } else if constexpr (C.kind == Readout::weighted) {
        said = next = simd::fma(V(static_cast<Real>(config.keep)), old, v);
      } else if constexpr (C.kind == Readout::max) {
        // Not below, instead of above: NaN is taken and stays.
        said = next = first ? v : simd::select(v <= old, old, simd::select(old != old, old, v));
        if constexpr (Keep) {
          store(took + c, first ? one : simd::select(v > old, one, zero));
        }
      } else if constexpr (C.kind == Readout::farthest) {
        const V far = simd::abs(v), so_far = simd::abs(old);
        const V of_equals = simd::select(v < old, one, zero);
        const V farther =
            simd::select(far > so_far, one, simd::select(far == so_far, of_equals, zero));
        const V taken = first ? one : farther;
        said = next = simd::select(taken == one, v, simd::select(v == v, old, v));  // NaN stays
        if constexpr (Keep) store(took + c, taken);
      } else {
        const V fired = simd::select(v == zero, zero, V(rows));
        next = simd::select(old == zero, fired, old);
        said = simd::select(next == zero, V(rows), next - one);
        if constexpr (Keep) {
          store(took + c, simd::select(old == zero, simd::select(v == zero, zero, one), zero));
        }
      }
      store(now + c, next);
      store(y + c, said);
    });
  }

  /// g: gradient of the state behind the row, becomes that of the state before it.
  static void take_back(const Real* dy, Real rows, const Real* took, Real* g, Real* dx) noexcept {
    const V zero(Real(0)), one(Real(1));
    static_cast<void>(took), static_cast<void>(rows);
    simd::for_each<Real>(D, [&](Index c, auto load, auto store) {
      V d = load(dy + c), after = load(g + c);
      if constexpr (C.kind == Readout::mean) d = d / V(rows);
      after = after + d;
      if constexpr (takes) {
        const auto mine = load(took + c) == one;
        store(dx + c, simd::select(mine, C.kind == Readout::first_spike ? -after : after, zero));
        store(g + c, simd::select(mine, zero, after));
      } else {
        store(dx + c, after);
        store(g + c,
              C.kind == Readout::weighted ? V(static_cast<Real>(config.keep)) * after : after);
      }
    });
  }

  static Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Real* took,
                               std::int64_t* from) {
    Sequence<Real, D> y(x.rows());
    State own;
    for (Index b = 0; b < batch.count(); ++b) {
      if (!batch.carries()) own = {};
      State& state = batch.carries() ? batch[b] : own;
      if (from != nullptr) from[b] = state.t;
      for (Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
        if (took != nullptr) {
          read<true>(x.row(t).data(), state, y.row_data(t), took + t * D);
        } else {
          read<false>(x.row(t).data(), state, y.row_data(t), nullptr);
        }
      }
    }
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
