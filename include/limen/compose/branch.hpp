#pragma once
/// @file  Each row passes one of several layers, and its numbers say which.
///
///   y_t = L_k(x_t),   k = Choose()(x_t)        x [T x in], y [T x out]
///
///       struct Loud {
///         template <class Real>
///         bool operator()(VectorView<Real, 8> x) const { return x[0] > Real(0.5); }
///       };
///       using Model = Branch<Loud, Cheap, Dear>;        // loud rows are dear
///
/// Only the layer that is chosen runs. A layer with memory remembers the rows that it saw, as if
/// the others had not been: its state stands still in between. `Choose` is fixed and has no
/// gradient; dx is exact wherever a small change of x changes no choice.

#include <limen/compose/routes.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

template <class Choose, class... Layers>
struct Branch {
  static_assert(sizeof...(Layers) > 0, "Branch: needs at least one alternative");
  static_assert(detail::compose<Layers...>() && detail::fit_as_alternatives<Layers...>());
  using Ways = detail::Alternatives<Layers...>;

  static constexpr Index in = Ways::in, out = Ways::out;
  static constexpr bool work_depends_on_data = true;
  using Scalar = typename Ways::Real;
  using Real = Scalar;
  template <class T>
  using with_scalar = Branch<Choose, typename Layers::template with_scalar<T>...>;
  static_assert(std::is_invocable_r_v<Index, const Choose&, VectorView<Real, in>>,
                "Branch: Choose must give a number for a row, a VectorView<Scalar, in>");

  Pack<Layers...> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    detail::visit_parts<Ways::count>(f, m.layers...);
  }

  static Branch initialized(Random& random) {
    return {detail::initialized_parts<Layers...>(random)};
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename Ways::States;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto routes = routes_of(x, batch);
    if (!routes.known("Branch")) return {};
    return Ways::forward(layers, routes, x, batch);
  }

  /// NaN where `Choose` gives a number that no alternative has.
  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(Streaming<Layers> && ...)
  {
    const FlushDenormals guard;
    return Ways::step(layers, static_cast<Index>(Choose()(x)), x, state);
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
    cache.routes = routes_of(x, batch);
    if (!cache.routes.known("Branch")) return {};
    return Ways::forward(layers, cache.routes, std::move(x), batch, cache.parts);
  }

  /// dx_t = L_k'(x_t)ᵀ dy_t
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Branch& gradient) const
    requires(Trainable<Layers> && ...)
  {
    if (!batch.fits(dy.rows())) return {};
    const FlushDenormals guard;
    return Ways::backward(layers, cache.routes, dy, batch, cache.parts, gradient.layers);
  }

 private:
  static detail::Routes routes_of(SequenceView<Real, in> x, const Batch<State>& batch) {
    return {Index{Ways::count}, batch.offsets(), batch.count(), x.rows(),
            [&](Index, Index t) { return static_cast<Index>(Choose()(x.row(t))); }};
  }
};

}  // namespace limen::inline LIMEN_ABI
