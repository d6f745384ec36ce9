#pragma once
/// @file  An expert that every row passes, beside those that are chosen.
///
///   y = routed(x) + shared(x)                       DeepSeek
///   y = routed(x) + σ(x gᵀ) shared(x)               .gated: Qwen2-MoE;  g [1 x D]
///
///     SharedExpert<SharedExpertConfig{}, MixtureOfExperts<Route, Expert>, Expert>
///
/// Several shared experts of one kind are one with the hidden width of all.
///
/// Dai et al., "DeepSeekMoE", arXiv:2401.06066, equation 9.

#include <utility>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

struct SharedExpertConfig {
  bool gated = false;  ///< a sigmoid of the row says how much
};

template <SharedExpertConfig C, class Routed, class Shared>
struct SharedExpert {
  static_assert(detail::compose<Routed, Shared>());
  static_assert(Routed::in == Shared::in && Routed::out == Shared::out,
                "SharedExpert: both must take the same width and give the same width");

  static constexpr SharedExpertConfig config = C;
  static constexpr Index in = Routed::in, out = Routed::out;
  using Scalar = typename Routed::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = SharedExpert<C, typename Routed::template with_scalar<T>,
                                   typename Shared::template with_scalar<T>>;

  Routed routed;
  Shared shared;
  Optional<C.gated, Tensor<Real, 1, in>> gate;  ///< g

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    Routed::visit(f, l.routed...);
    f(C.gated ? "shared_expert" : "shared_experts", l.shared...);
    f("shared_expert_gate", l.gate...);
  }

  static SharedExpert initialized(Random& random) {
    SharedExpert layer;
    layer.routed = Routed::initialized(random);
    layer.shared = Shared::initialized(random);
    if constexpr (C.gated) fill_fan_in(layer.gate, random);
    return layer;
  }

  static constexpr bool work_depends_on_data = [] {
    const auto depends = []<class L>(L*) {
      if constexpr (requires { L::work_depends_on_data; }) {
        return L::work_depends_on_data;
      } else {
        return false;
      }
    };
    return depends(static_cast<Routed*>(nullptr)) || depends(static_cast<Shared*>(nullptr));
  }();
  static constexpr Index macs(Index rows) {
    return limen::macs<Routed>(rows) + limen::macs<Shared>(rows) + (C.gated ? rows * in : 0);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = Pack<typename Routed::State, typename Shared::State>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    auto y = routed.forward(x, detail::part_of<0>(batch));
    auto s = shared.forward(x, detail::part_of<1>(batch));
    if (y.rows() != x.rows() || s.rows() != x.rows()) return {};
    if constexpr (C.gated) weigh(gates(x), s);
    add_rows(std::as_const(s).matrix(), y.matrix());
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(Streaming<Routed> && Streaming<Shared>)
  {
    const FlushDenormals guard;
    auto y = routed.step(x, get<0>(state));
    auto s = shared.step(x, get<1>(state));
    const Real g = gate_of(x.data());
    for (Index d = 0; d < out; ++d) y[d] += g * s[d];
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    detail::cache_of<Routed> routed;
    detail::cache_of<Shared> shared;
    Sequence<Real, in> x;   ///< where gated
    Sequence<Real, out> s;  ///< shared(x), where gated

    double loss() const { return routed.loss(); }
    Index load(Index e) const { return routed.load(e); }
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Routed> && Trainable<Shared>)
  {
    const FlushDenormals guard;
    const Index rows = x.rows();
    auto s = shared.forward(Sequence<Real, in>(x), detail::part_of<1>(batch), cache.shared);
    if (s.rows() != rows) return {};
    if constexpr (C.gated) {
      cache.x = x;
      cache.s = s;
      weigh(gates(cache.x), s);
    }
    auto y = routed.forward(std::move(x), detail::part_of<0>(batch), cache.routed);
    if (y.rows() != rows) return {};
    add_rows(std::as_const(s).matrix(), y.matrix());
    return y;
  }

  /// dx = routed'ᵀ dy + shared'ᵀ σ dy + da g,  da = σ (1 - σ) ⟨dy, shared(x)⟩,  dg = Σ_t da x_t
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              SharedExpert& gradient) const
    requires(Trainable<Routed> && Trainable<Shared>)
  {
    const FlushDenormals guard;
    auto dx = routed.backward(dy, detail::part_of<0>(batch), cache.routed, gradient.routed);
    if (dx.rows() != dy.rows()) return {};
    auto ds = dy.copy();
    if constexpr (C.gated) {
      const auto g = gates(cache.x);
      weigh(g, ds);
      for (Index t = 0; t < dy.rows(); ++t) {
        const Real* const s = cache.s.row(t).data();
        const Real* const above = dy.row(t).data();
        const Real da = g(t, 0) * (Real(1) - g(t, 0)) *
                        reduce_row<Real>(
                            out, [&](Index i, auto load) { return load(s + i) * load(above + i); });
        for (Index d = 0; d < in; ++d) {
          gradient.gate[d] += da * cache.x(t, d);
          dx(t, d) += da * gate[d];
        }
      }
    }
    const auto d = shared.backward(ds, detail::part_of<1>(batch), cache.shared, gradient.shared);
    if (d.rows() != dx.rows()) return {};
    add_rows(d.matrix(), dx.matrix());
    return dx;
  }

 private:
  /// σ(x gᵀ) of one row, 1 without a gate.
  Real gate_of(const Real* x) const noexcept {
    if constexpr (C.gated) {
      const Real* const w = gate.data();
      Real a = reduce_row<Real>(in, [&](Index i, auto load) { return load(x + i) * load(w + i); });
      activate(Activation::sigmoid, &a, &a, 1);
      return a;
    } else {
      return Real(1);
    }
  }
  Sequence<Real, 1> gates(SequenceView<Real, in> x) const {
    Sequence<Real, 1> g(x.rows());
    for (Index t = 0; t < x.rows(); ++t) g(t, 0) = gate_of(x.row(t).data());
    return g;
  }
  static void weigh(const Sequence<Real, 1>& g, Sequence<Real, out>& s) {
    for (Index t = 0; t < s.rows(); ++t) {
      for (Index d = 0; d < out; ++d) s(t, d) *= g(t, 0);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
