#pragma once
/// @file  Pack<A, B, C> holds an A, a B and a C, side by side. Unlike std::tuple it is trivially
/// copyable when its parts are, which states must be. Empty parts take no room: a pack of nothing
/// but empty ones is empty.

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

template <std::size_t I, class T>
struct PackPart {
  T value{};
};

/// What stands for every empty part of this type.
template <class T>
struct Nothing {
  static inline T value{};
};

// Types are looked up by overload resolution, which instantiates nothing per position: a model of
// 32 layers has a dozen packs of 32.
template <std::size_t I, class T>
struct PackType {
  using type = T;
};
template <class Positions, class... Ts>
struct PackTypes;
template <std::size_t... I, class... Ts>
struct PackTypes<std::index_sequence<I...>, Ts...> : PackType<I, Ts>... {};

template <std::size_t I, class T>
PackType<I, T> type_at(const PackType<I, T>&);

template <std::size_t I, class... Ts>
using PackElement = typename decltype(detail::type_at<I>(
    std::declval<PackTypes<std::index_sequence_for<Ts...>, Ts...>>()))::type;

/// Where the parts are that take room.
template <class... Ts>
struct PackPlan {
  static constexpr std::size_t count = (std::size_t{!std::is_empty_v<Ts>} + ... + 0);
  static constexpr auto at = [] {
    constexpr bool empty[] = {std::is_empty_v<Ts>..., true};
    std::array<std::size_t, count> positions{};
    for (std::size_t i = 0, n = 0; i < sizeof...(Ts); ++i) {
      if (!empty[i]) positions[n++] = i;
    }
    return positions;
  }();
};

// Empty parts are no bases: two of one type, in packs within packs, could not share an address.
template <class Solid, class... Ts>
struct PackOf;
template <std::size_t... J, class... Ts>
struct PackOf<std::index_sequence<J...>, Ts...>
    : PackPart<PackPlan<Ts...>::at[J], PackElement<PackPlan<Ts...>::at[J], Ts...>>... {};

}  // namespace detail

template <class... Ts>
struct Pack : detail::PackOf<std::make_index_sequence<detail::PackPlan<Ts...>::count>, Ts...> {};

template <std::size_t I, class... Ts>
constexpr detail::PackElement<I, Ts...>& get(Pack<Ts...>& pack) {
  using T = detail::PackElement<I, Ts...>;
  if constexpr (std::is_empty_v<T>) {
    return detail::Nothing<T>::value;
  } else {
    return static_cast<detail::PackPart<I, T>&>(pack).value;
  }
}
template <std::size_t I, class... Ts>
constexpr const detail::PackElement<I, Ts...>& get(const Pack<Ts...>& pack) {
  return get<I>(const_cast<Pack<Ts...>&>(pack));
}

}  // namespace limen::inline LIMEN_ABI
