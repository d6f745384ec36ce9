#pragma once
/// @file  Which parts of an EarlyExit are exits, and what it refuses.

#include <array>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

/// A head between the layers of an EarlyExit: it looks at the rows, and they pass.
template <class Head>
struct Exit {
  static_assert(detail::compose<Head>());
  static constexpr Index in = Head::in, out = Head::out;
  using Scalar = typename Head::Scalar;
  using State = typename Head::State;
  using Cache = detail::cache_of<Head>;
  template <class T>
  using with_scalar = Exit<typename Head::template with_scalar<T>>;

  Head head;

  /// As if the head stood here alone.
  template <class F, class... E>
  static constexpr void visit(F&& f, E&... e) {
    Head::visit(f, e.head...);
  }
  template <class H>
  void prepare_from(const Exit<H>& learned) {
    prepare_into(head, learned.head);
  }
  static Exit initialized(Random& random) { return {Head::initialized(random)}; }
};

namespace detail {

template <class P>
inline constexpr bool is_exit = false;
template <class H>
inline constexpr bool is_exit<Exit<H>> = true;

/// The layer that runs: of an exit its head.
template <class P>
struct RunsAs {
  using type = P;
};
template <class H>
struct RunsAs<Exit<H>> {
  using type = H;
};
template <class P>
using runs_as = typename RunsAs<P>::type;
template <class P>
constexpr auto& layer_of(P& part) {
  if constexpr (is_exit<std::remove_const_t<P>>) {
    return part.head;
  } else {
    return part;
  }
}

LIMEN_RULE(ends_with_a_head, "EarlyExit: no head at the end; the last part must be an Exit");
LIMEN_RULE(one_head_at_a_depth, "EarlyExit: two heads at one depth; put a layer between them");
LIMEN_RULE(exit_after_a_layer, "EarlyExit: the first part must be a layer, not an Exit");
LIMEN_RULE(parts_fit, "EarlyExit: each layer and each head must fit the layer before it");
LIMEN_RULE(heads_agree, "EarlyExit: all heads must give the same classes");

template <class... Parts>
struct ExitPlan {
  static constexpr std::size_t depth = sizeof...(Parts);
  static constexpr std::array<bool, depth> exit_at{is_exit<Parts>...};
  static constexpr std::array<Index, depth> takes_at{Parts::in...}, gives_at{Parts::out...};

  static constexpr Index exits = (Index{is_exit<Parts>} + ...);
  static constexpr Index classes = gives_at[depth - 1];

  /// The layer whose rows part i is given: the one before it that is no exit.
  static constexpr std::array<std::size_t, depth> before = [] {
    std::array<std::size_t, depth> b{};
    for (std::size_t i = 1; i < depth; ++i) b[i] = exit_at[i - 1] ? b[i - 1] : i - 1;
    return b;
  }();
  /// Which exit part i is, or leads to.
  static constexpr std::array<Index, depth> exit_of = [] {
    std::array<Index, depth> e{};
    for (std::size_t i = 1; i < depth; ++i) e[i] = e[i - 1] + Index{exit_at[i - 1]};
    return e;
  }();

  static constexpr bool sound() {
    if constexpr (!ends_with_a_head<exit_at[depth - 1], layer<depth - 1>>::ok ||
                  !exit_after_a_layer<!exit_at[0], layer<0>>::ok) {
      return false;
    } else {
      return [&]<std::size_t... I>(std::index_sequence<I...>) {
        return (one_head_at_a_depth<!(exit_at[I] && exit_at[I + 1]), layer<I>, layer<I + 1>>::ok &&
                ... && true) &&
               (parts_fit < takes_at[I + 1] == gives_at[before[I + 1]], layer<before[I + 1]>,
                gives<gives_at[before[I + 1]]>, layer<I + 1>,
                takes < takes_at[I + 1] >> ::ok && ... && true) &&
               (heads_agree < !exit_at[I] || gives_at[I] == classes, layer<I>, gives<gives_at[I]>,
                layer<depth - 1>, gives < classes >> ::ok && ... && true);
      }(std::make_index_sequence<depth - 1>{});
    }
  }
};

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
