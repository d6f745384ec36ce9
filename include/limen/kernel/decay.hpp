#pragma once
/// @file  How far a state forgets: decays from step sizes and from gates, and their derivatives.
///
///   step_decay   δ = clamp(softplus(x + bias)),  a = e^(-δ e^(A_log))     one A_log for each
///   column gate_decay   a = σ(x)^(1/c)                                           the keys of GLA
///   skip_gate    v = (y + D u) silu(z)                                    one D for each head
///
/// Rows x [T x H]; backward takes the gradient of log a, which is finite where a is 0.

#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/chunk.hpp>

namespace limen::inline LIMEN_ABI {

/// Bounds of δ; without them it is just positive.
template <class Real>
struct StepLimit {
  Real low, high;
};

template <class Real>
void step_decay(std::type_identity_t<MatrixView<const Real>> x, const Real* bias, const Real* A_log,
                StepLimit<Real> limit, MatrixView<Real> delta, MatrixView<Real> a) noexcept {
  using V = simd::Vec<Real>;
  for (Index t = 0; t < x.rows; ++t) {
    const Real* from = x.row(t);
    Real *step = delta.row(t), *decay = a.row(t);
    simd::for_each<Real>(x.cols, [&](Index h, auto load, auto store) {
      const V s = math::softplus(load(from + h) + load(bias + h));
      const V d = simd::min(V(limit.high), simd::max(V(limit.low), s));  // in this order NaN stays
      store(step + h, d);
      store(decay + h, math::exp(-d * math::exp(load(A_log + h))));
    });
  }
}

/// dδ_t += -e^(A_log) dlog a_t,  dx = dδ σ(x + bias) where δ was not clamped,  dbias += Σ dx,
/// dA_log += Σ dlog a_t log a_t.        `d_delta`: what came to δ itself, or empty.
template <class Real>
void step_decay_backward(std::type_identity_t<MatrixView<const Real>> x, const Real* bias,
                         const Real* A_log, StepLimit<Real> limit,
                         std::type_identity_t<MatrixView<const Real>> d_delta,
                         std::type_identity_t<MatrixView<const Real>> dlog_a, MatrixView<Real> dx,
                         Real* dbias, Real* dA_log) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index piece = 32;  // rows that are summed apart: rounding errors grow with the pieces
  for (Index t0 = 0; t0 < x.rows; t0 += piece) {
    const Index t1 = t0 + piece < x.rows ? t0 + piece : x.rows;
    simd::for_each<Real>(x.cols, [&](Index h, auto load, auto store) {
      const V A = -math::exp(load(A_log + h)), b = load(bias + h);
      V sum_bias(Real(0)), sum_A(Real(0));
      for (Index t = t0; t < t1; ++t) {
        const V v = load(x.row(t) + h) + b, s = math::softplus(v);
        const V d = simd::min(V(limit.high), simd::max(V(limit.low), s));
        const V da = load(dlog_a.row(t) + h);
        sum_A = simd::fma(da, A * d, sum_A);
        V dd = da * A;
        if (d_delta.data != nullptr) dd = dd + load(d_delta.row(t) + h);
        dd = dd * activation_derivative<Activation::softplus>(v);
        dd = simd::select(s < V(limit.low), V(Real(0)), dd);
        dd = simd::select(s > V(limit.high), V(Real(0)), dd);
        store(dx.row(t) + h, dd);
        sum_bias = sum_bias + dd;
      }
      store(dbias + h, load(dbias + h) + sum_bias);
      store(dA_log + h, load(dA_log + h) + sum_A);
    });
  }
}

/// a = σ(x)^(1/c)
template <class Real>
void gate_decay(const Real* x, Real c, Real* a, Index n) noexcept {
  using V = simd::Vec<Real>;
  simd::transform(x, a, n, [c](const V& v) { return math::exp(math::log_sigmoid(v) * V(1 / c)); });
}

/// dx = dlog a σ(-x) / c
template <class Real>
void gate_decay_backward(const Real* x, Real c, const Real* dlog_a, Real* dx, Index n) noexcept {
  using V = simd::Vec<Real>;
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(dx + i, load(dlog_a + i) * V(1 / c) * math::sigmoid(-load(x + i)));
  });
}

/// v = (y + D_h u) silu(z) for heads of `width` columns.  v may be y.
template <class Real>
void skip_gate(std::type_identity_t<MatrixView<const Real>> y,
               std::type_identity_t<MatrixView<const Real>> u, const Real* D, Index width,
               std::type_identity_t<MatrixView<const Real>> z, MatrixView<Real> v) noexcept {
  using V = simd::Vec<Real>;
  for (Index t = 0; t < y.rows; ++t) {
    for (Index c = 0, h = 0; c < y.cols; c += width, ++h) {
      const Real *yt = y.row(t) + c, *ut = u.row(t) + c, *zt = z.row(t) + c;
      Real* to = v.row(t) + c;
      const V d(D[h]);
      simd::for_each<Real>(width, [&](Index i, auto load, auto store) {
        store(to + i, simd::fma(d, load(ut + i), load(yt + i)) * math::silu(load(zt + i)));
      });
    }
  }
}

/// dy = dv silu(z),  dz = dv (y + D u) silu'(z).  dy may be dv.
template <class Real>
void skip_gate_backward(std::type_identity_t<MatrixView<const Real>> dv,
                        std::type_identity_t<MatrixView<const Real>> y,
                        std::type_identity_t<MatrixView<const Real>> u, const Real* D, Index width,
                        std::type_identity_t<MatrixView<const Real>> z, MatrixView<Real> dy,
                        MatrixView<Real> dz) noexcept {
  using V = simd::Vec<Real>;
  for (Index t = 0; t < y.rows; ++t) {
    for (Index c = 0, h = 0; c < y.cols; c += width, ++h) {
      const Real *yt = y.row(t) + c, *ut = u.row(t) + c, *zt = z.row(t) + c, *from = dv.row(t) + c;
      Real *to_y = dy.row(t) + c, *to_z = dz.row(t) + c;
      const V d(D[h]);
      simd::for_each<Real>(width, [&](Index i, auto load, auto store) {
        const V zi = load(zt + i), dvi = load(from + i);
        const V sum = simd::fma(d, load(ut + i), load(yt + i));
        store(to_y + i, dvi * math::silu(zi));
        store(to_z + i, dvi * sum * activation_derivative<Activation::silu>(zi));
      });
    }
  }
}

/// du += D_h dy,  dD_h += Σ dy u
template <class Real>
void skip_backward(std::type_identity_t<MatrixView<const Real>> dy,
                   std::type_identity_t<MatrixView<const Real>> u, const Real* D, Index width,
                   MatrixView<Real> du, Real* dD) noexcept {
  using V = simd::Vec<Real>;
  for (Index t = 0; t < dy.rows; ++t) {
    for (Index c = 0, h = 0; c < dy.cols; c += width, ++h) {
      const Real *dyt = dy.row(t) + c, *ut = u.row(t) + c;
      Real* to = du.row(t) + c;
      const V d(D[h]);
      simd::for_each<Real>(width, [&](Index i, auto load, auto store) {
        store(to + i, simd::fma(d, load(dyt + i), load(to + i)));
      });
      dD[h] += chunk::dot(dyt, ut, width);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
