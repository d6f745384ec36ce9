#pragma once
/// @file  Each expert chooses the rows it likes best, the same number for all.
///
///   g = softmax(x Wᵀ)                 x [T x D], W [E x D], over experts
///   I_e = the C rows with the largest g_te of a sequence,   C = ⌈capacity T / E⌉, T its rows
///   y_t = Σ_{e: t ∈ I_e} g_te f_e(x_t)
///
/// Perfect balance without a loss; a row gets none to E experts, and 0 comes out for none. Equal
/// scores: the earlier row. A choice sees the whole sequence, so there is no step, and cutting a
/// sequence changes it: for encoders.
///
/// Zhou et al., "Mixture-of-experts with expert choice routing", arXiv:2202.09368, section 3.2.

#include <algorithm>

#include <limen/core/initialize.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/moe/router.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct ExpertChoiceRouterConfig {
  Index d_model = 0;                         ///< D
  Index n_experts = 0;                       ///< E
  double capacity = 2;                       ///< experts per row, on average
  BadScores bad_scores = BadScores::report;  ///< a row that can not be routed
};

template <ExpertChoiceRouterConfig C, class S = float>
struct ExpertChoiceRouter {
  static_assert(C.d_model > 0, "ExpertChoiceRouter: .d_model must be positive");
  static_assert(C.n_experts > 0, "ExpertChoiceRouter: .n_experts must be positive");
  static_assert(C.capacity > 0, "ExpertChoiceRouter: .capacity must be positive");

  static constexpr ExpertChoiceRouterConfig config = C;
  static constexpr Index D = C.d_model, E = C.n_experts, in = D;
  static constexpr Index experts = E, slots = E;  // slot e is expert e
  static constexpr bool causal = false, uses_every_slot = false;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = ExpertChoiceRouter<C, T>;

  Weight<S, E, D> weight;  ///< W

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
  }

  static ExpertChoiceRouter initialized(Random& random) {
    ExpertChoiceRouter router;
    fill_normal(router.weight, 0.02, random);
    return router;
  }

  /// C for a sequence of so many rows.
  static constexpr Index capacity(Index rows) {
    const double wanted = config.capacity * static_cast<double>(rows) / static_cast<double>(E);
    const Index whole = static_cast<Index>(wanted);
    return std::min(rows, whole + (wanted > static_cast<double>(whole)));
  }

  using Chosen = Assignment<Real, E>;
  struct Cache {
    Sequence<Real, E> g;
    double loss = 0;  ///< there is nothing to balance
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    Cache cache;
    return route(x, run, chosen, cache);
  }

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const {
    const Index rows = x.rows();
    cache.g = linear(x, weight);
    softmax(std::as_const(cache.g).matrix(), cache.g.matrix());
    chosen.resize(rows);
    std::fill_n(chosen.expert.data(), rows * E, std::int32_t{-1});
    std::copy_n(cache.g.data(), rows * E, chosen.weight.data());
    for (Index t = 0; t < rows; ++t) {  // softmax makes all of a row NaN, or none
      if (!std::isnan(cache.g(t, 0))) continue;
      if constexpr (C.bad_scores == BadScores::report) return detail::bad_scores(run, t, 1);
      chosen.expert[t * E] = 0;
    }
    Buffer<Index> order(rows);
    for (Index b = 0; b < run.sequences; ++b) {
      const Index first = run.begin(b), end = run.end(b, rows);
      for (Index e = 0; e < E; ++e) choose(cache.g, e, first, end, order.data(), chosen);
    }
    return true;
  }

  /// dz = g (dg - Σ g dg)
  void backward(SequenceView<Real, D> x, const RoutingRun&, const Chosen&, const Cache& cache,
                const Sequence<Real, E>& dweight, ExpertChoiceRouter& gradient,
                Sequence<Real, D>& dx) const {
    Sequence<Real, E> dz(x.rows());
    softmax_backward(cache.g.matrix(), dweight.matrix(), dz.matrix());
    add_linear_weight_gradient(dz, x, gradient.weight);
    add_linear_input_gradient(dz, weight, dx);
  }

 private:
  static void choose(const Sequence<Real, E>& g, Index e, Index first, Index end, Index* order,
                     Chosen& chosen) {
    Index count = 0;
    for (Index t = first; t < end; ++t) {
      if (!std::isnan(g(t, e))) order[count++] = t;
    }
    const Index taken = std::min(count, capacity(end - first));
    std::nth_element(order, order + taken, order + count, [&](Index a, Index b) {
      return g(a, e) != g(b, e) ? g(a, e) > g(b, e) : a < b;
    });
    for (Index i = 0; i < taken; ++i) {
      chosen.expert[order[i] * E + e] = static_cast<std::int32_t>(e);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
