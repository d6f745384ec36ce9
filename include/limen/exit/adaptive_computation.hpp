#pragma once
/// @file  Adaptive computation time: a recurrent layer takes as many steps for a row as it wants.
///
///   s_n = L(x, state_{n-1}),  λ_n = σ(w · s_n + b),  H_n = λ_1 + ... + λ_n
///   N = the first n with H_n >= 1 - ε, at most M        R = 1 - H_{N-1}
///   y = Σ_{n<N} λ_n s_n + R s_N,    ponder cost ρ = N + R, to the loss τ mean ρ
///
///   x [T x in], y [T x D]; each row thinks for itself, from rest. w [D], b [1].
///
/// Graves, arXiv:1603.08983. L may be any layer with memory: a GRU, a Sequential, a state space.

#include <cmath>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/prepared.hpp>
#include <limen/exit/ponder_steps.hpp>

namespace limen::inline LIMEN_ABI {

struct AdaptiveComputationConfig {
  Index most = 10;        ///< M
  double epsilon = 0.01;  ///< ε, so that one step can be enough
  double tau = 0;         ///< τ, price of thinking: backward adds the gradient of τ mean ρ
};

template <AdaptiveComputationConfig C, class L>
struct AdaptiveComputation {
  static_assert(detail::compose<L>());
  static_assert(C.most >= 1, "AdaptiveComputation: .most must be at least 1");
  static_assert(C.epsilon > 0 && C.epsilon < 1,
                "AdaptiveComputation: .epsilon must be between 0 and 1");
  static_assert(!std::is_empty_v<typename L::State>,
                "AdaptiveComputation: the layer must have memory, or its steps are all the same");
  static_assert(Streaming<L>, "AdaptiveComputation: the layer must have a step");

  static constexpr AdaptiveComputationConfig config = C;
  static constexpr Index in = L::in, D = L::out, out = D, M = C.most;
  static constexpr bool work_depends_on_data = true;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = AdaptiveComputation<C, typename L::template with_scalar<T>>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  L inner;
  Tensor<Real, D> halt;     ///< w
  Tensor<Real, 1> urgency;  ///< b

  template <class F, class... A>
  static constexpr void visit(F&& f, A&... a) {
    f("inner", a.inner...);
    f("halt", a.halt...);
    f("urgency", a.urgency...);
  }

  /// b = 1: few steps at the start.
  static AdaptiveComputation initialized(Random& random) {
    AdaptiveComputation layer{.inner = L::initialized(random), .halt = {}, .urgency = {}};
    fill_uniform(layer.halt, 1 / std::sqrt(double{D}), random);
    fill(layer.urgency, 1);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    auto y = Sequence<Real, D>::zeros(x.rows());
    Buffer<double> sum(x.rows());  // H of the rows that are still there
    for (double& h : sum) h = 0;
    const bool ran = detail::ponder(
        inner, x, M, batch.context,
        [&](Index t, Index i, Index n, VectorView<Real, D> s) {
          return think(s, n, sum[i], y.row_data(t));
        },
        [&](const Index* kept, Index stay) { compact_values(sum.data(), kept, stay); });
    if (!ran) return {};
    return y;
  }

  Vector<Real, D> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> y{};
    typename L::State state{};
    double sum = 0;
    for (Index n = 1; !think(inner.step(x, state), n, sum, y.data()); ++n) {
    }
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    detail::cache_of<L> inner;
    Sequence<Real, D> s;    ///< [T M x D]
    Buffer<double> lambda;  ///< [T M]
    Buffer<Index> steps;    ///< [T], N
    double ponder = 0;      ///< mean ρ
  };

  Sequence<Real, D> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires Trainable<L>
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const Index rows = x.rows();
    const auto offsets = detail::equal_offsets(rows, M);
    cache.s =
        inner.forward(detail::repeat_rows(SequenceView<Real, in>(x), M),
                      detail::from_rest_at<typename L::State>(offsets, batch.context), cache.inner);
    if (!LIMEN_EXCEPTIONS && cache.s.rows() != rows * M) return {};
    cache.lambda = Buffer<double>(rows * M);
    cache.steps = Buffer<Index>(rows);
    cache.ponder = 0;
    auto y = Sequence<Real, D>::zeros(rows);
    for (Index t = 0; t < rows; ++t) {
      double sum = 0, before = 0;
      for (Index n = 1;; ++n) {
        const auto s = std::as_const(cache.s).row(t * M + n - 1);
        before = sum;
        const bool done = think(s, n, sum, y.row_data(t));
        cache.lambda[t * M + n - 1] = sum - before;
        if (done) {
          cache.steps[t] = n;
          break;
        }
      }
      cache.ponder += static_cast<double>(cache.steps[t]) + 1 - before;
    }
    if (rows > 0) cache.ponder /= static_cast<double>(rows);
    return y;
  }

  /// With p_n = λ_n (n < N), p_N = R, and N constant:
  ///   dλ_n = dy · (s_n - s_N) - τ / T (n < N),  dλ_N = 0,  da_n = dλ_n λ_n (1 - λ_n)
  ///   ds_n = p_n dy + da_n w,  dw = Σ da_n s_n,  db = Σ da_n
  Sequence<Real, in> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                              AdaptiveComputation& gradient) const
    requires Trainable<L>
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.steps.size())) return {};
    const FlushDenormals guard;
    const Index rows = dy.rows();
    const double price = rows > 0 ? config.tau / static_cast<double>(rows) : 0;
    auto ds = Sequence<Real, D>::zeros(rows * M);
    for (Index t = 0; t < rows; ++t) {
      const Index last = cache.steps[t] - 1;
      const auto s_last = cache.s.row(t * M + last);
      double rest = 1;
      for (Index n = 0; n <= last; ++n) {
        const auto s = cache.s.row(t * M + n);
        const double lambda = cache.lambda[t * M + n], p = n < last ? lambda : rest;
        double d_lambda = n < last ? -price : 0;
        for (Index d = 0; n < last && d < D; ++d) {
          d_lambda += static_cast<double>(dy(t, d)) * static_cast<double>(s[d] - s_last[d]);
        }
        const Real da = static_cast<Real>(d_lambda * lambda * (1 - lambda));
        Real* to = ds.row_data(t * M + n);
        for (Index d = 0; d < D; ++d) {
          to[d] = static_cast<Real>(p) * dy(t, d) + da * halt[d];
          gradient.halt[d] += da * s[d];
        }
        gradient.urgency[0] += da;
        rest -= lambda;
      }
    }
    const auto offsets = detail::equal_offsets(rows, M);
    const auto dx =
        inner.backward(ds, detail::from_rest_at<typename L::State>(offsets, batch.context),
                       cache.inner, gradient.inner);
    return detail::sum_repeats(dx, M);
  }

 private:
  /// Step n: adds p_n s_n to y, λ_n to `sum`. Is the row done? NaN thinks to the end.
  template <class S>
  bool think(const S& s, Index n, double& sum, Real* y) const noexcept {
    double a = static_cast<double>(urgency[0]);
    for (Index d = 0; d < D; ++d) a += static_cast<double>(halt[d]) * static_cast<double>(s[d]);
    const double lambda = 1 / (1 + std::exp(-a));
    const bool done = sum + lambda >= 1 - config.epsilon || n == M;
    const Real p = static_cast<Real>(done ? 1 - sum : lambda);
    for (Index d = 0; d < D; ++d) y[d] += p * s[d];
    sum += lambda;
    return done;
  }
};

}  // namespace limen::inline LIMEN_ABI
