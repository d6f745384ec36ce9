#pragma once
/// @file  One layer says what, another how much of it.
///
///   y = V(x) ⊙ G(x)        x [T x in], y [T x out];  V the value, G the gate
///
///     Gated<Linear<c>, Sequential<Linear<c>, Activate<sigmoid>>>        GLU
///
/// Dauphin et al., "Language Modeling with Gated Convolutional Networks", arXiv:1612.08083.

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
LIMEN_RULE(gate_takes_the_same, "Gated: value and gate must take the same width");
LIMEN_RULE(gate_gives_the_same, "Gated: value and gate must give the same width");

template <class Value, class Gate>
struct GatedCache {
  cache_of<Value> value;
  cache_of<Gate> gate;
  Sequence<typename Value::Scalar, Value::out> v;  ///< V(x)
  Sequence<typename Value::Scalar, Value::out> g;  ///< G(x)
};
}  // namespace detail

template <class Value, class Gate>
struct Gated {
  static_assert(detail::compose<Value, Gate>() &&
                    detail::gate_takes_the_same < Value::in == Gate::in,
                detail::takes<Value::in>,
                detail::takes < Gate::in >> ::ok &&
                    detail::gate_gives_the_same < Value::out == Gate::out,
                detail::gives<Value::out>, detail::gives < Gate::out >> ::ok);

  static constexpr Index in = Value::in, out = Value::out;
  using Scalar = typename Value::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar =
      Gated<typename Value::template with_scalar<T>, typename Gate::template with_scalar<T>>;

  Value value;  ///< V
  Gate gate;    ///< G

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("value", m.value...);
    f("gate", m.gate...);
  }

  static Gated initialized(Random& random) {
    Gated model;
    model.value = Value::initialized(random);
    model.gate = Gate::initialized(random);
    return model;
  }

  static constexpr Index macs(Index rows) {
    return limen::macs<Value>(rows) + limen::macs<Gate>(rows);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = Pack<typename Value::State, typename Gate::State>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    detail::TapScope in_value(batch.context, "value"), in_gate(batch.context, "gate");
    auto y = value.forward(x, in_value.of(detail::part_of<0>(batch)));
    const auto g = gate.forward(x, in_gate.of(detail::part_of<1>(batch)));
    if (y.rows() != g.rows()) return {};
    multiply_rows(g.matrix(), y.matrix());
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(Streaming<Value> && Streaming<Gate>)
  {
    const FlushDenormals guard;
    auto y = value.step(x, get<0>(state));
    const auto g = gate.step(x, get<1>(state));
    multiply_rows(g.matrix(), y.matrix());
    return y;
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const
    requires(!(Streaming<Value> && Streaming<Gate>))
  {
    static_assert(detail::Rules<Value, Gate>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = detail::GatedCache<Value, Gate>;

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Value> && Trainable<Gate>)
  {
    const FlushDenormals guard;
    detail::TapScope in_value(batch.context, "value"), in_gate(batch.context, "gate");
    cache.v =
        value.forward(Sequence<Real, in>(x), in_value.of(detail::part_of<0>(batch)), cache.value);
    cache.g = gate.forward(std::move(x), in_gate.of(detail::part_of<1>(batch)), cache.gate);
    if (cache.v.rows() != cache.g.rows()) return {};
    auto y = cache.v;
    multiply_rows(cache.g.matrix(), y.matrix());
    return y;
  }

  /// dv = dy ⊙ g,  dg = dy ⊙ v,  dx = V'(x)ᵀ dv + G'(x)ᵀ dg
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Gated& gradient) const
    requires(Trainable<Value> && Trainable<Gate>)
  {
    if (!fits_cache(dy.rows(), cache.v.rows())) return {};
    const FlushDenormals guard;
    detail::TapScope in_value(batch.context, "value"), in_gate(batch.context, "gate");
    auto d = dy.copy();
    multiply_rows(cache.g.matrix(), d.matrix());
    auto dx =
        value.backward(d, in_value.of(detail::part_of<0>(batch)), cache.value, gradient.value);
    copy_rows(dy.matrix(), d.matrix());
    multiply_rows(cache.v.matrix(), d.matrix());
    const auto dx_gate =
        gate.backward(d, in_gate.of(detail::part_of<1>(batch)), cache.gate, gradient.gate);
    if (dx.rows() != dx_gate.rows()) return {};
    add_rows(dx_gate.matrix(), dx.matrix());
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
