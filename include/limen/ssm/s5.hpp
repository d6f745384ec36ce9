#pragma once
/// @file  S5: one diagonal system with many inputs and outputs.
///
///   Δ = e^(log_step),  (a, k) = discretize(Λ, Δ)
///   h_t = a ⊙ h_{t-1} + k ⊙ (B u_t)        y_t = 2 Re(C h_t) + D ⊙ u_t
///
///   T time   E width   P complex states, each for itself and its conjugate
///
/// Smith, Warrington & Linderman, "Simplified State Space Layers for Sequence Modeling",
/// arXiv:2208.04933, section 3. Complex matrices are stored as real and imaginary parts side by
/// side, B [P x E x 2], C [E x P x 2]; they run as real products of twice the width. Starts with
/// rates -1/2 + i π n; a checkpoint brings its own (HiPPO) ones.

#include <cmath>
#include <numbers>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/affine_scan.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/s5_scan.hpp>
#include <limen/nn/weight.hpp>
#include <limen/ssm/decay_rates.hpp>
#include <limen/ssm/discretize.hpp>

namespace limen::inline LIMEN_ABI {

struct S5Config {
  Index d = 0;        ///< E
  Index d_state = 0;  ///< P, complex
  Discretization rule = Discretization::zero_order_hold;
  double dt_min = 1e-3;  ///< Δ starts between here ...
  double dt_max = 1e-1;  ///< ... and here, uniform in its logarithm
};

template <class Real, Index P>
struct S5State {
  Fixed<Real, 2, P> h;  ///< real parts, imaginary parts
};

template <S5Config C_, class S = float>
struct S5 {
  static_assert(C_.d > 0, "S5: .d must be positive");
  static_assert(C_.d_state > 0, "S5: .d_state must be positive");

  static constexpr S5Config config = C_;
  static constexpr Index E = C_.d, P = C_.d_state, in = E, out = E;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = S5<C_, T>;

  /// The same as real matrices, [Re B; Im B] and [2 Re C, -2 Im C], and a and k; or, all zero, what
  /// their gradients gather in.
  struct Matrices {
    Tensor<Real, 4 * P * E + 4 * P> all;

    Matrices() = default;
    explicit Matrices(const S5<C_, Real>& layer) {
      for (Index n = 0; n < P; ++n) {
        const Discretized d = layer.discretized(n);
        a()[n] = static_cast<Real>(d.a.real());
        a()[P + n] = static_cast<Real>(d.a.imag());
        k()[n] = static_cast<Real>(d.k.real());
        k()[P + n] = static_cast<Real>(d.k.imag());
        for (Index e = 0; e < E; ++e) {
          in()(n, e) = layer.B[(n * E + e) * 2];
          in()(P + n, e) = layer.B[(n * E + e) * 2 + 1];
          out()(e, n) = 2 * layer.C[(e * P + n) * 2];
          out()(e, P + n) = -2 * layer.C[(e * P + n) * 2 + 1];
        }
      }
    }
    MatrixView<Real> in() { return {all.data(), 2 * P, E, E}; }
    MatrixView<const Real> in() const { return {all.data(), 2 * P, E, E}; }
    MatrixView<Real> out() { return {all.data() + 2 * P * E, E, 2 * P, 2 * P}; }
    MatrixView<const Real> out() const { return {all.data() + 2 * P * E, E, 2 * P, 2 * P}; }
    Real* a() { return all.data() + 4 * P * E; }
    const Real* a() const { return all.data() + 4 * P * E; }
    Real* k() { return a() + 2 * P; }
    const Real* k() const { return a() + 2 * P; }
    S5System<Real> system() const { return {P, a(), k()}; }
  };

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, P> Lambda_re, Lambda_im;  ///< Λ
  Tensor<Real, P, E, 2> B;
  Tensor<Real, E, P, 2> C;
  Tensor<Real, P, 1> log_step;
  Tensor<Real, E> D;
  Optional<is_prepared<S>, Matrices> matrices;  ///< made by prepare_from

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("Lambda_re", l.Lambda_re...);
    f("Lambda_im", l.Lambda_im...);
    f("B", l.B...);
    f("C", l.C...);
    f("log_step", l.log_step...);
    f("D", l.D...);
    f("matrices", l.matrices...);
  }

