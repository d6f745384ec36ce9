#pragma once
/// @file  Rows shared out evenly while training, so that all of them together get what suits them
/// best; the best expert of each in inference.
///
///   max Σ_t A_{t,e(t)},  T / E rows for each expert,    A = x Cᵀ         training
///   e(t) = argmax A_t                                                    inference, and in step
///   w_t = σ(A_{t,e(t)})                                                  x [T x D], C [E x D]
///
/// The layer of the paper is a residual one: α f(x) + (1 - α) x with f(x) = x + g(x) is x + α g(x),
///
///     Residual<MixtureOfExperts<BaseRouter<...>, G>>
///
/// T is the length of a sequence, or of the whole batch, and a multiple of E. The choice has no
/// gradient, the weights have. Infinities and NaN count as the smallest number that there is.
///
/// Lewis et al., "BASE layers: simplifying training of large, sparse models", arXiv:2103.16716.

#include <algorithm>
#include <cmath>

#include <limen/kernel/assignment.hpp>
#include <limen/moe/top_k_router.hpp>

namespace limen::inline LIMEN_ABI {

struct BaseRouterConfig {
  Index d_model = 0;         ///< D
  Index n_experts = 0;       ///< E
  bool whole_batch = false;  ///< rows are shared out over all sequences together
};

template <BaseRouterConfig C, class S = float>
struct BaseRouter {
  using Scores = TopKRouter<TopKRouterConfig{.d_model = C.d_model,
                                             .n_experts = C.n_experts,
                                             .top_k = 1,
                                             .score = RouterScore::sigmoid,
                                             .normalise = false},
                            S>;

  static constexpr BaseRouterConfig config = C;
  static constexpr Index D = C.d_model, E = C.n_experts, K = 1, in = D;
  static constexpr Index experts = E, slots = K;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = BaseRouter<C, T>;

  Scores scores;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("expert_centroids", l.scores.weight...);
  }

  /// Orthogonal rows of length 0.1, as far as there are enough columns.
  static BaseRouter initialized(Random& random) {
    BaseRouter router;
    auto& c = router.scores.weight;
    for (Index e = 0; e < E; ++e) {
      double length = 0;
      while (!(length > 1e-6)) {
        for (Index d = 0; d < D; ++d) c(e, d) = static_cast<Real>(random.normal());
        for (int twice = 0; twice < 2; ++twice) {
          for (Index other = e / D * D; other < e; ++other) {
            double dot = 0;
            for (Index d = 0; d < D; ++d) {
              dot += 100 * static_cast<double>(c(e, d)) * static_cast<double>(c(other, d));
            }
            for (Index d = 0; d < D; ++d) c(e, d) -= static_cast<Real>(dot) * c(other, d);
          }
        }
        length = 0;
        for (Index d = 0; d < D; ++d) length += static_cast<double>(c(e, d) * c(e, d));
        length = std::sqrt(length);
      }
      for (Index d = 0; d < D; ++d) c(e, d) *= static_cast<Real>(0.1 / length);
    }
    return router;
  }

  using Chosen = Assignment<Real, 1>;
  using Cache = typename Scores::Cache;

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    return scores.route(x, run, chosen);
  }
  void route_row(VectorView<Real, D> x, std::int32_t* ids, Real* weights) const noexcept {
    scores.route_row(x, ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const {
    const auto choose = [&](const Sequence<Real, E>& a, std::int32_t* ids) {
      if constexpr (C.whole_batch) return share_out(run, a, 0, a.rows(), ids);
      for (Index b = 0; b < run.sequences; ++b) {
        if (!share_out(run, a, run.begin(b), run.end(b, a.rows()), ids)) return false;
      }
      return true;
    };
    if (!scores.route_by(x, run, chosen, cache, choose)) return false;
    for (Index t = 0; t < x.rows(); ++t) {
      if (std::isnan(chosen.weight(t, 0))) return detail::bad_scores(run, t, 1);
    }
    return true;
  }

  /// da = α (1 - α) dα,  dC_e += da x,  dx += da C_e
  void backward(SequenceView<Real, D> x, const RoutingRun& run, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, 1>& dweight, BaseRouter& gradient,
                Sequence<Real, D>& dx) const {
    scores.backward(x, run, chosen, cache, dweight, gradient.scores, dx);
  }

 private:
  static bool share_out(const RoutingRun& run, const Sequence<Real, E>& a, Index first, Index end,
                        std::int32_t* ids) {
    const Index rows = end - first;
    if (rows % E != 0) {
      fail({"BaseRouter: rows to share out", "a multiple of " + std::to_string(E) + " experts",
            std::to_string(rows)});
      return false;
    }
    Buffer<double> affinity(rows * E);
    double least = 0;
    bool any = false;
    for (Index t = first; t < end; ++t) {
      bool row = false;
      for (Index e = 0; e < E; ++e) {
        const double v = static_cast<double>(a(t, e));
        affinity[(t - first) * E + e] = v;
        if (!std::isfinite(v)) continue;
        least = any ? std::min(least, v) : v;
        row = any = true;
      }
      if (!row) return detail::bad_scores(run, t, 1);
    }
    for (double& v : affinity) v = std::isfinite(v) ? v : least;
    const BalancedAssignment best({affinity.data(), rows, E, E});
    for (Index t = 0; t < rows; ++t) {
      ids[first + t] = static_cast<std::int32_t>(best.expert(t));
    }
    return true;
  }
};

}  // namespace limen::inline LIMEN_ABI
