#pragma once
/// @file  What a combinator refuses, and how it says so.
///
/// A rule broken is the first line of the compiler's output, in words, with what was found:
///
///   error: ... layer<3>, gives<64>, layer<4>, takes<32> ...: Sequential: each layer must fit the
///   next
///
/// A bare static_assert shows the words without the numbers in g++ 12, so there a rule is a
/// function that is not available.

#include <type_traits>

#include <limen/core/layer.hpp>

#if defined(__clang__)
#define LIMEN_RULE(Name, words)                 \
  template <bool holds, class... Found>         \
  struct Name {                                 \
    static constexpr bool ok = true;            \
  };                                            \
  template <class... Found>                     \
  struct Name<false, Found...> {                \
    static_assert(never_with<Found...>, words); \
    static constexpr bool ok = true;            \
  }
#else
#define LIMEN_RULE(Name, words)                                   \
  template <class... Found>                                       \
  [[gnu::unavailable(words)]] constexpr bool Name##_broken_by() { \
    return true;                                                  \
  }                                                               \
  template <bool holds, class... Found>                           \
  struct Name {                                                   \
    static constexpr bool ok = true;                              \
  };                                                              \
  template <class... Found>                                       \
  struct Name<false, Found...> {                                  \
    static constexpr bool ok = Name##_broken_by<Found...>();      \
  }
#endif

namespace limen::inline LIMEN_ABI {
namespace detail {

// Words of the findings.
template <std::size_t I>
struct layer;
template <Index D>
struct takes;
template <Index D>
struct gives;

template <class... Found>
inline constexpr bool never_with = false;

LIMEN_RULE(is_a_layer, "what is composed must be a layer");
LIMEN_RULE(one_scalar, "layers that are composed must have one scalar type");
LIMEN_RULE(has_a_step, "step: every layer must have one; this one needs the whole sequence");

template <class L>
concept Composable = requires {
  typename L::Scalar;
  typename L::State;
  L::in;
  L::out;
};

template <class Positions, class... Layers>
struct RulesOf;
template <std::size_t... I, class... Layers>
struct RulesOf<std::index_sequence<I...>, Layers...> {
  static constexpr bool layers = (is_a_layer<Composable<Layers>, layer<I>, Layers>::ok && ...);

  template <class First>
  static constexpr bool scalars =
      (one_scalar<std::is_same_v<typename First::Scalar, typename Layers::Scalar>, layer<0>,
                  typename First::Scalar, layer<I>, typename Layers::Scalar>::ok &&
       ...);

  static constexpr bool steps() {
    return (has_a_step<Streaming<Layers>, layer<I>, Layers>::ok && ...);
  }
};
template <class... Layers>
using Rules = RulesOf<std::index_sequence_for<Layers...>, Layers...>;

/// All are layers, and of one scalar type.
template <class First, class... Layers>
constexpr bool compose() {
  using R = Rules<First, Layers...>;
  return R::layers && R::template scalars<First>;
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
