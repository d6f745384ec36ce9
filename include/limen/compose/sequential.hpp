#pragma once
/// @file  One layer after another: Sequential<A, B, C> is x -> C(B(A(x))).
///
///     using Model = Sequential<Linear<in>, Activate<bend>, Linear<out>>;
///     get<2>(model.layers).bias[0] = 1;     // the layer at position 2, in checkpoints "2.bias"

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

LIMEN_RULE(fits_the_next, "Sequential: each layer must fit the next");

template <class... Layers>
constexpr bool fit_in_a_row() {
  constexpr Index takes_at[] = {Layers::in...}, gives_at[] = {Layers::out...};
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return (fits_the_next < gives_at[I] == takes_at[I + 1], layer<I>, gives<gives_at[I]>,
            layer<I + 1>, takes < takes_at[I + 1] >> ::ok && ... && true);
  }(std::make_index_sequence<sizeof...(Layers) - 1>{});
}

}  // namespace detail

template <class... Layers>
struct Sequential {
  static_assert(sizeof...(Layers) > 0, "Sequential: needs at least one layer");
  static_assert(detail::compose<Layers...>() && detail::fit_in_a_row<Layers...>());
  static constexpr std::size_t depth = sizeof...(Layers);
  using First = typename detail::FirstOf<Layers...>::type;

  static constexpr Index in = First::in, out = detail::last({Layers::out...});
  using Scalar = typename First::Scalar;
  template <class T>
  using with_scalar = Sequential<typename Layers::template with_scalar<T>...>;

  Pack<Layers...> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    detail::visit_parts<depth>(f, m.layers...);
  }

  static Sequential initialized(Random& random) {
    return {detail::initialized_parts<Layers...>(random)};
  }

  static constexpr Index macs(Index rows) { return (limen::macs<Layers>(rows) + ...); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = Pack<typename Layers::State...>;

  Sequence<Scalar, out> forward(SequenceView<Scalar, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};  // also where no layer has a memory, and asks
    const FlushDenormals guard;
    return through<0>(x, batch);
  }

  Vector<Scalar, out> step(VectorView<Scalar, in> x, State& state) const noexcept
    requires(Streaming<Layers> && ...)
  {
    const FlushDenormals guard;
    return step_through<0>(x, state);
  }

  template <class... Asked>
  Vector<Scalar, out> step(Asked&&...) const
    requires(!(Streaming<Layers> && ...))
  {
    static_assert(detail::Rules<Layers...>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = Pack<detail::cache_of<Layers>...>;

  /// What a layer gives is moved into the next one's cache.
  Sequence<Scalar, out> forward(Sequence<Scalar, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Layers> && ...)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return through<0>(std::move(x), batch, cache);
  }

  Sequence<Scalar, in> backward(SequenceView<Scalar, out> dy, Batch<State> batch,
                                const Cache& cache, Sequential& gradient) const
    requires(Trainable<Layers> && ...)
  {
    const FlushDenormals guard;
    return back_through<depth - 1>(dy, batch, cache, gradient);
  }

 private:
  /// The layers from I on, with a cache or without.
  template <std::size_t I, class X, class... C>
  // NOLINTNEXTLINE(performance-unnecessary-value-param): the memory of x serves the layers to come
  Sequence<Scalar, out> through(X x, const Batch<State>& batch, C&... cache) const {
    const Index rows = x.rows();
    detail::TapScope scope(batch.context, detail::position_names<depth>[I]);
    auto y =
        get<I>(layers).forward(std::move(x), scope.of(detail::part_of<I>(batch)), get<I>(cache)...);
    if constexpr (I + 1 == depth) {
      return y;
    } else {
      if (!LIMEN_EXCEPTIONS && y.rows() != rows) return {};  // the layer has reported why
      x = X();                                               // its memory serves the layers to come
      return through<I + 1>(std::move(y), batch, cache...);
    }
  }

  template <std::size_t I, class X>
  Vector<Scalar, out> step_through(const X& x, State& state) const noexcept {
    const auto y = get<I>(layers).step(x, get<I>(state));
    if constexpr (I + 1 == depth) {
      return y;
    } else {
      return step_through<I + 1>(y, state);
    }
  }

  template <std::size_t I, class DY>
  // NOLINTNEXTLINE(performance-unnecessary-value-param)
  Sequence<Scalar, in> back_through(DY dy, const Batch<State>& batch, const Cache& cache,
                                    Sequential& gradient) const {
    detail::TapScope scope(batch.context, detail::position_names<depth>[I]);
    auto dx = get<I>(layers).backward(dy, scope.of(detail::part_of<I>(batch)), get<I>(cache),
                                      get<I>(gradient.layers));
    if constexpr (I == 0) {
      return dx;
    } else {
      dy = DY();
      return back_through<I - 1>(std::move(dx), batch, cache, gradient);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
