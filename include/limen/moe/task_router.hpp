#pragma once
/// @file  Routers that know the task of a row: its number stands in the last column.
///
///   TaskGates<N, R>          a router R for each of N tasks; the experts are shared
///   TaskGates<N, R, E>       the same for windows of E experts, as wide as R chooses from: that of
///                            task n starts at ⌊n (E - width) / (N - 1)⌋
///   TaskFeatures<C, R>       one router R, which sees [x, e_task]
///
///   e_task = LN(W₂ gelu(W₁ onehot(task) + b₁) + b₂)     W₁ [h x N], W₂ [d_task x h]
///
///     using R = TopKRouter<TopKRouterConfig{.d_model = 64, .n_experts = 16, .top_k = 4}>;
///     MixtureOfExperts<TaskGates<3, R>, Expert>           x [T x (64 + 1)]
///
/// A row of a task touches the router of this task and the experts that it picks, nothing else;
/// other routers have no gradient. Losses of the routers inside are added, each over the rows of
/// its task.
///
/// Liang et al., "M³ViT: mixture-of-experts vision transformer for efficient multi-task learning",
/// arXiv:2210.14793, section 3.

#include <array>
#include <utility>

#include <limen/compose/parts.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/kernel/dispatch.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/moe/router.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// The tasks [T] of rows whose column `column` holds them, as ids of a Dispatch. Reports and says
/// no if one is none.
template <class Real, Index D>
bool tasks_of(SequenceView<Real, D> x, Index column, Index tasks, Buffer<std::int32_t>& of) {
  if (of.size() != x.rows()) of = Buffer<std::int32_t>(x.rows());
  for (Index t = 0; t < x.rows(); ++t) {
    const Index task = whole_number(x(t, column), tasks);
    if (task < 0) return bad_number("task", t, tasks, static_cast<double>(x(t, column)));
    of[t] = static_cast<std::int32_t>(task);
  }
  return true;
}

}  // namespace detail

template <Index N, class R, Index E = R::experts>
struct TaskGates {
  static_assert(N > 0, "TaskGates: needs at least one task");
  static_assert(Router<R>, "TaskGates: the second argument must be a router");
  static_assert(detail::own_columns<R> == 0, "TaskGates: the router inside must take x alone");
  static_assert(E >= R::experts,
                "TaskGates: a window must not be wider than the experts there are");

  static constexpr Index D = R::in, in = D + 1, own = 1, tasks = N;
  static constexpr Index experts = E, slots = R::slots, K = slots;
  static constexpr bool causal = R::causal, uses_every_slot = R::uses_every_slot;
  using Scalar = typename R::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = TaskGates<N, typename R::template with_scalar<T>, E>;

