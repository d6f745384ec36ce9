#pragma once
/// @file  One of several layers, and the caller says which: a setting of the stream.
///
///   y = L_k(x),   k = state.chosen        x [T x in], y [T x out]
///
///     using Amp = Switch<Clean, Crunch, Lead>;
///     Amp::State state{};        // at rest: Clean
///     state.chosen = 2;          // from the next step or chunk on: Lead
///
/// Only the layer that is chosen runs; the memory of the others stands still until they are chosen
/// again. Each sequence of a batch has a choice of its own. In backward `chosen` of the states is
/// not looked at: the cache knows.

#include <cstdint>

#include <limen/compose/routes.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

template <class... States>
struct SwitchState {
  std::int32_t chosen = 0;  ///< k
  Pack<States...> parts{};
};

template <class... Layers>
struct Switch {
  static_assert(sizeof...(Layers) > 0, "Switch: needs at least one alternative");
  static_assert(detail::compose<Layers...>() && detail::fit_as_alternatives<Layers...>());
  using Ways = detail::Alternatives<Layers...>;

  static constexpr Index in = Ways::in, out = Ways::out;
  static constexpr bool work_depends_on_data = true;
  using Scalar = typename Ways::Real;
  using Real = Scalar;
  template <class T>
  using with_scalar = Switch<typename Layers::template with_scalar<T>...>;

  Pack<Layers...> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    detail::visit_parts<Ways::count>(f, m.layers...);
  }

  static Switch initialized(Random& random) {
    return {detail::initialized_parts<Layers...>(random)};
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = SwitchState<typename Layers::State...>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto routes = routes_of(x.rows(), batch);
    if (!routes.known("Switch")) return {};
    return Ways::forward(layers, routes, x, parts_of(batch));
  }

  /// NaN where `chosen` is a number that no alternative has.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(Streaming<Layers> && ...)
  {
    const FlushDenormals guard;
    return Ways::step(layers, state.chosen, x, state.parts);
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const
    requires(!(Streaming<Layers> && ...))
  {
    static_assert(detail::Rules<Layers...>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    detail::Routes routes;
    typename Ways::Caches parts;
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Layers> && ...)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.routes = routes_of(x.rows(), batch);
    if (!cache.routes.known("Switch")) return {};
    return Ways::forward(layers, cache.routes, std::move(x), parts_of(batch), cache.parts);
  }

  /// dx = L_k'(x)ᵀ dy
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Switch& gradient) const
    requires(Trainable<Layers> && ...)
  {
    if (!batch.fits(dy.rows())) return {};
    const FlushDenormals guard;
    return Ways::backward(layers, cache.routes, dy, parts_of(batch), cache.parts, gradient.layers);
  }

 private:
  static auto parts_of(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return s.parts; });
  }

  static detail::Routes routes_of(Index rows, const Batch<State>& batch) {
    return {Index{Ways::count}, batch.offsets(), batch.count(), rows,
            [&](Index b, Index) { return batch.carries() ? Index{batch[b].chosen} : Index{0}; }};
  }
};

}  // namespace limen::inline LIMEN_ABI
