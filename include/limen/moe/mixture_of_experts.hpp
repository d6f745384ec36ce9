#pragma once
/// @file  A router chooses experts for each row, and only those run.
///
///   y_t = Σ_{e ∈ S_t} w_te f_e(x_t)        S_t, w_t from the router;  x [T x in], y [T x out]
///
///     using Expert = GatedLinear<GatedLinearConfig{.d_model = 512, .d_hidden = 1024}>;
///     using Route = TopKRouter<TopKRouterConfig{.d_model = 512, .n_experts = 8}>;
///     MixtureOfExperts<Route, Expert>          eight of a kind
///     MixtureOfExperts<Route3, A, B, C>        three kinds
///
/// Any layers can be experts. The rows of an expert are gathered, pass it together, and come back
/// weighted; an expert without rows costs nothing. Sums run over ascending experts, so neither the
/// threads nor the order of the choice change a bit. An expert with memory remembers the rows it
/// saw, as if the others had not been: its state stands still in between.
///
/// A listener of the run (Context::taps) hears who was chosen: moe/measures.hpp.
///
/// A router may have columns of its own behind those of the experts: the number of a token, or of a
/// task. Experts do not see them.
///
/// Jacobs et al., "Adaptive mixtures of local experts", Neural Computation 3 (1991). Shazeer et
/// al., "Outrageously large neural networks", arXiv:1701.06538, equation 1.

#include <array>
#include <string>
#include <utility>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/dispatch.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/moe/experts.hpp>
#include <limen/moe/router.hpp>
#include <limen/moe/tell.hpp>

namespace limen::inline LIMEN_ABI {

template <class R, class... Layers>
struct MixtureOfExperts {
  static_assert(Router<R>, "MixtureOfExperts: the first argument must be a router");
  static_assert(sizeof...(Layers) > 0, "MixtureOfExperts: needs at least one expert");
  static_assert(detail::compose<Layers...>() && detail::fit_as_experts<Layers...>());
  using Set = detail::Experts<R::experts, Layers...>;
  using First = typename detail::FirstOf<Layers...>::type;

  static constexpr Index E = R::experts, K = R::slots, in = R::in, out = First::out;
  static constexpr Index W = First::in;  ///< columns that experts take
  using Scalar = typename First::Scalar;
  using Real = Scalar;
  static_assert(in == W + detail::own_columns<R>,
                "MixtureOfExperts: router and experts must take the same width, but for the "
                "router's own columns");
  static_assert(std::is_same_v<typename R::Scalar, Real>,
                "MixtureOfExperts: router and experts must have one scalar type");
  template <class T>
  using with_scalar = MixtureOfExperts<typename R::template with_scalar<T>,
                                       typename Layers::template with_scalar<T>...>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  R router;
  Set experts;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("gate", m.router...);
    f("experts", m.experts...);
  }

  static MixtureOfExperts initialized(Random& random) {
    MixtureOfExperts layer;
    layer.router = R::initialized(random);
    layer.experts = Set::initialized(random);
    return layer;
  }

  static constexpr bool work_depends_on_data = sizeof...(Layers) > 1 || !R::uses_every_slot;
  static constexpr Index macs(Index rows) { return rows * (E * in + K * Set::macs_of_row); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename Set::States;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Assignment<Real, K> chosen;
    if (!router.route(x, run_of(batch), chosen)) return {};
    detail::tell_choice<E>(batch.context, chosen);
    const Dispatch plan = plan_of(chosen, x.rows(), batch);
    if (!sound(plan)) return {};
    Rows<out> o(plan);
    const bool all = serve<out>(plan, batch, o, [&](auto e, Index i, auto part) {
      const auto& layer = Set::part(experts.layers, e);
      const SequenceView<Real, W> seen(x.data(), x.rows(), x.stride());
      if (plan.takes_all(i)) return layer.forward(seen, part);
      Sequence<Real, W> mine(plan.count(i));
      gather_rows(seen.matrix(), plan.rows_of(i), mine.matrix());
      return layer.forward(SequenceView<Real, W>(mine), part);
    });
    return all ? weighted_sum(plan, o, chosen, x.rows()) : Sequence<Real, out>();
  }