  static S5 initialized(Random& random) {
    S5 layer;
    fill(layer.Lambda_re, -0.5);
    for (Index n = 0; n < P; ++n) {
      layer.Lambda_im[n] = static_cast<Real>(std::numbers::pi * static_cast<double>(n));
    }
    fill_normal(layer.B, 1 / std::sqrt(2.0 * E), random);
    fill_normal(layer.C, 1 / std::sqrt(2.0 * P), random);
    for (Real& v : layer.log_step.flat()) {
      v = static_cast<Real>(random.uniform(std::log(C_.dt_min), std::log(C_.dt_max)));
    }
    fill_normal(layer.D, 1, random);
    return layer;
  }

  void prepare_from(const S5<C_, Real>& learned)
    requires is_prepared<S>
  {
    D = learned.D;
    matrices = Matrices(learned);
  }

  /// Rates that grow have no place in a stream.
  Status check() const
    requires(!is_prepared<S>)
  {
    if (Status s = check_finite("log_step", log_step); !s) return s;
    if (Status s = check_finite("Lambda_im", Lambda_im); !s) return s;
    for (Index n = 0; n < P; ++n) {
      if (!(Lambda_re[n] < Real(0))) {
        return Error{"Lambda_re", "negative numbers",
                     std::to_string(Lambda_re[n]) + " at element " + std::to_string(n)};
      }
    }
    return {};
  }

  static constexpr Index macs(Index rows) { return rows * (4 * P * E + 6 * P + E); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = S5State<Real, P>;

  /// u [T x E] -> y [T x E]
  Sequence<Real, E> forward(SequenceView<Real, E> u, Batch<State> batch) const {
    if (!batch.fits(u.rows())) return {};
    const FlushDenormals guard;
    const auto run = [&](const Matrices& m) {
      Sequence<Real, 2 * P> h(u.rows());
      product_nt(u.matrix(), m.in(), h.matrix());
      s5_scan(m.system(), h.matrix(), states(batch));
      return read(m, u, h);
    };
    if constexpr (is_prepared<S>) {
      return run(matrices);
    } else {
      return run(Matrices(*this));
    }
  }

  Vector<Real, E> step(VectorView<Real, E> u, State& state) const noexcept {
    const FlushDenormals guard;
    if constexpr (is_prepared<S>) {
      Vector<Real, 2 * P> h;
      product_nt(u.matrix(), matrices.in(), h.matrix());
      s5_scan(matrices.system(), h.matrix(), states(state));
      Vector<Real, E> y;
      product_nt(h.matrix(), matrices.out(), y.matrix());
      for (Index e = 0; e < E; ++e) y[e] += D[e] * u[e];
      return y;
    } else {
      return step_by_definition(u, state);
    }
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, E> u;         ///< [T x E]
    Sequence<Real, 2 * P> v, h;  ///< B u, and the states after each row
    Buffer<Real> before;         ///< [B x 2P], the first states; empty if all started from rest
  };

  Sequence<Real, E> forward(Sequence<Real, E> u, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(u.rows())) return {};
    const FlushDenormals guard;
    const Matrices m(*this);
    cache.before = first_states(states(batch), 2 * P);
    cache.v = Sequence<Real, 2 * P>(u.rows());
    product_nt(u.matrix(), m.in(), cache.v.matrix());
    cache.h = cache.v;
    s5_scan(m.system(), cache.h.matrix(), states(batch));
    auto y = read(m, u, cache.h);
    cache.u = std::move(u);
    return y;
  }

