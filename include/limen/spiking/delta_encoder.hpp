#pragma once
/// @file  Change coding: an event where a number has moved, as the pixels of an event camera do.
///
///   reference    n = ⌊|x - r| / θ⌋ events of the sign of x - r;  r += sign n θ
///   successive   one event where |x_t - x_{t-1}| >= θ            (snnTorch `delta`)
///
///   x [T x D] -> events [T x D], signed, or [T x 2D]: first those up, then those down, both >= 0
///
/// `reference` keeps what was not enough for an event, so a slow drift is not lost; `successive`
/// forgets it. With .most_one the rest waits for the next step. The frames of a camera become
/// events with .most_one, .from_first and, as in Grimaldi & Perrinet, Learning heterogeneous delays
/// in a layer of spiking neurons, 2023, .test = SpikeTest::gt. There is no way back.
///
/// x that is not a finite number comes out as NaN, and r stays what it was.

#include <cmath>
#include <limits>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/fire.hpp>

namespace limen::inline LIMEN_ABI {

enum class DeltaRule {
  reference,  ///< against a level that moves with each event
  successive  ///< against the number before
};

struct DeltaEncoderConfig {
  Index d_model = 0;       ///< D
  double threshold = 0.1;  ///< θ
  DeltaRule rule = DeltaRule::reference;
  SpikeTest test = SpikeTest::ge;  ///< is a change of exactly θ an event?
  bool most_one = false;           ///< at most one event in a step, the rest waits
  bool from_first = false;         ///< r starts at the first number, else at 0
  bool down = true;                ///< are there events down?
  bool split = false;              ///< up and down apart
};

template <class Real, Index D>
struct DeltaEncoderState {
  Fixed<Real, D> level;  ///< r
  Real started = 0;      ///< 1 after the first number
};

template <DeltaEncoderConfig C, class S = float>
struct DeltaEncoder {
  static_assert(C.d_model > 0, "DeltaEncoder: .d_model must be positive");
  static_assert(C.threshold > 0 && C.threshold - C.threshold == 0,
                "DeltaEncoder: .threshold must be positive");
  static_assert(C.down || !C.split, "DeltaEncoder: .split needs events .down");

  static constexpr DeltaEncoderConfig config = C;
  static constexpr Index D = C.d_model, in = D, out = C.split ? 2 * D : D;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = DeltaEncoder<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static DeltaEncoder initialized(Random&) { return {}; }

  using State = DeltaEncoderState<Real, D>;

  Sequence<Real, out> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, out> events(x.rows());
    State own;
    for (Index b = 0; b < batch.count(); ++b) {
      if (!batch.carries()) own = {};
      State& state = batch.carries() ? batch[b] : own;
      for (Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
        encode(x.row(t).data(), state, events.row_data(t));
      }
    }
    return events;
  }

  Vector<Real, out> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> events;
    encode(x.data(), state, events.data());
    return events;
  }

 private:
  static void encode(const Real* x, State& state, Real* events) noexcept {
    constexpr Real theta = static_cast<Real>(config.threshold);
    const bool first = C.from_first && state.started == Real(0);
    Real* const level = state.level.data();
    for (Index c = 0; c < D; ++c) {
      const bool sound = x[c] - x[c] == Real(0);
      if (first && sound) level[c] = x[c];
      const Real change = x[c] - level[c];
      Real n = 0;
      if constexpr (C.rule == DeltaRule::successive || C.most_one) {
        n = fires<C.test>(change - theta) ? Real(1) : fires<C.test>(-change - theta) ? Real(-1) : 0;
      } else {
        n = std::trunc(change / theta);
        // A quotient that was rounded up to the next number is one event too many.
        if (n != Real(0) && !fires<C.test>(std::abs(change) - std::abs(n) * theta)) {
          n -= n > Real(0) ? Real(1) : Real(-1);
        }
      }
      if constexpr (C.rule == DeltaRule::successive) {
        if (sound) level[c] = x[c];
      } else {
        if (sound && (C.down || n > Real(0))) level[c] += n * theta;
      }
      if (!C.down && n < Real(0)) n = 0;
      if (!sound) n = std::numeric_limits<Real>::quiet_NaN();
      if constexpr (C.split) {
        events[c] = n < Real(0) ? Real(0) : n;
        events[D + c] = n > Real(0) ? Real(0) : -n;
      } else {
        events[c] = n;
      }
    }
    state.started = Real(1);
  }
};

}  // namespace limen::inline LIMEN_ABI
