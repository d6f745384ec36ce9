#pragma once
/// @file  S4D: a bank of long linear filters, one diagonal system for each channel.
///
///   A = -e^(log_A_real) + i A_imag,  Δ = e^(log_dt),  (a, k) = discretize(A, Δ)
///   h_t = a ⊙ h_{t-1} + k u_t        y_t = 2 Re Σ_n C h_t + D ⊙ u_t
///
///   T time   E channels   N real numbers of state per channel: N / 2 complex ones, each for itself
///   and its conjugate. The state kept here is h / k: k goes into C.
///
/// Gu, Gupta, Goel & Ré, "On the Parameterization and Initialization of Diagonal State Space
/// Models", arXiv:2206.11893, section 3. Starts as "S4D-Lin": A_n = -1/2 + i π n.

#include <cmath>
#include <numbers>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/s4d_scan.hpp>
#include <limen/ssm/decay_rates.hpp>
#include <limen/ssm/discretize.hpp>

namespace limen::inline LIMEN_ABI {

struct S4dConfig {
  Index d = 0;         ///< E, channels
  Index d_state = 64;  ///< N, even
  Discretization rule = Discretization::zero_order_hold;
  double dt_min = 1e-3;  ///< Δ starts between here ...
  double dt_max = 1e-1;  ///< ... and here, uniform in its logarithm
};

template <class Real, Index E, Index M>
struct S4dState {
  Fixed<Real, scan_blocks(E), M, 2, scan_block> h;  ///< real part of (e, n) at s4d_at(e, n, M)
};

template <S4dConfig C_, class S = float>
struct S4d {
  static_assert(C_.d > 0, "S4d: .d must be positive");
  static_assert(C_.d_state > 0 && C_.d_state % 2 == 0,
                "S4d: .d_state must be even: states come with their conjugates");

  static constexpr S4dConfig config = C_;
  static constexpr Index E = C_.d, M = C_.d_state / 2, in = E, out = E;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = S4d<C_, T>;

  /// a and 2 k C in blocks: what runs.
  struct Filters {
    Tensor<Real, scan_blocks(E), M, 2, scan_block> a, c;
  };

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, E> log_dt;
  Tensor<Real, E, M, 2> C;  ///< real and imaginary parts
  Tensor<Real, E, M> log_A_real, A_imag;
  Tensor<Real, E> D;
  Optional<is_prepared<S>, Filters> filters;  ///< made by prepare_from

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("log_dt", l.log_dt...);
    f("C", l.C...);
    f("log_A_real", l.log_A_real...);
    f("A_imag", l.A_imag...);
    f("D", l.D...);
    f("filters", l.filters...);
  }

  static S4d initialized(Random& random) {
    S4d layer;
    for (Real& v : layer.log_dt.flat()) {
      v = static_cast<Real>(random.uniform(std::log(C_.dt_min), std::log(C_.dt_max)));
    }
    fill_normal(layer.C, std::sqrt(0.5), random);
    fill(layer.log_A_real, std::log(0.5));
    for (Index i = 0; i < E * M; ++i) {
      layer.A_imag[i] = static_cast<Real>(std::numbers::pi * static_cast<double>(i % M));
    }
    fill_normal(layer.D, 1, random);
    return layer;
  }

  void prepare_from(const S4d<C_, Real>& learned)
    requires is_prepared<S>
  {
    D = learned.D;
    learned.make_filters(0, E, filters.a.data(), filters.c.data());
  }

  Status check() const
    requires(!is_prepared<S>)
  {
    if (Status s = check_finite("log_dt", log_dt); !s) return s;
    if (Status s = check_finite("log_A_real", log_A_real); !s) return s;
    return check_finite("A_imag", A_imag);
  }