  /// Gradients G of complex numbers, conjugate c̄, λ_t = 2 C^H dy_t + ā λ_{t+1}:
  ///   G_C = 2 Σ dy_t h̄_t,  G_a = Σ h̄_{t-1} λ_t,  G_k = Σ v̄_t λ_t,  g_t = k̄ λ_t,
  ///   G_B = Σ g_t u_tᵀ,  du_t = Re(B^H g_t) + D dy_t
  ///   G_Λ = conj(∂a/∂Λ) G_a + conj(∂k/∂Λ) G_k,  dlog_step = Δ Re(conj(∂a/∂Δ) G_a + conj(∂k/∂Δ)
  ///   G_k)
  Sequence<Real, E> backward(SequenceView<Real, E> dy, Batch<State> batch, const Cache& cache,
                             S5& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.u.rows())) return {};
    const FlushDenormals guard;
    const Matrices m(*this);
    const Index T = dy.rows();
    Matrices dm;
    add_product_tn(dy.matrix(), cache.h.matrix(), dm.out());
    Sequence<Real, 2 * P> g(T);
    product_nn(dy.matrix(), m.out(), g.matrix());
    s5_scan_backward(m.system(), {cache.v.matrix(), cache.h.matrix(), cache.before.data()},
                     g.matrix(), states(batch), dm.a(), dm.k());
    add_product_tn(g.matrix(), cache.u.matrix(), dm.in());
    Sequence<Real, E> du(T);
    product_nn(g.matrix(), m.in(), du.matrix());
    for (Index t = 0; t < T; ++t) {
      simd::for_each<Real>(E, [&](Index e, auto load, auto store) {
        const auto d = load(dy.data() + t * dy.stride() + e);
        store(du.row_data(t) + e, simd::fma(load(D.data() + e), d, load(du.row_data(t) + e)));
        Real* to = gradient.D.data() + e;
        store(to, simd::fma(d, load(cache.u.data() + t * E + e), load(to)));
      });
    }
    add_gradients(dm, gradient);
    return du;
  }

 private:
  template <S5Config, class>
  friend struct S5;

  Discretized discretized(Index n) const {
    return discretize(C_.rule,
                      {static_cast<double>(Lambda_re[n]), static_cast<double>(Lambda_im[n])},
                      std::exp(static_cast<double>(log_step[n])));
  }

  /// One step with what was learned, nothing prepared: slow, and allocates nothing.
  Vector<Real, E> step_by_definition(VectorView<Real, E> u, State& state) const noexcept {
    Real* const re = state.h.data();
    Real* const im = re + P;
    for (Index n = 0; n < P; ++n) {
      const Discretized d = discretized(n);
      const auto v = row_of_B(n, u);
      const std::complex<double> h =
          d.a * std::complex<double>(re[n], im[n]) + d.k * std::complex<double>(v);
      re[n] = static_cast<Real>(h.real());
      im[n] = static_cast<Real>(h.imag());
    }
    Vector<Real, E> y;
    for (Index e = 0; e < E; ++e) {
      Real sum = 0;
      for (Index n = 0; n < P; ++n) {
        sum += C[(e * P + n) * 2] * re[n] - C[(e * P + n) * 2 + 1] * im[n];
      }
      y[e] = 2 * sum + D[e] * u[e];
    }
    return y;
  }

  std::complex<Real> row_of_B(Index n, VectorView<Real, E> u) const noexcept {
    Real re = 0, im = 0;
    for (Index e = 0; e < E; ++e) {
      re += B[(n * E + e) * 2] * u[e];
      im += B[(n * E + e) * 2 + 1] * u[e];
    }
    return {re, im};
  }

  static Batch<Real> states(const Batch<State>& batch) {
    return batch.part([](State& state) -> Real& { return state.h[0]; });
  }

  /// y = [Re h, Im h] outᵀ + D ⊙ u
  Sequence<Real, E> read(const Matrices& m, SequenceView<Real, E> u,
                         const Sequence<Real, 2 * P>& h) const {
    Sequence<Real, E> y(u.rows());
    product_nt(h.matrix(), m.out(), y.matrix());
    for (Index t = 0; t < u.rows(); ++t) {
      simd::for_each<Real>(E, [&](Index e, auto load, auto store) {
        store(y.row_data(t) + e, simd::fma(load(D.data() + e), load(u.data() + t * u.stride() + e),
                                           load(y.row_data(t) + e)));
      });
    }
    return y;
  }

  void add_gradients(const Matrices& dm, S5& gradient) const {
    for (Index n = 0; n < P; ++n) {
      const Discretized d = discretized(n);
      const std::complex<double> g_a(dm.a()[n], dm.a()[P + n]), g_k(dm.k()[n], dm.k()[P + n]);
      const auto g = std::conj(d.a_by_A) * g_a + std::conj(d.k_by_A) * g_k;
      gradient.Lambda_re[n] += static_cast<Real>(g.real());
      gradient.Lambda_im[n] += static_cast<Real>(g.imag());
      const auto by_dt = std::conj(d.a_by_dt) * g_a + std::conj(d.k_by_dt) * g_k;
      gradient.log_step[n] +=
          static_cast<Real>(std::exp(static_cast<double>(log_step[n])) * by_dt.real());
      for (Index e = 0; e < E; ++e) {
        gradient.B[(n * E + e) * 2] += dm.in()(n, e);
        gradient.B[(n * E + e) * 2 + 1] += dm.in()(P + n, e);
        gradient.C[(e * P + n) * 2] += 2 * dm.out()(e, n);
        gradient.C[(e * P + n) * 2 + 1] -= 2 * dm.out()(e, P + n);
      }
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
