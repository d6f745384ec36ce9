#pragma once
/// @file  Pack<A, B, C> holds an A, a B and a C, side by side. Unlike std::tuple it is trivially
/// copyable when its parts are, which states must be.

#include <cstddef>

#include <limen/core/config.hpp>

namespace limen::inline LIMEN_ABI {

template <class... Ts>
struct Pack {};

template <class T, class... Ts>
struct Pack<T, Ts...> {
  T first{};
  Pack<Ts...> rest{};
};

template <std::size_t I>
constexpr auto& get(auto& pack) {
  if constexpr (I == 0) {
    return pack.first;
  } else {
    return get<I - 1>(pack.rest);
  }
}

}  // namespace limen::inline LIMEN_ABI
