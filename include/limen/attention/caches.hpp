#pragma once
/// @file  The caches of a composed model, all at once.
///
///     copy_used(*state, *fork);           // a fork: only what has been written is copied
///     truncate(*state, 3);                // three tokens back, in every layer or in none
///     const auto bytes = save_used(*state);
///     load_used(bytes, *fork).value();    // all of it, or an error and nothing
///
/// The state of Sequential, Repeat, Parallel, Gated or Residual is made of those of their layers.
/// Of a KvCache the rows that were written are touched; other states are copied and saved whole.
/// They cannot be taken back: a model that has some goes back by a StateRing (core/state_ring.hpp).

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <limen/attention/kv_cache.hpp>
#include <limen/core/pack.hpp>

namespace limen::inline LIMEN_ABI {
namespace detail {

template <class State>
inline constexpr bool is_kv_cache = false;
template <KvCacheConfig C, class Stored>
inline constexpr bool is_kv_cache<KvCache<C, Stored>> = true;

/// f(part, part of other...) for what states are made of, in order, as long as f says yes.
template <class State>
struct StateParts {
  template <class F, class... S>
  static bool each(F& f, S&... states) {
    if constexpr (std::is_empty_v<State>) return true;
    if constexpr (!std::is_empty_v<State>) return f(states...);
  }
  static constexpr bool goes_back = std::is_empty_v<State> || is_kv_cache<State>;
};
template <class State, std::size_t count>
struct StateParts<std::array<State, count>> {
  template <class F, class... S>
  static bool each(F& f, S&... states) {
    for (std::size_t i = 0; i < count; ++i) {
      if (!StateParts<State>::each(f, states[i]...)) return false;
    }
    return true;
  }
  static constexpr bool goes_back = StateParts<State>::goes_back;
};
template <class... States>
struct StateParts<Pack<States...>> {
  template <class F, class... S>
  static bool each(F& f, S&... states) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return (each_at<I>(f, states...) && ...);
    }(std::index_sequence_for<States...>());
  }
  static constexpr bool goes_back = (StateParts<States>::goes_back && ...);

 private:
  template <std::size_t I, class F, class... S>
  static bool each_at(F& f, S&... states) {
    return StateParts<PackElement<I, States...>>::each(f, get<I>(states)...);
  }
};

template <class State, class F>
bool each_part(State& state, F f) {
  return StateParts<std::remove_const_t<State>>::each(f, state);
}

}  // namespace detail

/// Takes the last `tokens` back in every layer. False, and nothing happens, if one of them has
/// overwritten what came before.
template <class State>
bool truncate(State& state, std::int64_t tokens) noexcept {
  static_assert(
      detail::StateParts<State>::goes_back,
      "truncate: a layer's state is no KvCache and cannot be taken back; keep a StateRing");
  return detail::each_part(state, [&](auto& cache) { return cache.can_truncate(tokens); }) &&
         detail::each_part(state, [&](auto& cache) { return cache.truncate(tokens); });
}

/// to <- from, without the rows that were never written.
template <class State>
  requires(!detail::is_kv_cache<State>)
void copy_used(const State& from, State& to) noexcept {
  auto copy = [](const auto& a, auto& b) {
    using Part = std::remove_cvref_t<decltype(b)>;
    if constexpr (detail::is_kv_cache<Part>) {
      copy_used(a, b);
    } else {
      b = a;
    }
    return true;
  };
  detail::StateParts<State>::each(copy, from, to);
}

/// The parts one after the other: of each cache 8 bytes, how many follow, and what its `save`
/// gives; of others their bytes.
template <class State>
std::vector<std::byte> save_used(const State& state) {
  std::vector<std::byte> bytes;
  const auto add = [&](const void* from, std::size_t count) {
    const std::size_t at = bytes.size();
    bytes.resize(at + count);
    std::memcpy(bytes.data() + at, from, count);
  };
  detail::each_part(state, [&](const auto& part) {
    if constexpr (detail::is_kv_cache<std::remove_cvref_t<decltype(part)>>) {
      const auto saved = part.save();
      const std::uint64_t count = saved.size();
      add(&count, sizeof count);
      add(saved.data(), saved.size());
    } else {
      add(&part, sizeof part);
    }
    return true;
  });
  return bytes;
}

/// What `save_used` gave. Anything else is an error and leaves the state as it was.
template <class State>
Status load_used(std::span<const std::byte> bytes, State& state) {
  // First all of it is looked at, then it is taken.
  for (const bool take : {false, true}) {
    std::size_t at = 0;
    Status status;
    const auto next = [&](std::uint64_t count) {
      const std::size_t left = bytes.size() - at;
      if (count <= left) return true;
      status = Error{"state", std::to_string(count) + " bytes more", std::to_string(left)};
      return false;
    };
    detail::each_part(state, [&](auto& part) {
      if constexpr (detail::is_kv_cache<std::remove_cvref_t<decltype(part)>>) {
        std::uint64_t count = 0;
        if (!next(sizeof count)) return false;
        std::memcpy(&count, bytes.data() + at, sizeof count);
        at += sizeof count;
        if (!next(count)) return false;
        const auto saved = bytes.subspan(at, static_cast<std::size_t>(count));
        status = take ? part.load(saved) : part.can_load(saved);
        at += saved.size();
      } else {
        if (!next(sizeof part)) return false;
        if (take) std::memcpy(&part, bytes.data() + at, sizeof part);
        at += sizeof part;
      }
      return static_cast<bool>(status);
    });
    if (status && at != bytes.size()) {
      status = Error{"state", std::to_string(at) + " bytes", std::to_string(bytes.size())};
    }
    if (!status) return status;
  }
  return {};
}

}  // namespace limen::inline LIMEN_ABI