  /// Allocates nothing; touches the weights of the chosen experts only.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(StreamingRouter<R> && (Streaming<Layers> && ...))
  {
    const FlushDenormals guard;
    std::int32_t ids[K];
    Real weights[K];
    router.route_row(x, ids, weights);
    for (Index j = 1; j < K; ++j) {  // experts ascending, as in forward
      for (Index i = j; i > 0 && ids[i] < ids[i - 1]; --i) {
        std::swap(ids[i], ids[i - 1]);
        std::swap(weights[i], weights[i - 1]);
      }
    }
    Vector<Real, out> y{};
    for (Index j = 0; j < K; ++j) {
      if (ids[j] < 0) continue;
      Set::at(ids[j], [&](auto e) {
        const auto o =
            Set::part(experts.layers, e).step(VectorView<Real, W>(x.data()), Set::part(state, e));
        const simd::Vec<Real> w(weights[j]);
        simd::for_each<Real>(out, [&](Index d, auto load, auto store) {
          store(y.data() + d, simd::fma(w, load(o.data() + d), load(y.data() + d)));
        });
      });
    }
    return y;
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const
    requires(!(StreamingRouter<R> && (Streaming<Layers> && ...)))
  {
    static_assert(StreamingRouter<R>,
                  "MixtureOfExperts: this router looks at whole sequences, there is no step");
    static_assert(detail::Rules<Layers...>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  template <Index Width>
  struct Rows {  ///< [places x Width], by expert
    Rows() = default;
    explicit Rows(const Dispatch& plan) : row(plan.places()) {}

    std::array<Sequence<Real, Width>, std::size_t{E}> of;
    Buffer<const Real*> row;
  };

  struct Cache {
    Sequence<Real, in> x;        ///< [T x in]
    Assignment<Real, K> chosen;  ///< who takes which row
    Dispatch plan;
    Rows<out> o;  ///< f_e(x_t)
    detail::cache_of<R> router;
    typename Set::Caches experts;

    /// What the router's auxiliary losses came to; backward adds their slope by itself.
    double loss() const { return router.loss; }
    /// How many rows expert e took.
    Index load(Index e) const { return plan.count(e); }
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(TrainableRouter<R> && (Trainable<Layers> && ...))
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    if (!router.route(x, run_of(batch), cache.chosen, cache.router)) return {};
    detail::tell_choice<E>(batch.context, cache.chosen);
    cache.plan = plan_of(cache.chosen, x.rows(), batch);
    const Dispatch& plan = cache.plan;
    if (!sound(plan)) return {};
    cache.o = Rows<out>(plan);
    const bool all = serve<out>(plan, batch, cache.o, [&](auto e, Index i, auto part) {
      Sequence<Real, W> mine(plan.count(i));
      gather_rows(std::as_const(x).matrix(), plan.rows_of(i), mine.matrix());
      return Set::part(experts.layers, e)
          .forward(std::move(mine), part, Set::part(cache.experts, e));
    });
    if (!all) return {};
    const Index rows = x.rows();
    cache.x = std::move(x);
    return weighted_sum(plan, cache.o, cache.chosen, rows);
  }

  /// dw_te = ⟨dy_t, f_e(x_t)⟩,  df_e(x_t) = w_te dy_t,  dx_t = Σ_S f_e'ᵀ df_e + router'ᵀ dw_t
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              MixtureOfExperts& gradient) const
    requires(TrainableRouter<R> && (Trainable<Layers> && ...))
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const Dispatch& plan = cache.plan;
    Sequence<Real, K> dweight(dy.rows());
    pairwise_dots(plan, cache.o.row.data(), dy.matrix(), dweight.matrix());
    Rows<W> d(plan);
    const bool all = serve<W>(plan, batch, d, [&](auto e, Index i, auto part) {
      Sequence<Real, out> mine(plan.count(i));
      gather_weighted(plan, i, dy.matrix(), cache.chosen.weight.data(), mine.matrix());
      return Set::part(experts.layers, e)
          .backward(mine, part, Set::part(cache.experts, e), Set::part(gradient.experts.layers, e));
    });
    if (!all) return {};
    auto dx = W < in ? Sequence<Real, in>::zeros(dy.rows()) : Sequence<Real, in>(dy.rows());
    combine(plan, d.row.data(), static_cast<const Real*>(nullptr), dx.matrix().middle_cols(0, W));
    router.backward(cache.x, run_of(batch), cache.chosen, cache.router, dweight, gradient.router,
                    dx);
    return dx;
  }

 private:
  static RoutingRun run_of(const Batch<State>& batch) {
    return {batch.offsets(), batch.count(), batch.context};
  }
  static Dispatch plan_of(const Assignment<Real, K>& chosen, Index rows,
                          const Batch<State>& batch) {
    return {chosen.expert.data(), rows, K, E, batch.offsets(), batch.count()};
  }

  static bool sound(const Dispatch& plan) {
    const Index i = plan.fault();
    if (i < 0) return true;
    fail({"MixtureOfExperts", "an expert below " + std::to_string(E),
          "another one at row " + std::to_string(i / K) + ", choice " + std::to_string(i % K)});
    return false;
  }

  /// run(position, e, batch of the expert) for each expert with rows; their results to `rows`.
  template <Index Width, class Run>
  static bool serve(const Dispatch& plan, const Batch<State>& batch, Rows<Width>& rows, Run run) {
    const bool alone = batch.context != nullptr &&
                       (batch.context->taps != nullptr || batch.context->random != nullptr);
    // 0.02 ns: a multiply-accumulate of a well-fed core.
    constexpr double macs_of_row =
        static_cast<double>(Set::macs_of_row > 0 ? Set::macs_of_row : W * out);
    const detail::ExpertShares shares(plan, 0.02 * macs_of_row, alone);
    if (shares.parallel()) {  // this thread will free them, so it is to take them
      for (Index e = 0; e < E; ++e) {
        if (plan.count(e) > 0) rows.of[std::size_t(e)] = Sequence<Real, Width>(plan.count(e));
      }
    }
    return shares.run([&](Index e) {
      Sequence<Real, Width>& to = rows.of[static_cast<std::size_t>(e)];
      Set::at(e, [&](auto position) {
        detail::TapScope scope(batch.context, detail::position_names<Set::count>[position]);
        auto result = run(position, e, scope.of(part(batch, position).over(plan.offsets(e))));
        if (shares.parallel() && result.rows() == to.rows()) {
          copy_rows(std::as_const(result).matrix(), to.matrix());
        } else {
          to = std::move(result);
        }
      });
      if (to.rows() != plan.count(e)) return false;
      for (Index i = 0; i < to.rows(); ++i) rows.row[plan.begin(e) + i] = to.row(i).data();
      return true;
    });
  }

  template <class Position>
  static auto part(const Batch<State>& batch, Position e) {
    return batch.part([e](State& s) -> auto& { return Set::part(s, e); });
  }

  static Sequence<Real, out> weighted_sum(const Dispatch& plan, const Rows<out>& o,
                                          const Assignment<Real, K>& chosen, Index rows) {
    Sequence<Real, out> y(rows);
    combine(plan, o.row.data(), chosen.weight.data(), y.matrix());
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