  static constexpr Index macs(Index rows) { return rows * E * (6 * M + 1); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = S4dState<Real, E, M>;

  /// u [T x E] -> y [T x E]
  Sequence<Real, E> forward(SequenceView<Real, E> u, Batch<State> batch) const {
    if (!batch.fits(u.rows())) return {};
    const FlushDenormals guard;
    if constexpr (is_prepared<S>) {
      return scan(u, batch, filters.a.data(), filters.c.data(), nullptr, nullptr);
    } else {
      Buffer<Real> a(size), c(size);
      make_filters(0, E, a.data(), c.data());
      return scan(u, batch, a.data(), c.data(), nullptr, nullptr);
    }
  }

  Vector<Real, E> step(VectorView<Real, E> u, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, E> y;
    if constexpr (is_prepared<S>) {
      step_channels(u, y, state, 0, E, filters.a.data(), filters.c.data());
    } else {
      alignas(alignment) Real a[2 * M * scan_block], c[2 * M * scan_block];
      for (Index e = 0; e < E; e += scan_block) {
        const Index channels = E - e < scan_block ? E - e : scan_block;
        make_filters(e, channels, a, c);
        step_channels(u, y, state, e, channels, a, c);
      }
    }
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, E> u;   ///< [T x E]
    Buffer<Real> a, c;     ///< the filters
    Buffer<Real> kept;     ///< h before every chunk of rows
    Buffer<Index> chunks;  ///< [B] chunks of earlier sequences
  };

  Sequence<Real, E> forward(Sequence<Real, E> u, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(u.rows())) return {};
    const FlushDenormals guard;
    cache.a = Buffer<Real>(size);
    cache.c = Buffer<Real>(size);
    make_filters(0, E, cache.a.data(), cache.c.data());
    cache.chunks = Buffer<Index>(batch.count());
    Index chunks = 0;
    for (Index i = 0; i < batch.count(); ++i) {
      cache.chunks[i] = chunks;
      chunks += (batch.end(i, u.rows()) - batch.begin(i) + scan_chunk - 1) / scan_chunk;
    }
    cache.kept = Buffer<Real>(chunks * size);
    auto y = scan(u, batch, cache.a.data(), cache.c.data(), cache.kept.data(), cache.chunks.data());
    cache.u = std::move(u);
    return y;
  }

