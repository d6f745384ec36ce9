#pragma once
/// @file  A layer that a row has skipped takes note of it, so that later rows find it there.
///
///     note(layer, x, state)     state as after step(x, state), y not wanted
///
/// What comes after the last memory is not computed: of Residual<Sequential<Norm, Attention, Map>>
/// the norm and, where the layer has a `note` of its own, its keys and values. Of others it is a
/// step. CALM (Schuster et al., arXiv:2207.07061, section 3.3): the tokens that go deeper attend to
/// the last state of those that did not.

#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>

namespace limen::inline LIMEN_ABI {

enum class Skipped {
  still,  ///< memory stands still: a layer knows the rows that reached it
  note    ///< it takes note of the last x there was: every layer knows every row
};

template <class L>
void note(const L& layer, VectorView<typename L::Scalar, L::in> x,
          typename L::State& state) noexcept {
  if constexpr (!std::is_empty_v<typename L::State>) {
    if constexpr (requires { layer.note(x, state); }) {
      layer.note(x, state);
    } else {
      layer.step(x, state);
    }
  }
}

template <class L>
void note(const Residual<L>& layer, VectorView<typename L::Scalar, L::in> x,
          typename L::State& state) noexcept {
  note(layer.inner, x, state);
}

namespace detail {
/// One past the last layer with memory.
template <class... Layers>
inline constexpr std::size_t memory_ends = [] {
  std::size_t i = 0, end = 0;
  ((++i, end = std::is_empty_v<typename Layers::State> ? end : i), ...);
  return end;
}();

template <std::size_t I, class X, class... Layers>
void note_through(const Sequential<Layers...>& all, const X& x,
                  typename Sequential<Layers...>::State& state) noexcept {
  if constexpr (I + 1 == memory_ends<Layers...>) {
    note(get<I>(all.layers),
         VectorView<typename Sequential<Layers...>::Scalar, X::size()>(x.data()), get<I>(state));
  } else if constexpr (I + 1 < memory_ends<Layers...>) {
    note_through<I + 1>(all, get<I>(all.layers).step(x, get<I>(state)), state);
  }
}
}  // namespace detail

template <class... Layers>
void note(const Sequential<Layers...>& layer,
          VectorView<typename Sequential<Layers...>::Scalar, Sequential<Layers...>::in> x,
          typename Sequential<Layers...>::State& state) noexcept {
  detail::note_through<0>(layer, x, state);
}

}  // namespace limen::inline LIMEN_ABI
