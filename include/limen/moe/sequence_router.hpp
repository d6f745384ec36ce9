#pragma once
/// @file  One choice for a whole sequence, by the mean of its rows.
///
///   S, w = route(m),  m = mean_t x_t         x [T x D]; every row gets the same S and w
///
///     SequenceRouter<ContrastiveRouter<...>>       the "hard" router of T2MIR
///
/// Around any router; experts see x. The router inside sees one row for each sequence, and so do
/// its losses. A choice sees the whole sequence, so there is no step: a mean of the rows so far
/// would choose otherwise than training has. A sequence without rows is skipped.
///
/// Wu et al., "Mixture-of-experts meets in-context reinforcement learning" (T2MIR),
/// arXiv:2506.05426.

#include <algorithm>

#include <limen/core/memory.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI {

template <class R>
struct SequenceRouter {
  static_assert(Router<R>, "SequenceRouter: the argument must be a router");
  static_assert(detail::own_columns<R> == 0,
                "SequenceRouter: there is no mean of the router's own columns");

  static constexpr Index D = R::in, in = D, experts = R::experts, slots = R::slots, K = slots;
  static constexpr bool causal = false, uses_every_slot = R::uses_every_slot;
  using Scalar = typename R::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = SequenceRouter<typename R::template with_scalar<T>>;

  R router;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    R::visit(f, l.router...);
  }

  static SequenceRouter initialized(Random& random) { return {R::initialized(random)}; }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    const Means means(x, run);
    Chosen of;
    if (!router.route(means.m, means.run(run), of)) return false;
    means.share(of, run, x.rows(), chosen);
    return true;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  /// One row for each sequence that has rows.
  struct Means {
    Sequence<Real, D> m;
    Buffer<Index> offsets;  ///< [B + 1] of m
    Buffer<Index> first;    ///< [rows of m] the first row of the sequence, for messages

    Means() = default;
    Means(SequenceView<Real, D> x, const RoutingRun& run)
        : offsets(run.sequences + 1), first(run.sequences) {
      Index full = 0;
      for (Index b = 0; b < run.sequences; ++b) {
        offsets[b] = full;
        full += run.end(b, x.rows()) > run.begin(b) ? 1 : 0;
      }
      offsets[run.sequences] = full;
      m = Sequence<Real, D>::zeros(full);
      for (Index b = 0; b < run.sequences; ++b) {
        const Index begin = run.begin(b), end = run.end(b, x.rows()), i = offsets[b];
        if (begin == end) continue;
        first[i] = run.numbers == nullptr ? begin : run.numbers[begin];
        for (Index t = begin; t < end; ++t) {
          for (Index d = 0; d < D; ++d) m(i, d) += x(t, d) / static_cast<Real>(end - begin);
        }
      }
    }

    RoutingRun run(const RoutingRun& all) const {
      return {offsets.data(), all.sequences, all.context, first.data()};
    }

    /// f(i, t) for row t, whose sequence is row i of m.
    template <class F>
    void for_each_row(const RoutingRun& all, Index rows, F f) const {
      for (Index b = 0; b < all.sequences; ++b) {
        for (Index t = all.begin(b), end = all.end(b, rows); t < end; ++t) f(offsets[b], t);
      }
    }

    void share(const Chosen& of, const RoutingRun& all, Index rows, Chosen& chosen) const {
      chosen.resize(rows);
      for_each_row(all, rows, [&](Index i, Index t) {
        std::copy_n(of.expert.data() + i * K, K, chosen.expert.data() + t * K);
        std::copy_n(of.weight.row(i).data(), K, chosen.weight.row_data(t));
      });
    }
  };

  struct Cache {
    Means means;
    Chosen chosen;  ///< of each sequence
    typename R::Cache router;
    double loss = 0;
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const
    requires TrainableRouter<R>
  {
    cache.means = Means(x, run);
    const Means& means = cache.means;
    if (!router.route(means.m, means.run(run), cache.chosen, cache.router)) return false;
    cache.loss = cache.router.loss;
    means.share(cache.chosen, run, x.rows(), chosen);
    return true;
  }

  /// dw = Σ_t dw_t,  dx_t += dm / T
  void backward(SequenceView<Real, D> x, const RoutingRun& run, const Chosen&, const Cache& cache,
                const Sequence<Real, K>& dweight, SequenceRouter& gradient,
                Sequence<Real, D>& dx) const
    requires TrainableRouter<R>
  {
    const Means& means = cache.means;
    auto dw = Sequence<Real, K>::zeros(means.m.rows());
    auto dm = Sequence<Real, D>::zeros(means.m.rows());
    Buffer<Index> rows(means.m.rows());
    for (Index& n : rows) n = 0;
    means.for_each_row(run, x.rows(), [&](Index i, Index t) {
      for (Index j = 0; j < K; ++j) dw(i, j) += dweight(t, j);
      ++rows[i];
    });
    router.backward(means.m, means.run(run), cache.chosen, cache.router, dw, gradient.router, dm);
    means.for_each_row(run, x.rows(), [&](Index i, Index t) {
      for (Index d = 0; d < D; ++d) dx(t, d) += dm(i, d) / static_cast<Real>(rows[i]);
    });
  }
};

}  // namespace limen::inline LIMEN_ABI
