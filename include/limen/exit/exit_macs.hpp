#pragma once
/// @file  What a run with early exits has cost, in multiply-accumulates (core/macs.hpp).
///
///     executed_macs<Net>(left, offsets)    what ran
///     dense_macs<Net>(rows)                the same network without exits, one sequence
///     exit_macs<Net>()                     C_k: a row that leaves at exit k, all heads asked
///
/// E.g. C = (0.2, 0.5, 1) and rows that left at 0, 0, 1, 2: a mean of 0.475.

#include <array>
#include <span>

#include <limen/exit/early_exit.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
/// f(part, I) for each part of an EarlyExit.
template <class Net, class F>
constexpr void for_each_exit_part(F f) {
  [&]<EarlyExitConfig C, class... Parts, std::size_t... I>(
      std::type_identity<EarlyExitWith<C, Parts...>>, std::index_sequence<I...>) {
    (f(std::type_identity<runs_as<Parts>>(), std::integral_constant<std::size_t, I>()), ...);
  }(std::type_identity<Net>(), std::make_index_sequence<Net::depth>());
}
}  // namespace detail

/// Of one sequence, run to the end, with the last head only.
template <class Net>
constexpr Index dense_macs(Index rows) {
  Index sum = 0;
  detail::for_each_exit_part<Net>(
      [&]<class P, std::size_t I>(std::type_identity<P>, std::integral_constant<std::size_t, I>) {
        if (I + 1 == Net::depth || !Net::Plan::exit_at[I]) sum += macs<P>(rows);
      });
  return sum;
}

/// [K], ascending: of one row.
template <class Net>
constexpr std::array<double, Net::exits> exit_macs() {
  std::array<double, Net::exits> cost{};
  double sum = 0;
  detail::for_each_exit_part<Net>(
      [&]<class P, std::size_t I>(std::type_identity<P>, std::integral_constant<std::size_t, I>) {
        sum += static_cast<double>(macs<P>(1));
        if (Net::Plan::exit_at[I]) cost[static_cast<std::size_t>(Net::Plan::exit_of[I])] = sum;
      });
  return cost;
}

/// `offsets`: those of the batch that ran; none: one sequence.
template <class Net>
Index executed_macs(const typename Net::Left& left, std::span<const Index> offsets = {}) {
  const Index one[] = {0, left.exit.size()};
  if (offsets.empty()) offsets = one;
  Index sum = 0;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    std::array<Index, Net::exits + 1> reach{};  // rows of this sequence that come to exit k
    for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
      for (Index k = 0; k <= left.exit[t]; ++k) ++reach[static_cast<std::size_t>(k)];
    }
    detail::for_each_exit_part<Net>(
        [&]<class P, std::size_t I>(std::type_identity<P>, std::integral_constant<std::size_t, I>) {
          const auto k = static_cast<std::size_t>(Net::Plan::exit_of[I]);
          if (reach[k] > 0 && (!Net::Plan::exit_at[I] || left.asked[k])) sum += macs<P>(reach[k]);
        });
  }
  return sum;
}

}  // namespace limen::inline LIMEN_ABI
