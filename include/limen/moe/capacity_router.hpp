#pragma once
/// @file  No expert takes more rows than its capacity; the others are dropped.
///
///   C_e = max(least, round(factor T / (E r_e)))        T rows of a sequence (.count_choices: T K)
///   r_e = cost_e / mean cost, or 1                     E experts
///
///     CapacityRouter<CapacityRouterConfig{.factor = 1.25}, TopKRouter<...>>
///
/// All first choices come before all second ones, and so on; among them rows in order, or by
/// falling weight of their first choice (.by_weight). A choice that is dropped gives nothing and
/// has no slope, the weights of the others stay as they are; a row of which all were dropped gives
/// 0, and a residual carries it. So what a row gets depends on the rest of its sequence. The losses
/// and the balance bias of the router inside count all choices.
///
/// It drops while training; in inference only with .inference, and then there is no step.
///
/// Lepikhin et al., "GShard", arXiv:2006.16668, algorithm 1. Fedus, Zoph & Shazeer, "Switch
/// Transformers", arXiv:2101.03961, section 2.2. .by_weight: Riquelme et al., arXiv:2106.05974.

#include <algorithm>
#include <cmath>

#include <limen/core/memory.hpp>
#include <limen/moe/losses.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI {

enum class CapacityRounding {
  up,       ///< Megatron
  nearest,  ///< flaxformer
};

struct CapacityRouterConfig {
  double factor = 1.25;                              ///< 1: just enough if all are equal
  Index least = 0;                                   ///< 4 in flaxformer
  CapacityRounding rounding = CapacityRounding::up;  ///< to a whole number
  bool count_choices = false;                        ///< multiply by K
  bool by_weight = false;                            ///< the surest rows first
  bool whole_batch = false;                          ///< sequences share the capacity
  bool inference = false;                            ///< drop then, too
  ExpertCosts cost = {};  ///< equal work, not equal rows; what costs nothing has room for all
};

template <CapacityRouterConfig C, class R>
struct CapacityRouter {
  static_assert(Router<R>, "CapacityRouter: the second argument must be a router");
  static_assert(C.factor > 0, "CapacityRouter: .factor must be positive");
  static_assert(C.least >= 0, "CapacityRouter: .least must not be negative");

  static constexpr CapacityRouterConfig config = C;
  static_assert(detail::costs_fit(config.cost, R::experts),
                "CapacityRouter: .cost needs one number for each expert, none negative");
  static constexpr Index in = R::in, own = detail::own_columns<R>;
  static constexpr Index experts = R::experts, slots = R::slots, E = experts, K = slots;
  static constexpr bool causal = R::causal && !C.inference;
  static constexpr bool uses_every_slot = R::uses_every_slot && !C.inference;
  using Scalar = typename R::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = CapacityRouter<C, typename R::template with_scalar<T>>;

  R router;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    R::visit(f, l.router...);
  }

  static CapacityRouter initialized(Random& random) { return {R::initialized(random)}; }

  /// C_e for so many rows; 0: there is room for none.
  static constexpr Index capacity(Index rows, Index e = 0) {
    double wanted = config.factor * static_cast<double>(C.count_choices ? rows * K : rows) /
                    static_cast<double>(E);
    if constexpr (by_cost) {
      double sum = 0;
      for (const double c : config.cost) sum += c;
      const double cost = config.cost[static_cast<std::size_t>(e)];
      if (cost == 0) return rows;
      wanted = std::min(wanted * sum / (cost * static_cast<double>(E)), static_cast<double>(rows));
    }
    const Index whole = static_cast<Index>(wanted);
    const double rest = wanted - static_cast<double>(whole);
    const bool more = C.rounding == CapacityRounding::up
                          ? rest > 0
                          : rest > 0.5 || (rest == 0.5 && whole % 2 == 1);  // to even, as NumPy
    return std::max(C.least, whole + more);
  }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen) const {
    if (!router.route(x, run, chosen)) return false;
    if constexpr (C.inference) return drop(run, x.rows(), chosen) >= 0;
    return true;
  }
  void route_row(VectorView<Real, in> x, std::int32_t* ids, Real* weights) const noexcept
    requires(StreamingRouter<R> && causal)
  {
    router.route_row(x, ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Chosen wanted;  ///< before any was dropped
    typename R::Cache router;
    Index dropped = 0;  ///< choices
    double loss = 0;
  };

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const
    requires TrainableRouter<R>
  {
    if (!router.route(x, run, cache.wanted, cache.router)) return false;
    cache.loss = cache.router.loss;
    chosen.resize(x.rows());
    std::copy_n(cache.wanted.expert.data(), x.rows() * K, chosen.expert.data());
    std::copy_n(cache.wanted.weight.data(), x.rows() * K, chosen.weight.data());
    cache.dropped = drop(run, x.rows(), chosen);
    return cache.dropped >= 0;
  }

  /// What was dropped has the slope 0 already.
  void backward(SequenceView<Real, in> x, const RoutingRun& run, const Chosen&, const Cache& cache,
                const Sequence<Real, K>& dweight, CapacityRouter& gradient,
                Sequence<Real, in>& dx) const
    requires TrainableRouter<R>
  {
    router.backward(x, run, cache.wanted, cache.router, dweight, gradient.router, dx);
  }

 private:
  static constexpr bool by_cost = config.cost != ExpertCosts{};

  /// How many choices were dropped; -1 after an error.
  static Index drop(const RoutingRun& run, Index rows, Chosen& chosen) {
    if constexpr (C.whole_batch) return drop(Index{0}, rows, chosen);
    Index dropped = 0;
    for (Index b = 0; b < run.sequences; ++b) {
      const Index more = drop(run.begin(b), run.end(b, rows), chosen);
      if (more < 0) return -1;
      dropped += more;
    }
    return dropped;
  }

  static Index drop(Index first, Index end, Chosen& chosen) {
    const Index rows = end - first;
    if (rows == 0) return 0;
    Index left[E];  // what there is room for
    for (Index e = 0; e < E; ++e) left[e] = capacity(rows, by_cost ? e : 0);
    if (*std::min_element(left, left + E) < 1) {
      fail({"CapacityRouter: capacity for " + std::to_string(rows) + " rows and " +
                std::to_string(E) + " experts",
            "1 or more", "0"});
      return -1;
    }
    Buffer<Index> order(C.by_weight ? rows : 0);
    if constexpr (C.by_weight) {
      for (Index i = 0; i < rows; ++i) order[i] = first + i;
      const auto sure = [&](Index t) {  // NaN last
        const Real w = chosen.weight(t, 0);
        return w == w ? w : -std::numeric_limits<Real>::infinity();
      };
      std::sort(order.begin(), order.end(),
                [&](Index a, Index b) { return sure(a) != sure(b) ? sure(a) > sure(b) : a < b; });
    }
    Index dropped = 0;
    for (Index j = 0; j < K; ++j) {
      for (Index i = 0; i < rows; ++i) {
        const Index t = C.by_weight ? order[i] : first + i;
        std::int32_t& e = chosen.expert[t * K + j];
        if (e < 0 || left[e]-- > 0) continue;
        e = -1;
        chosen.weight(t, j) = 0;
        ++dropped;
      }
    }
    return dropped;
  }
};

}  // namespace limen::inline LIMEN_ABI
