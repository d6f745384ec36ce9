#pragma once
/// @file  An affine map of spikes.
///
///   y = W s + b = b + Σ_{i: s_i = 1} W_i        s [T x I] of 0 and 1, y [T x O], W_i column i
///
/// A Linear, and in checkpoints named as one, that may follow the spikes instead of multiplying
/// with zeros: of the weights it then reads those of inputs that fired. Execution::automatic takes
/// the faster way for the spikes it counts; both give one answer, and the same bits where the
/// dense product has one sum for each output (more than 2 panels of them; weights prepared, or 16
/// rows): from b, in ascending order of the inputs.
///
/// A value that is neither 0 nor 1 is an error that names it, wherever spikes may be followed;
/// `.graded` allows it. `step` cannot fail: it gives W s + b for any s.
///
/// Streams want the inference form (`prepare`): the learning form turns its weights for each
/// `forward` that follows spikes, and its `step` is dense.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/spiking/spike_weight.hpp>

namespace limen::inline LIMEN_ABI {

struct SpikeLinearConfig {
  Index d_in = 0;                              ///< I
  Index d_out = 0;                             ///< O
  bool bias = true;                            ///< add b
  Execution execution = Execution::automatic;  ///< how
  bool graded = false;                         ///< inputs may be any number; zeros are passed over
  bool half = false;           ///< inference form: events read weights rounded to bfloat16
  double event_below = 0;      ///< automatic: share of spikes below which they are followed; 0: by
                               ///< what was measured
  bool input_gradient = true;  ///< false where nobody wants dx: it is zero, and costs nothing
};

template <SpikeLinearConfig C, class S = float>
struct SpikeLinear {
  static_assert(C.d_in > 0, "SpikeLinear: .d_in must be positive");
  static_assert(C.d_out > 0, "SpikeLinear: .d_out must be positive");
  static_assert(C.d_in < (Index{1} << 31) - 64, "SpikeLinear: .d_in must fit 32 bits");
  static_assert(C.event_below >= 0 && C.event_below <= 1,
                "SpikeLinear: .event_below must be from 0 to 1");

  static constexpr SpikeLinearConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = SpikeLinear<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  SpikeWeight<S, out, in, C.execution, C.half> weight;  ///< W
  Optional<C.bias, Tensor<Real, out>> bias;             ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static SpikeLinear initialized(Random& random) {
    SpikeLinear layer;
    fill_fan_in(layer.weight, random);
    if constexpr (C.bias) fill_uniform(layer.bias, 1 / std::sqrt(double{C.d_in}), random);
    return layer;
  }

  /// Of dense execution; what spikes cost is counted (spiking/operations.hpp).
  static constexpr Index macs(Index rows) { return rows * in * out; }

  /// Would `rows` rows with so many spikes be run by events?
  static constexpr bool by_events(Index rows, double spikes) {
    if constexpr (C.execution == Execution::dense) return false;
    if constexpr (C.execution == Execution::event) return true;
    if (!is_prepared<S> && rows < worth_packing) return false;  // turning the weights costs more
    const double below =
        config.event_below > 0 ? config.event_below : follow_below<Real>(rows, in, out);
    return spikes < below * static_cast<double>(rows * in);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  /// s [T x I] -> y [T x O]
  Sequence<Real, out> forward(SequenceView<Real, in> s, Batch<State> batch) const {
    const FlushDenormals guard;
    if constexpr (C.execution == Execution::dense) {
      if (listened(batch.context)) {
        tell(batch.context, s.rows(), SpikeRows<Real>::of(s.matrix()));
      }
      return dense(s);
    } else {
      const auto spikes = SpikeRows<Real>::of(s.matrix());
      if (!are_spikes(s, spikes)) return {};
      tell(batch.context, s.rows(), spikes);
      return by_events(s.rows(), static_cast<double>(spikes.count())) ? events(spikes) : dense(s);
    }
  }

  /// s [I] -> y [O].  Allocates nothing.
  Vector<Real, out> step(VectorView<Real, in> s, State&) const noexcept {
    const FlushDenormals guard;
    if constexpr (C.execution == Execution::dense || !is_prepared<S>) {
      return linear(s, dense_weight(), b());
    } else {
      SpikeIndex ids[spike_room(in)];
      const SpikeCount found = list_spikes(s.data(), in, ids);
      if constexpr (C.execution == Execution::automatic) {
        if (!by_events(1, static_cast<double>(found.count))) return linear(s, dense_weight(), b());
      }
      if (!found.binary) [[unlikely]]
        return graded_sum(s, ids, found.count);
      return sum({ids, found.count, nullptr});
    }
  }

  /// The same of a list, as `step_events` hands it on (spiking/event_step.hpp).
  Vector<Real, out> sum(const SpikeList<Real>& spikes) const noexcept
    requires(is_prepared<S> && C.execution != Execution::dense)
  {
    Vector<Real, out> y;
    sum_listed(weight.fan_out(), spikes, b(), y.data());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Index rows = 0;
    Sequence<Real, in> s;    ///< [T x I], where execution was dense
    SpikeRows<Real> spikes;  ///< else
  };

  Sequence<Real, out> forward(Sequence<Real, in> s, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    Sequence<Real, out> y;
    SpikeRows<Real> spikes;
    bool listed = false;
    if constexpr (C.execution == Execution::dense) {
      if (listened(batch.context)) {
        tell(batch.context, s.rows(), SpikeRows<Real>::of(std::as_const(s).matrix()));
      }
    } else {
      spikes = SpikeRows<Real>::of(std::as_const(s).matrix());
      if (!are_spikes(s, spikes)) return {};
      tell(batch.context, s.rows(), spikes);
      listed = by_events(s.rows(), static_cast<double>(spikes.count()));
    }
    y = listed ? events(spikes) : dense(s);
    cache.rows = s.rows();
    cache.s = listed ? Sequence<Real, in>() : std::move(s);
    cache.spikes = listed ? std::move(spikes) : SpikeRows<Real>();
    return y;
  }

  /// dW_i = Σ_{t: s_ti = 1} dy_t,  db = Σ_t dy_t,  ds = dy W, which is dense
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              SpikeLinear& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    const FlushDenormals guard;
    if (cache.s.rows() == cache.rows) {
      add_linear_weight_gradient<Real, out, in>(dy, cache.s, gradient.weight);
    } else {
      Buffer<Real> turned(in * out);
      for (Real& d : turned) d = 0;
      const MatrixView<Real> dw{turned.data(), in, out, out};
      add_listed_outer<Real>(dy.matrix(), cache.spikes, dw);
      add_turned<Real>(dw, gradient.weight.matrix());
    }
    if constexpr (C.bias) add_bias_gradient<Real, out>(dy, gradient.bias);
    if constexpr (!C.input_gradient) return Sequence<Real, in>::zeros(dy.rows());
    return linear_input_gradient<Real, out, in>(dy, weight);
  }

