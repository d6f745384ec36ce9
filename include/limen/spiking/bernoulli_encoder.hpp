#pragma once
/// @file  Rate coding: how strong a number is says how often it fires.
///
///   p = clip(gain x + offset, 0, 1),   s_t = [u_t < p]     x, s [T x D], u uniform in [0, 1)
///   dx = gain ds where p was not clipped (straight through)
///
/// With gain = dt f_max this is the Poisson encoder of Norse; with gain 1 those of snnTorch
/// (`rate`) and SpikingJelly (`PoissonEncoder`). u is a function of (seed, stream, t, channel): the
/// same spikes on every machine, for any number of threads, however a sequence is cut. The state
/// says which step comes next, and which stream of numbers is drawn; give sequences that run side
/// by side streams of their own. In training, a context with a generator gives fresh ones.
///
/// x that is not a number comes out as NaN.

#include <cmath>
#include <cstdint>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/bernoulli.hpp>

namespace limen::inline LIMEN_ABI {

struct BernoulliEncoderConfig {
  Index d_model = 0;       ///< D
  double gain = 1;         ///< of x; dt f_max where x is a share of the highest rate
  double offset = 0;       ///< added to it
  std::uint64_t seed = 1;  ///< another seed, other spikes
  bool draw = true;        ///< false: s = p, what the spikes are on average
};

struct BernoulliEncoderState {
  std::uint64_t t = 0;       ///< steps so far
  std::uint64_t stream = 0;  ///< which numbers are drawn
};

template <BernoulliEncoderConfig C, class S = float>
struct BernoulliEncoder {
  static_assert(C.d_model > 0, "BernoulliEncoder: .d_model must be positive");
  static_assert(C.gain - C.gain == 0 && C.offset - C.offset == 0,
                "BernoulliEncoder: .gain and .offset must be finite");

  static constexpr BernoulliEncoderConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = D;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = BernoulliEncoder<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static BernoulliEncoder initialized(Random&) { return {}; }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = BernoulliEncoderState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> s(x.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      State now = batch.carries() ? batch[b] : State{};
      draw(x, batch.begin(b), batch.end(b, x.rows()), C.seed, now, s);
      if (batch.carries()) batch[b] = now;
    }
    return s;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> s;
    encode(x.data(), C.seed, state.stream, state.t++, s.data());
    return s;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;  ///< [T x D]
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Random* random = batch.context == nullptr ? nullptr : batch.context->random;
    const std::uint64_t fresh = random == nullptr ? 0 : (*random)();
    Sequence<Real, D> s(x.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      State now = batch.carries() ? batch[b] : State{};
      State drawn = now;
      if (random != nullptr) drawn.stream = static_cast<std::uint64_t>(b);
      draw(x, batch.begin(b), batch.end(b, x.rows()), random == nullptr ? C.seed : fresh, drawn, s);
      now.t = drawn.t;
      if (batch.carries()) batch[b] = now;
    }
    cache.x = std::move(x);
    return s;
  }

  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             BernoulliEncoder&) const {
    if (!batch.fits(ds.rows()) || !fits_cache(ds.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(ds.rows());
    for (Index t = 0; t < ds.rows(); ++t) {
      for (Index c = 0; c < D; ++c) {
        const Real p = affine(cache.x(t, c));
        dx(t, c) =
            p >= Real(0) && p <= Real(1) ? static_cast<Real>(config.gain) * ds(t, c) : Real(0);
      }
    }
    return dx;
  }

 private:
  /// One rounding, on every machine: what a compiler makes of a * b + c differs.
  static Real affine(Real x) {
    if constexpr (config.gain == 1 && config.offset == 0) {
      return x;
    } else {
      return std::fma(static_cast<Real>(config.gain), x, static_cast<Real>(config.offset));
    }
  }

  static void encode(const Real* x, std::uint64_t seed, std::uint64_t stream, std::uint64_t t,
                     Real* s) noexcept {
    for (Index c = 0; c < D; ++c) {
      const Real p = affine(x[c]);
      s[c] = p < Real(0) ? Real(0) : p > Real(1) ? Real(1) : p;  // NaN stays
    }
    if constexpr (C.draw) bernoulli_row(s, D, seed, stream, t, s);
  }

  static void draw(SequenceView<Real, D> x, Index first, Index end, std::uint64_t seed, State& now,
                   Sequence<Real, D>& s) {
    const State from = now;
    parallel_for(end - first, static_cast<double>((end - first) * D), [&](Index i) {
      encode(x.row(first + i).data(), seed, from.stream, from.t + static_cast<std::uint64_t>(i),
             s.row_data(first + i));
    });
    now.t += static_cast<std::uint64_t>(end - first);
  }
};

}  // namespace limen::inline LIMEN_ABI
