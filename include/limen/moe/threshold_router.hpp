#pragma once
/// @file  Experts that would count for little are left out, in inference.
///
///   S_t = { e ∈ S_t : w_te > θ }
///
///     ThresholdRouter<ThresholdRouterConfig{.least = 0.1}, TopKRouter<...>>
///
/// Around any router. Weights of the others stay what they are, and a row of which all were left
/// out gives 0; what is left out is not computed. Training is that of the router inside. A weight
/// that is NaN stays: what is broken must be seen.
///
/// Liang et al., "M³ViT", arXiv:2210.14793: θ = 0.1 in its code.

#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI {

struct ThresholdRouterConfig {
  double least = 0.1;  ///< θ
};

template <ThresholdRouterConfig C, class R>
struct ThresholdRouter {
  static_assert(Router<R>, "ThresholdRouter: the second argument must be a router");
  static_assert(C.least >= 0, "ThresholdRouter: .least must not be negative");

  static constexpr ThresholdRouterConfig config = C;
  static constexpr Index in = R::in, own = detail::own_columns<R>;
  static constexpr Index experts = R::experts, slots = R::slots, K = slots;
  static constexpr bool causal = R::causal, uses_every_slot = false;
  using Scalar = typename R::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = ThresholdRouter<C, typename R::template with_scalar<T>>;

  R router;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    R::visit(f, l.router...);
  }

  static ThresholdRouter initialized(Random& random) { return {R::initialized(random)}; }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen) const {
    if (!router.route(x, run, chosen)) return false;
    leave_out(x.rows() * K, chosen.expert.data(), chosen.weight.data());
    return true;
  }
  void route_row(VectorView<Real, in> x, std::int32_t* ids, Real* weights) const noexcept
    requires StreamingRouter<R>
  {
    router.route_row(x, ids, weights);
    leave_out(K, ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    typename R::Cache router;
    double loss = 0;
  };

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const
    requires TrainableRouter<R>
  {
    const bool routed = router.route(x, run, chosen, cache.router);
    cache.loss = cache.router.loss;
    return routed;
  }

  void backward(SequenceView<Real, in> x, const RoutingRun& run, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, ThresholdRouter& gradient,
                Sequence<Real, in>& dx) const
    requires TrainableRouter<R>
  {
    router.backward(x, run, chosen, cache.router, dweight, gradient.router, dx);
  }

 private:
  static void leave_out(Index n, std::int32_t* ids, Real* weights) noexcept {
    for (Index i = 0; i < n; ++i) {
      if (!(weights[i] <= static_cast<Real>(config.least))) continue;
      ids[i] = -1;
      weights[i] = 0;
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
