#pragma once
/// @file  Choices made for all rows of a sequence together, so that experts are equally busy.
///
///   M = e^(z - max),  z = x Wᵀ                          x [T x D], W [E x D]
///   u = (1/T) / (M v),  v = (1/E) / (Mᵀ u)              until v stands still
///   S_t = top_K(M_t ⊙ v)                                training
///   S_t = top_K(z_t)                                    inference, and in step
///   w = σ(z_S) for K = 1, softmax(z)_S for more
///
/// Scaled by u and v, M gives each row the same mass and each expert the same: Sinkhorn's
/// iteration. The choice has no gradient, the weights have. Training is not inference: there the
/// choice sees the whole sequence. Strong preferences take long to even out: if v does not stand
/// still within .most_passes, that is an error, or with .accept_unsettled the choice that it has
/// come to, and the cache counts such sequences.
///
/// Clark et al., "Unified scaling laws for routed language models", arXiv:2202.01169, section 2.

#include <algorithm>
#include <cmath>
#include <string>

#include <limen/moe/top_k_router.hpp>

namespace limen::inline LIMEN_ABI {

struct SinkhornRouterConfig {
  Index d_model = 0;              ///< D
  Index n_experts = 0;            ///< E
  Index top_k = 1;                ///< K
  double tolerance = 1e-4;        ///< mean relative change of v at which it stands still
  Index most_passes = 100;        ///< so many must do
  bool accept_unsettled = false;  ///< or what they came to is good enough
};

namespace detail {

/// v [E] for z [T x E], and whether it stands still; m [T x E] becomes M, next [E] is scratch. (The
/// change is relative: the size of v drifts with the 1e-8 that keep it finite.)
template <class Real>
bool sinkhorn(std::type_identity_t<MatrixView<const Real>> z, double tolerance, Index most_passes,
              double* v, MatrixView<double> m, double* next) {
  const Index rows = z.rows, experts = z.cols;
  constexpr double tiny = 1e-8;
  for (Index t = 0; t < rows; ++t) {
    const Real most = *std::max_element(z.row(t), z.row(t) + experts);
    for (Index e = 0; e < experts; ++e) m(t, e) = std::exp(static_cast<double>(z(t, e) - most));
  }
  std::fill_n(v, experts, 1.0);
  for (Index pass = 0; pass < most_passes; ++pass) {
    std::fill_n(next, experts, tiny);
    for (Index t = 0; t < rows; ++t) {
      double sum = tiny;
      for (Index e = 0; e < experts; ++e) sum += m(t, e) * v[e];
      const double u = 1 / (static_cast<double>(rows) * sum);
      for (Index e = 0; e < experts; ++e) next[e] += m(t, e) * u;
    }
    double change = 0;
    for (Index e = 0; e < experts; ++e) {
      const double value = 1 / (static_cast<double>(experts) * next[e]);
      change += std::abs(value - v[e]) / (value * static_cast<double>(experts));
      v[e] = value;
    }
    if (change <= tolerance) return true;
  }
  return rows == 0;
}

}  // namespace detail

template <SinkhornRouterConfig C, class S = float>
struct SinkhornRouter {
  using Scores = TopKRouter<TopKRouterConfig{
                                .d_model = C.d_model,
                                .n_experts = C.n_experts,
                                .top_k = C.top_k,
                                .score = C.top_k == 1 ? RouterScore::sigmoid : RouterScore::softmax,
                                .normalise = false},
                            S>;

  static constexpr SinkhornRouterConfig config = C;
  static constexpr Index D = C.d_model, E = C.n_experts, K = C.top_k, in = D;
  static constexpr Index experts = E, slots = K;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = SinkhornRouter<C, T>;

  Scores scores;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    Scores::visit(f, l.scores...);
  }

  static SinkhornRouter initialized(Random& random) { return {Scores::initialized(random)}; }

  using Chosen = Assignment<Real, K>;
  struct Cache : Scores::Cache {
    Index unsettled = 0;  ///< sequences whose v did not stand still
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    return scores.route(x, run, chosen);
  }
  void route_row(VectorView<Real, D> x, std::int32_t* ids, Real* weights) const noexcept {
    scores.route_row(x, ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const {
    cache.unsettled = 0;
    const auto choose_all = [&](const Sequence<Real, E>& z, std::int32_t* ids) {
      for (Index b = 0; b < run.sequences; ++b) {
        const Index first = run.begin(b), end = run.end(b, z.rows());
        if (!choose(run, z, first, end, ids, cache.unsettled)) return false;
      }
      return true;
    };
    return scores.route_by(x, run, chosen, cache, choose_all);
  }

  void backward(SequenceView<Real, D> x, const RoutingRun& run, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, SinkhornRouter& gradient,
                Sequence<Real, D>& dx) const {
    scores.backward(x, run, chosen, cache, dweight, gradient.scores, dx);
  }

 private:
  static bool choose(const RoutingRun& run, const Sequence<Real, E>& z, Index first, Index end,
                     std::int32_t* ids, Index& unsettled) {
    for (Index t = first; t < end; ++t) {
      for (Index e = 0; e < E; ++e) {
        if (!std::isfinite(z(t, e))) return detail::bad_scores(run, t, E);
      }
    }
    const Index rows = end - first;
    Buffer<double> m(rows * E);
    const MatrixView<double> mass{m.data(), rows, E, E};
    double v[E], next[E], best[K];
    if (!detail::sinkhorn<Real>(z.matrix().middle_rows(first, rows), config.tolerance,
                                C.most_passes, v, mass, next)) {
      if constexpr (!C.accept_unsettled) return never_settled(run, first, end);
      ++unsettled;
    }
    for (Index t = 0; t < rows; ++t) {
      for (Index e = 0; e < E; ++e) mass(t, e) *= v[e];
      top_k(mass.row(t), E, K, ids + (first + t) * K, best);
    }
    return true;
  }

  static bool never_settled(const RoutingRun& run, Index first, Index end) {
    const auto name = [&](Index t) {
      return std::to_string(run.numbers == nullptr ? t : run.numbers[t]);
    };
    fail({"SinkhornRouter: rows " + name(first) + " to " + name(end - 1),
          "scores that even out within " + std::to_string(C.most_passes) + " passes",
          "stronger preferences"});
    return false;
  }
};

}  // namespace limen::inline LIMEN_ABI
