#pragma once
/// @file  Noise on what a router sees, so that experts get rows they would not have got.
///
///   route(x ⊙ u),   u ~ uniform(1 - ε, 1 + ε)        while training, with a generator
///
/// Around any router; the experts see x. Without a generator in the run's Context, and in
/// inference, it is the router alone. A router's own columns are left as they are.
///
///     JitterRouter<JitterRouterConfig{.amount = 0.01}, TopKRouter<...>>
///
/// Fedus, Zoph & Shazeer, "Switch Transformers", arXiv:2101.03961, section 2.2 and appendix C.

#include <utility>

#include <limen/core/random.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI {

struct JitterRouterConfig {
  double amount = 1e-2;  ///< ε
};

template <JitterRouterConfig C, class R>
struct JitterRouter {
  static_assert(Router<R>, "JitterRouter: the second argument must be a router");
  static_assert(C.amount >= 0 && C.amount < 1, "JitterRouter: .amount must be in [0, 1)");

  static constexpr JitterRouterConfig config = C;
  static constexpr Index in = R::in, own = detail::own_columns<R>;
  static constexpr Index experts = R::experts, slots = R::slots, K = slots;
  static constexpr bool causal = R::causal, uses_every_slot = R::uses_every_slot;
  using Scalar = typename R::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = JitterRouter<C, typename R::template with_scalar<T>>;

  R router;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    R::visit(f, l.router...);
  }

  static JitterRouter initialized(Random& random) { return {R::initialized(random)}; }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen) const {
    return router.route(x, run, chosen);
  }
  void route_row(VectorView<Real, in> x, std::int32_t* ids, Real* weights) const noexcept
    requires StreamingRouter<R>
  {
    router.route_row(x, ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> u, x;  ///< x: with the noise; no rows without a generator
    typename R::Cache router;
    double loss = 0;
  };

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const
    requires TrainableRouter<R>
  {
    const bool draws =
        run.context != nullptr && run.context->random != nullptr && config.amount > 0;
    cache.u = cache.x = {};
    if (draws) {
      cache.u = Sequence<Real, in>(x.rows());
      cache.x = Sequence<Real, in>(x.rows());
      for (Index t = 0; t < x.rows(); ++t) {
        for (Index d = 0; d < in; ++d) {
          const bool noisy = d < in - own;
          const double u =
              noisy ? run.context->random->uniform(1 - config.amount, 1 + config.amount) : 1;
          cache.u(t, d) = static_cast<Real>(u);
          cache.x(t, d) = x(t, d) * cache.u(t, d);
        }
      }
    }
    const bool routed = router.route(draws ? cache.x : x, run, chosen, cache.router);
    cache.loss = cache.router.loss;
    return routed;
  }

  /// dx += u ⊙ d(x ⊙ u)
  void backward(SequenceView<Real, in> x, const RoutingRun& run, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, JitterRouter& gradient,
                Sequence<Real, in>& dx) const
    requires TrainableRouter<R>
  {
    if (cache.u.rows() != x.rows()) {
      router.backward(x, run, chosen, cache.router, dweight, gradient.router, dx);
      return;
    }
    auto d = Sequence<Real, in>::zeros(x.rows());
    router.backward(cache.x, run, chosen, cache.router, dweight, gradient.router, d);
    for (Index i = 0; i < d.size(); ++i) dx.data()[i] += cache.u.data()[i] * d.data()[i];
  }
};

}  // namespace limen::inline LIMEN_ABI
