#pragma once
/// @file  Several layers that see the same x.
///
///   Parallel<Join::sum, A, B, C>        y = A(x) + B(x) + C(x)
///   Parallel<Join::product, A, B, C>    y = A(x) ⊙ B(x) ⊙ C(x)
///   Parallel<Join::concat, A, B, C>     y = [A(x), B(x), C(x)]        [T x (a + b + c)]

#include <array>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

/// How the outputs of Parallel are joined.
enum class Join { sum, product, concat };

namespace detail {

LIMEN_RULE(takes_the_same, "Parallel: all layers must take the same width");
LIMEN_RULE(gives_the_same,
           "Parallel: layers that are added or multiplied must give the same width");

template <Join how, class... Layers>
constexpr bool fit_side_by_side() {
  constexpr Index take[] = {Layers::in...}, give[] = {Layers::out...};
  constexpr bool any_width = how == Join::concat;
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return (takes_the_same < take[0] == take[I], layer<0>, takes<take[0]>, layer<I>,
            takes < take[I] >> ::ok && ...) &&
           (gives_the_same < any_width || give[0] == give[I], layer<0>, gives<give[0]>, layer<I>,
            gives < give[I] >> ::ok && ...);
  }(std::index_sequence_for<Layers...>{});
}

template <class... Layers>
struct ParallelCache {
  Pack<cache_of<Layers>...> parts;
  Pack<Sequence<typename Layers::Scalar, Layers::out>...> y;  ///< of each layer, for a product
};

}  // namespace detail

template <Join how, class... Layers>
struct Parallel {
  static_assert(sizeof...(Layers) > 0, "Parallel: needs at least one layer");
  static_assert(detail::compose<Layers...>() && detail::fit_side_by_side<how, Layers...>());
  static constexpr std::size_t count = sizeof...(Layers);
  static constexpr bool product = how == Join::product;
  static constexpr bool concat = how == Join::concat;

  static constexpr std::array<Index, count> widths{Layers::out...};
  static constexpr Index in = detail::last({Layers::in...});
  static constexpr Index out = concat ? (Layers::out + ...) : widths[0];
  using Scalar = typename detail::FirstOf<Layers...>::type::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Parallel<how, typename Layers::template with_scalar<T>...>;

  Pack<Layers...> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    detail::visit_parts<count>(f, m.layers...);
  }

  static Parallel initialized(Random& random) {
    return {detail::initialized_parts<Layers...>(random)};
  }

  static constexpr Index macs(Index rows) { return (limen::macs<Layers>(rows) + ...); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = Pack<typename Layers::State...>;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    Sequence<Real, out> y;
    const bool all = detail::every_position<count>(
        [&]<std::size_t I>(detail::Position<I>) { return join<I>(run<I>(x, batch), y, x.rows()); });
    if (!all) return {};
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(Streaming<Layers> && ...)
  {
    const FlushDenormals guard;
    Vector<Real, out> y;
    detail::every_position<count>([&]<std::size_t I>(detail::Position<I>) {
      join_rows<I>(get<I>(layers).step(x, get<I>(state)).matrix(), y.matrix());
      return true;
    });
    return y;
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const
    requires(!(Streaming<Layers> && ...))
  {
    static_assert(detail::Rules<Layers...>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = detail::ParallelCache<Layers...>;

  /// Each layer keeps an x of its own; the last one gets ours.
  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Layers> && ...)
  {
    const FlushDenormals guard;
    const Index rows = x.rows();
    Sequence<Real, out> y;
    const bool all = detail::every_position<count>([&]<std::size_t I>(detail::Position<I>) {
      const auto own = [&] {
        if constexpr (I + 1 < count) {
          return Sequence<Real, in>(x);
        } else {
          return std::move(x);
        }
      };
      auto part = run<I>(own(), batch, get<I>(cache.parts));
      if constexpr (product) get<I>(cache.y) = part;
      return join<I>(std::move(part), y, rows);
    });
    if (!all) return {};
    return y;
  }

  /// Sum: dy goes to all.  Concat: to each its columns.  Product: dy ⊙ what the others gave.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Parallel& gradient) const
    requires(Trainable<Layers> && ...)
  {
    if constexpr (product) {
      if (!fits_cache(dy.rows(), get<0>(cache.y).rows())) return {};
    }
    const FlushDenormals guard;
    Sequence<Real, in> dx;
    const bool all = detail::every_position<count>([&]<std::size_t I>(detail::Position<I>) {
      detail::TapScope scope(batch.context, detail::position_names<count>[I]);
      auto part = get<I>(layers).backward(share<I>(dy, cache), scope.of(detail::part_of<I>(batch)),
                                          get<I>(cache.parts), get<I>(gradient.layers));
      if (part.rows() != dy.rows()) return false;
      if constexpr (I == 0) {
        dx = std::move(part);
      } else {
        add_rows(part.matrix(), dx.matrix());
      }
      return true;
    });
    if (!all) return {};
    return dx;
  }

 private:
  template <std::size_t I>
  static constexpr Index column() {
    Index before = 0;
    for (std::size_t i = 0; i < I; ++i) before += widths[i];
    return before;
  }

  /// Layer I, with a cache or without.
  template <std::size_t I, class X, class... C>
  auto run(X x, const Batch<State>& batch, C&... cache) const {
    detail::TapScope scope(batch.context, detail::position_names<count>[I]);
    return get<I>(layers).forward(std::move(x), scope.of(detail::part_of<I>(batch)), cache...);
  }

  /// False if the layer failed.
  template <std::size_t I>
  static bool join(Sequence<Real, widths[I]> part, Sequence<Real, out>& y, Index rows) {
    if (part.rows() != rows) return false;
    if constexpr (I == 0 && !concat) {
      y = std::move(part);
    } else {
      if constexpr (I == 0) y = Sequence<Real, out>(rows);
      join_rows<I>(std::as_const(part).matrix(), y.matrix());
    }
    return true;
  }

  template <std::size_t I>
  static void join_rows(MatrixView<const Real> part, MatrixView<Real> y) noexcept {
    if constexpr (concat) {
      copy_rows(part, y.middle_cols(column<I>(), widths[I]));
    } else if constexpr (I == 0) {
      copy_rows(part, y);
    } else if constexpr (product) {
      multiply_rows(part, y);
    } else {
      add_rows(part, y);
    }
  }

  /// The gradient of what layer I gave: a view, or an owner that converts to one.
  template <std::size_t I>
  static auto share(SequenceView<Real, out> dy, const Cache& cache) {
    if constexpr (product) {
      auto d = dy.copy();
      detail::every_position<count>([&]<std::size_t J>(detail::Position<J>) {
        if constexpr (J != I) multiply_rows(get<J>(cache.y).matrix(), d.matrix());
        return true;
      });
      return d;
    } else if constexpr (concat) {
      return SequenceView<Real, widths[I]>(dy.data() + column<I>(), dy.rows(), dy.stride());
    } else {
      return dy;
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