  /// Through the scan as kernel/s4d_scan.hpp has it: G_a and G_c. With c = 2 k C, b̄ conjugate:
  ///   G_C = 2 k̄ G_c,  G_k = 2 C̄ G_c,  G_A = conj(∂a/∂A) G_a + conj(∂k/∂A) G_k
  ///   dlog_A_real = -e^(log_A_real) Re G_A,  dA_imag = Im G_A
  ///   dlog_dt = Δ Σ_n Re(conj(∂a/∂Δ) G_a + conj(∂k/∂Δ) G_k)
  Sequence<Real, E> backward(SequenceView<Real, E> dy, Batch<State> batch, const Cache& cache,
                             S4d& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.u.rows())) return {};
    if (!fits_cache(batch.count(), cache.chunks.size(), "sequences of the batch")) return {};
    const FlushDenormals guard;
    Sequence<Real, E> du(dy.rows());
    Buffer<Real> da(size), dc(size);
    for (Real& v : da) v = 0;
    for (Real& v : dc) v = 0;
    s4d_scan_backward<Real>(
        {M, cache.a.data(), cache.c.data(), D.data(), cache.u.matrix()}, dy.matrix(), batch.count(),
        [&](Index i) {
          const Index first = batch.begin(i), rows = batch.end(i, dy.rows()) - first;
          return ScanSequence<Real, const Real>{first, rows,
                                                batch.carries() ? batch[i].h.data() : nullptr,
                                                cache.kept.data() + cache.chunks[i] * size};
        },
        {da.data(), dc.data(), gradient.D.data(), du.matrix()});
    for (Index e = 0; e < E; ++e) {
      double d_dt = 0;
      for (Index n = 0; n < M; ++n) {
        const Discretized d = discretized(e, n);
        const std::complex<double> c(C[(e * M + n) * 2], C[(e * M + n) * 2 + 1]);
        const auto g_a = at(da.data(), e, n), g_c = at(dc.data(), e, n);
        const auto g_k = 2.0 * std::conj(c) * g_c, g_C = 2.0 * std::conj(d.k) * g_c;
        const auto g_A = std::conj(d.a_by_A) * g_a + std::conj(d.k_by_A) * g_k;
        d_dt += (std::conj(d.a_by_dt) * g_a + std::conj(d.k_by_dt) * g_k).real();
        gradient.C[(e * M + n) * 2] += static_cast<Real>(g_C.real());
        gradient.C[(e * M + n) * 2 + 1] += static_cast<Real>(g_C.imag());
        gradient.log_A_real(e, n) += static_cast<Real>(rate(e, n).real() * g_A.real());
        gradient.A_imag(e, n) += static_cast<Real>(g_A.imag());
      }
      gradient.log_dt[e] += static_cast<Real>(step_size(e) * d_dt);
    }
    return du;
  }

 private:
  template <S4dConfig, class>
  friend struct S4d;

  static constexpr Index size = s4d_state_size(E, M);

  double step_size(Index e) const { return std::exp(static_cast<double>(log_dt[e])); }
  std::complex<double> rate(Index e, Index n) const {
    return {-std::exp(static_cast<double>(log_A_real(e, n))), static_cast<double>(A_imag(e, n))};
  }
  Discretized discretized(Index e, Index n) const {
    return discretize(C_.rule, rate(e, n), step_size(e));
  }
  static std::complex<double> at(const Real* blocks, Index e, Index n) {
    return {blocks[s4d_at(e, n, M)], blocks[s4d_at(e, n, M) + scan_block]};
  }

  /// a and 2 k C of channels e0 to e0 + channels, in blocks; 0 behind them.
  void make_filters(Index e0, Index channels, Real* a, Real* c) const noexcept {
    for (Index i = 0; i < s4d_state_size(channels, M); ++i) a[i] = c[i] = 0;
    for (Index e = e0; e < e0 + channels; ++e) {
      for (Index n = 0; n < M; ++n) {
        const Discretized d = discretized(e, n);
        const auto k = 2.0 * d.k * std::complex<double>(C[(e * M + n) * 2], C[(e * M + n) * 2 + 1]);
        const Index to = s4d_at(e - e0, n, M);
        a[to] = static_cast<Real>(d.a.real());
        a[to + scan_block] = static_cast<Real>(d.a.imag());
        c[to] = static_cast<Real>(k.real());
        c[to + scan_block] = static_cast<Real>(k.imag());
      }
    }
  }

  Sequence<Real, E> scan(SequenceView<Real, E> u, const Batch<State>& batch, const Real* a,
                         const Real* c, Real* kept, const Index* chunks) const {
    Sequence<Real, E> y(u.rows());
    s4d_scan<Real>(
        {M, a, c, D.data(), u.matrix()}, batch.count(),
        [&](Index i) {
          const Index first = batch.begin(i), rows = batch.end(i, u.rows()) - first;
          return ScanSequence<Real>{first, rows, batch.carries() ? batch[i].h.data() : nullptr,
                                    kept == nullptr ? nullptr : kept + chunks[i] * size};
        },
        y.matrix());
    return y;
  }

  void step_channels(VectorView<Real, E> u, Vector<Real, E>& y, State& state, Index e,
                     Index channels, const Real* a, const Real* c) const noexcept {
    Real* h = state.h.data() + e * 2 * M;
    s4d_scan<Real>(
        {M, a, c, D.data() + e, u.matrix().middle_cols(e, channels)}, 1,
        [&](Index) { return ScanSequence<Real>{0, 1, h, nullptr}; },
        y.matrix().middle_cols(e, channels));
  }
};

}  // namespace limen::inline LIMEN_ABI