  std::array<R, std::size_t{N}> gates;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    for (std::size_t n = 0; n < std::size_t{N}; ++n) {
      f(detail::position_names<std::size_t{N}>[n], l.gates[n]...);
    }
  }

  static TaskGates initialized(Random& random) {
    TaskGates router;
    for (R& gate : router.gates) gate = R::initialized(random);
    return router;
  }

  /// The first expert that task n can choose.
  static constexpr Index window(Index n) { return N == 1 ? 0 : n * (E - R::experts) / (N - 1); }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen) const {
    Buffer<std::int32_t> of;
    if (!detail::tasks_of(x, D, N, of)) return false;
    chosen.resize(x.rows());
    const Dispatch plan(of.data(), x.rows(), 1, N, run.offsets, run.sequences);
    for (Index n = 0; n < N; ++n) {
      if (plan.count(n) == 0) continue;
      Chosen mine;
      const auto rows = rows_of(plan, n, x);
      if (!gates[std::size_t(n)].route(rows, run_of(plan, n, run), mine)) return false;
      put(plan, n, mine, chosen);
    }
    return true;
  }

  /// NaN for a number that is no task.
  void route_row(VectorView<Real, in> x, std::int32_t* ids, Real* weights) const noexcept
    requires StreamingRouter<R>
  {
    const Index task = detail::whole_number(x[D], N), known = task < 0 ? 0 : task;
    gates[std::size_t(known)].route_row(VectorView<Real, D>(x.data()), ids, weights);
    for (Index j = 0; j < K; ++j) {
      ids[j] = in_window(known, ids[j]);
      if (task < 0) weights[j] = std::numeric_limits<Real>::quiet_NaN();
    }
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    struct Gate {
      Sequence<Real, D> x;
      Chosen chosen;
      typename R::Cache router;
    };
    Buffer<std::int32_t> task;
    Dispatch plan;
    std::array<Gate, std::size_t{N}> gates;
    double loss = 0;
  };

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const
    requires TrainableRouter<R>
  {
    if (!detail::tasks_of(x, D, N, cache.task)) return false;
    chosen.resize(x.rows());
    cache.plan = Dispatch(cache.task.data(), x.rows(), 1, N, run.offsets, run.sequences);
    cache.loss = 0;
    for (Index n = 0; n < N; ++n) {
      if (cache.plan.count(n) == 0) continue;
      auto& gate = cache.gates[std::size_t(n)];
      gate.x = rows_of(cache.plan, n, x);
      const auto part = run_of(cache.plan, n, run);
      if (!gates[std::size_t(n)].route(gate.x, part, gate.chosen, gate.router)) return false;
      put(cache.plan, n, gate.chosen, chosen);
      cache.loss += gate.router.loss;
    }
    return true;
  }

  void backward(SequenceView<Real, in>, const RoutingRun& run, const Chosen&, const Cache& cache,
                const Sequence<Real, K>& dweight, TaskGates& gradient, Sequence<Real, in>& dx) const
    requires TrainableRouter<R>
  {
    const Dispatch& plan = cache.plan;
    for (Index n = 0; n < N; ++n) {
      const Index count = plan.count(n);
      if (count == 0) continue;
      const auto& gate = cache.gates[std::size_t(n)];
      Sequence<Real, K> dw(count);
      Sequence<Real, D> d(count);
      gather_rows(dweight.matrix(), plan.rows_of(n), dw.matrix());
      gather_rows(std::as_const(dx).matrix(), plan.rows_of(n), d.matrix());
      gates[std::size_t(n)].backward(gate.x, run_of(plan, n, run), gate.chosen, gate.router, dw,
                                     gradient.gates[std::size_t(n)], d);
      scatter_rows(std::as_const(d).matrix(), plan.rows_of(n), dx.matrix());
    }
  }

 private:
  static Sequence<Real, D> rows_of(const Dispatch& plan, Index n, SequenceView<Real, in> x) {
    Sequence<Real, D> mine(plan.count(n));
    gather_rows(x.matrix(), plan.rows_of(n), mine.matrix());
    return mine;
  }
  static RoutingRun run_of(const Dispatch& plan, Index n, const RoutingRun& run) {
    return {plan.offsets(n), run.sequences, run.context, plan.rows_of(n)};
  }
  static void put(const Dispatch& plan, Index n, const Chosen& mine, Chosen& all) {
    scatter_rows(mine.weight.matrix(), plan.rows_of(n), all.weight.matrix());
    for (Index i = 0; i < plan.count(n); ++i) {
      const Index t = plan.rows_of(n)[i];
      for (Index j = 0; j < K; ++j) {
        all.expert[t * K + j] = in_window(n, mine.expert[i * K + j]);
      }
    }
  }
  static std::int32_t in_window(Index n, std::int32_t e) noexcept {
    return e < 0 ? e : e + static_cast<std::int32_t>(window(n));
  }
};

struct TaskFeaturesConfig {
  Index d_model = 0;   ///< D
  Index n_tasks = 0;   ///< N
  Index d_hidden = 0;  ///< h
  Index d_task = 0;    ///< width of e_task
};

template <TaskFeaturesConfig C, class R>
struct TaskFeatures {
  static_assert(C.d_model > 0, "TaskFeatures: .d_model must be positive");
  static_assert(C.n_tasks > 0, "TaskFeatures: .n_tasks must be positive");
  static_assert(C.d_hidden > 0 && C.d_task > 0,
                "TaskFeatures: .d_hidden and .d_task must be positive");
  static_assert(Router<R>, "TaskFeatures: the second argument must be a router");
  static_assert(R::in == C.d_model + C.d_task && detail::own_columns<R> == 0,
                "TaskFeatures: the router inside must take .d_model + .d_task columns");

