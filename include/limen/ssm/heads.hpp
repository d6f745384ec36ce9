#pragma once
/// @file  What layers with a matrix state share: the state, and what happens to what was read.
///
///   MatrixState   S [H][K][V], one matrix for each head
///   HeadNorm      h = w ⊙ RMS(o) ⊙ silu(g)        for each head of a row; without g no gate
///   read_out      y = h W_oᵀ, and back
///   s_part        S of every sequence of a batch
///
///   o, g, h [T x H V], w [V], the same for all heads, W_o [D x H V], y [T x D]

#include <limen/core/batch.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/sequence.hpp>
#include <limen/kernel/gated.hpp>
#include <limen/kernel/norm.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real, Index H, Index K, Index V>
struct MatrixState {
  Fixed<Real, H, K, V> s;  ///< S
};

template <class Real, Index V>
struct HeadNorm {
  Tensor<Real, V> weight;  ///< w

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
  }

  /// n rows of o, g and h without gaps; h may be o. `r` [rows of heads] is kept for backward, or
  /// null.
  void apply(const Real* o, const Real* g, Index n, double eps, Real* h, Real* r) const noexcept {
    rms_norm<Real>({o, n / V, V, V}, weight.data(), Real(0), eps, {h, n / V, V, V}, r);
    if (g != nullptr) gate<Activation::silu>(g, h, h, n);
  }

  /// dh, g -> do and dg; may be written over dh and g.  `o` and `r` as they were.
  void backward(const Real* dh, const Real* o, const Real* g, Index n, double eps, const Real* r,
                Real* d_o, Real* dg, HeadNorm& gradient) const {
    const MatrixView<const Real> rows{o, n / V, V, V};
    const MatrixView<Real> to{d_o, n / V, V, V};
    if (g != nullptr) {
      Buffer<Real> normed(n), h(n);
      rms_norm<Real>(rows, weight.data(), Real(0), eps, {normed.data(), n / V, V, V});
      gate_backward<Activation::silu>(g, normed.data(), dh, h.data(), dg, d_o, n);
      dh = d_o;
    }
    rms_norm_backward<Real>({dh, n / V, V, V}, rows, weight.data(), Real(0), r, to,
                            gradient.weight.data());
  }
};

namespace detail {

template <class State>
auto s_part(const Batch<State>& batch) {
  return batch.part([](State& state) -> auto& { return state.s; });
}

/// `g` null: no gate.  `r` [T H]: kept for the way back, or null.
template <class Real, Index V, Index O, class W>
auto read_out(const limen::HeadNorm<Real, V>& norm, const W& o_proj, const Sequence<Real, O>& o,
              const Real* g, double eps, Real* r) {
  Sequence<Real, O> h(o.rows());
  norm.apply(o.data(), g, o.size(), eps, h.data(), r);
  return linear(h, o_proj);
}

/// do, and dg to `dg` where there is a gate; adds to the gradients of w and W_o.
template <class Real, Index V, Index O, Index D, class W>
Sequence<Real, O> read_out_backward(const limen::HeadNorm<Real, V>& norm, const W& o_proj,
                                    SequenceView<Real, D> dy, const Sequence<Real, O>& o,
                                    const Real* g, double eps, const Real* r, Real* dg,
                                    limen::HeadNorm<Real, V>& d_norm, W& d_o_proj) {
  Sequence<Real, O> h(o.rows());
  norm.apply(o.data(), g, o.size(), eps, h.data(), nullptr);
  add_linear_weight_gradient<Real, D, O>(dy, h, d_o_proj);
  auto d_o = linear_input_gradient(dy, o_proj);
  norm.backward(d_o.data(), o.data(), g, o.size(), eps, r, d_o.data(), dg, d_norm);
  return d_o;
}

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI
