#pragma once
/// @file  The inference form of a model: same layers, same faces but backward, weights in panels.
///
///     const auto fast = prepare(model);     // Sequential<Linear<c, Prepared<float>>, ...>
///     fast.step(x, state);                  // the state is the one of `model`
///
/// Packed weights are derived data. They live in a model of their own, with a type of its own, so
/// they are never saved, never part of a gradient, and stale only if somebody trains on and does
/// not prepare again. The scalar argument of a layer says which form it is: `float` learns,
/// `Prepared<float>` runs. Further storage (bf16, int8) comes through the same door.
///
/// A layer becomes preparable by two lines, `template <class T> using with_scalar = Linear<C, T>;`
/// and `using Scalar = real_of<S>;`, and Weight<S, O, I> for its matrices. `visit` of the learning
/// form pairs the members. A layer with a packed layout of its own (GRU) has
/// `prepare_from(const Learning&)` instead.

#include <concepts>
#include <string_view>
#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/tensor.hpp>

namespace limen::inline LIMEN_ABI {

/// As a layer's scalar: numbers of type Real, weights in panels.
template <class Real>
struct Prepared {};

template <class S>
inline constexpr bool is_prepared = false;
template <class Real>
inline constexpr bool is_prepared<Prepared<Real>> = true;

namespace detail {
template <class S>
struct RealOf {
  using type = S;
};
template <class R>
struct RealOf<Prepared<R>> {
  using type = R;
};
}  // namespace detail

/// float of float, and of Prepared<float>.
template <class S>
using real_of = typename detail::RealOf<S>::type;

template <class L>
using prepared_form = typename L::template with_scalar<Prepared<typename L::Scalar>>;

/// A layer whose `with_scalar` knows float and double only has no such form.
template <class L>
concept Preparable =
    requires { requires std::same_as<typename prepared_form<L>::Scalar, typename L::Scalar>; };

template <class To, class From>
void prepare_into(To& to, const From& from) {
  if constexpr (requires { to.prepare_from(from); }) {
    to.prepare_from(from);
  } else if constexpr (std::is_same_v<To, From>) {
    to = from;
  } else if constexpr (!is_absent<From>) {  // what a config left out has nothing to prepare
    From::visit(
        [](std::string_view, auto& packed, const auto& learned) { prepare_into(packed, learned); },
        to, from);
  }
}

/// The inference form of a model.
template <Preparable L>
prepared_form<L> prepare(const L& layer) {
  prepared_form<L> result;
  prepare_into(result, layer);
  return result;
}

}  // namespace limen::inline LIMEN_ABI