  static constexpr TaskFeaturesConfig config = C;
  static constexpr Index D = C.d_model, N = C.n_tasks, M = R::in, in = D + 1, own = 1;
  static constexpr Index experts = R::experts, slots = R::slots, K = slots;
  static constexpr bool causal = R::causal, uses_every_slot = R::uses_every_slot;
  using Scalar = typename R::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = TaskFeatures<C, typename R::template with_scalar<T>>;
  using Features =
      Sequential<Linear<LinearConfig{.d_in = N, .d_out = C.d_hidden}, Real>,
                 Activate<ActivateConfig{.d = C.d_hidden, .activation = Activation::gelu}, Real>,
                 Linear<LinearConfig{.d_in = C.d_hidden, .d_out = C.d_task}, Real>,
                 LayerNorm<LayerNormConfig{.d = C.d_task}, Real>>;

  Features features;  ///< W₁, b₁, W₂, b₂ and the norm
  R router;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("task_features", l.features...);
    R::visit(f, l.router...);
  }

  static TaskFeatures initialized(Random& random) {
    TaskFeatures router;
    router.features = Features::initialized(random);
    router.router = R::initialized(random);
    return router;
  }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen) const {
    Buffer<std::int32_t> task;
    if (!detail::tasks_of(x, D, N, task)) return false;
    const auto e = forward(features, tasks());
    return router.route(joined(x, task, e), run, chosen);
  }

  /// NaN for a number that is no task.
  void route_row(VectorView<Real, in> x, std::int32_t* ids, Real* weights) const noexcept
    requires StreamingRouter<R>
  {
    const Index task = detail::whole_number(x[D], N);
    Vector<Real, N> one{};
    one[task < 0 ? 0 : task] = task < 0 ? std::numeric_limits<Real>::quiet_NaN() : Real(1);
    typename Features::State none{};
    const auto e = features.step(one, none);
    Vector<Real, M> both;
    for (Index d = 0; d < D; ++d) both[d] = x[d];
    for (Index d = D; d < M; ++d) both[d] = e[d - D];
    router.route_row(both, ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Buffer<std::int32_t> task;
    Sequence<Real, M> x;  ///< [x, e_task]
    typename Features::Cache features;
    typename R::Cache router;
    double loss = 0;
  };

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const
    requires TrainableRouter<R>
  {
    if (!detail::tasks_of(x, D, N, cache.task)) return false;
    const auto e = forward(features, tasks(), cache.features);
    cache.x = joined(x, cache.task, e);
    const bool routed = router.route(cache.x, run, chosen, cache.router);
    cache.loss = cache.router.loss;
    return routed;
  }

  void backward(SequenceView<Real, in>, const RoutingRun& run, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, TaskFeatures& gradient,
                Sequence<Real, in>& dx) const
    requires TrainableRouter<R>
  {
    auto d = Sequence<Real, M>::zeros(dx.rows());
    router.backward(cache.x, run, chosen, cache.router, dweight, gradient.router, d);
    auto de = Sequence<Real, C.d_task>::zeros(N);
    for (Index t = 0; t < dx.rows(); ++t) {
      for (Index i = 0; i < D; ++i) dx(t, i) += d(t, i);
      for (Index i = D; i < M; ++i) de(cache.task[t], i - D) += d(t, i);
    }
    limen::backward(features, de, cache.features, gradient.features);
  }

 private:
  /// onehot of every task
  static Sequence<Real, N> tasks() {
    auto all = Sequence<Real, N>::zeros(N);
    for (Index n = 0; n < N; ++n) all(n, n) = 1;
    return all;
  }
  static Sequence<Real, M> joined(SequenceView<Real, in> x, const Buffer<std::int32_t>& task,
                                  const Sequence<Real, C.d_task>& e) {
    Sequence<Real, M> both(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      for (Index d = 0; d < D; ++d) both(t, d) = x(t, d);
      for (Index d = D; d < M; ++d) both(t, d) = e(task[t], d - D);
    }
    return both;
  }
};

}  // namespace limen::inline LIMEN_ABI