 private:
  const Real* b() const { return data_or_null(bias); }

  decltype(auto) dense_weight() const {
    if constexpr (is_prepared<S>) {
      return (weight.panels);
    } else {
      return (weight);
    }
  }

  Sequence<Real, out> dense(SequenceView<Real, in> s) const {
    if constexpr (is_prepared<S> && C.execution == Execution::event) {
      return {};  // never asked
    } else {
      return linear(s, dense_weight(), b());
    }
  }

  Sequence<Real, out> events(const SpikeRows<Real>& spikes) const {
    Sequence<Real, out> y(spikes.rows());
    if constexpr (!is_prepared<S>) {
      sum_listed(FanOut<Real>::pack(weight.matrix()).view(), spikes, b(), y.matrix());
    } else if constexpr (C.execution != Execution::dense) {
      sum_listed(weight.fan_out(), spikes, b(), y.matrix());
    }
    return y;
  }

  /// Apart: its values would be room on the stack of every step.
  LIMEN_NOINLINE Vector<Real, out> graded_sum(VectorView<Real, in> s, const SpikeIndex* ids,
                                              Index count) const noexcept {
    Vector<Real, in> values;
    for (Index k = 0; k < count; ++k) values[k] = s[ids[k]];
    return sum({ids, count, values.data()});
  }

  /// Says which element is not a spike, where that matters.
  static bool are_spikes(SequenceView<Real, in> s, const SpikeRows<Real>& spikes) {
    if (C.graded || spikes.binary()) return true;
    for (Index t = 0; t < s.rows(); ++t) {
      const Index i = first_not_binary(s.row(t).data(), in);
      if (i == in) continue;
      fail({"SpikeLinear: input " + std::to_string(i) + " of row " + std::to_string(t), "0 or 1",
            std::to_string(s(t, i))});
      break;
    }
    return false;
  }

  static bool listened(const Context* context) {
    return context != nullptr && context->taps != nullptr;
  }

  /// What the listener of a run hears (spiking/operations.hpp): "spikes" [1 x 6], rows, spikes of
  /// them, I, O, whether they were followed, and whether all were 1. Without a listener it is a
  /// comparison.
  static void tell(const Context* context, Index rows, const SpikeRows<Real>& spikes) {
    if (!listened(context)) return;
    const Index count = spikes.count();
    const bool followed = by_events(rows, static_cast<double>(count));
    Real told[] = {static_cast<Real>(rows),      static_cast<Real>(count),
                   static_cast<Real>(in),        static_cast<Real>(out),
                   followed ? Real(1) : Real(0), spikes.binary() ? Real(1) : Real(0)};
    context->taps->at("spikes", MatrixView<Real>{told, 1, 6, 6});
  }
};

}  // namespace limen::inline LIMEN_ABI
