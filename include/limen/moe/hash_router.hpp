#pragma once
/// @file  A fixed table says which expert a token goes to.
///
///   S_t = h[v_t],  w_t = 1          x [T x (D + 1)]: the last column is the token's number v_t
///
/// Experts take the first D columns. The number may as well be that of the token before, or a
/// position: whatever the table is for. The table is part of the model and saved with it, never
/// learned. Nothing flows back.
///
/// Roller et al., "Hash layers for large sparse models", arXiv:2106.04426, section 3.

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI {

struct HashRouterConfig {
  Index d_model = 0;     ///< D
  Index vocabulary = 0;  ///< V
  Index n_experts = 0;   ///< E
};

template <HashRouterConfig C, class S = float>
struct HashRouter {
  static_assert(C.d_model > 0, "HashRouter: .d_model must be positive");
  static_assert(
      C.vocabulary > 0 && C.vocabulary <= Index{1} << 24,
      "HashRouter: .vocabulary must be positive, and a float counts exactly to 2^24 only");
  static_assert(C.n_experts > 0, "HashRouter: .n_experts must be positive");

  static constexpr HashRouterConfig config = C;
  static constexpr Index D = C.d_model, V = C.vocabulary, E = C.n_experts, in = D + 1, own = 1;
  static constexpr Index experts = E, slots = 1;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = HashRouter<C, T>;

  Statistic<Real, V> table;  ///< h

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("table", l.table...);
  }

  /// Every token to an expert drawn at random.
  static HashRouter initialized(Random& random) {
    HashRouter router;
    for (Real& h : router.table.flat()) h = static_cast<Real>(random.below(std::uint64_t{E}));
    return router;
  }

  /// Tokens by falling frequency [V], each to the expert that has least so far.
  static HashRouter balanced(std::span<const double> frequency) {
    HashRouter router;
    if (static_cast<Index>(frequency.size()) != V) {
      fail({"HashRouter: frequencies", std::to_string(V), std::to_string(frequency.size())});
      return router;
    }
    std::vector<std::size_t> order(frequency.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return frequency[a] != frequency[b] ? frequency[a] > frequency[b] : a < b;
    });
    double load[E] = {};
    for (const std::size_t v : order) {
      double* const least = std::min_element(load, load + E);
      *least += frequency[v];
      router.table[static_cast<Index>(v)] = static_cast<Real>(least - load);
    }
    return router;
  }

  using Chosen = Assignment<Real, 1>;
  struct Cache {
    double loss = 0;
  };

  bool route(SequenceView<Real, in> x, const RoutingRun&, Chosen& chosen) const {
    chosen.resize(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      const Index v = detail::whole_number(x(t, D), V);
      if (v < 0) return detail::bad_number("token", t, V, static_cast<double>(x(t, D)));
      const Index e = detail::whole_number(table[v], E);
      if (e < 0) {
        fail({"HashRouter: table[" + std::to_string(v) + "]",
              "an expert from 0 to " + std::to_string(E - 1), std::to_string(table[v])});
        return false;
      }
      chosen.expert[t] = static_cast<std::int32_t>(e);
      chosen.weight(t, 0) = 1;
    }
    return true;
  }

  bool route(SequenceView<Real, in> x, const RoutingRun& run, Chosen& chosen, Cache&) const {
    return route(x, run, chosen);
  }

  /// NaN for a number that is no token.
  void route_row(VectorView<Real, in> x, std::int32_t* ids, Real* weights) const noexcept {
    const Index v = detail::whole_number(x[D], V);
    const Index e = v < 0 ? -1 : detail::whole_number(table[v], E);
    ids[0] = static_cast<std::int32_t>(std::max(e, Index{0}));
    weights[0] = e < 0 ? std::numeric_limits<Real>::quiet_NaN() : Real(1);
  }

  void backward(SequenceView<Real, in>, const RoutingRun&, const Chosen&, const Cache&,
                const Sequence<Real, 1>&, HashRouter&, Sequence<Real, in>&) const {}
};

}  // namespace limen::inline LIMEN_ABI
