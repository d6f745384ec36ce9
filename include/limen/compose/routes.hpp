#pragma once
/// @file  Rows that go different ways: each to one of several layers, and back to its place.
///
/// The rows of one way are gathered back to back, so that a layer computes nothing for the others;
/// those of a sequence stay in order. Where all rows go one way nothing is moved.

#include <limits>
#include <string>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/error.hpp>
#include <limen/core/memory.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI::detail {

LIMEN_RULE(alternatives_take_the_same, "Branch, Switch: all alternatives must take the same width");
LIMEN_RULE(alternatives_give_the_same, "Branch, Switch: all alternatives must give the same width");

template <class... Layers>
constexpr bool fit_as_alternatives() {
  constexpr Index take[] = {Layers::in...}, give[] = {Layers::out...};
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return (alternatives_take_the_same < take[0] == take[I], layer<0>, takes<take[0]>, layer<I>,
            takes < take[I] >> ::ok && ...) &&
           (alternatives_give_the_same < give[0] == give[I], layer<0>, gives<give[0]>, layer<I>,
            gives < give[I] >> ::ok && ...);
  }(std::index_sequence_for<Layers...>{});
}

/// Which row goes which way. K ways, T rows, B sequences.
class Routes {
 public:
  Routes() = default;

  /// way(b, t): of row t, which belongs to sequence b. `offsets` null: one sequence.
  template <class Way>
  Routes(Index ways, const Index* offsets, Index sequences, Index rows, Way way)
      : ways_(ways),
        sequences_(sequences),
        rows_(rows),
        way_(rows),
        order_(rows),
        starts_(ways + 1),
        offsets_(ways * (sequences + 1)) {
    for (Index k = 0; k <= ways; ++k) starts_[k] = 0;
    const auto end = [&](Index b) { return offsets == nullptr ? rows : offsets[b + 1]; };
    for (Index b = 0, t = 0; b < sequences; ++b) {
      for (; t < end(b); ++t) {
        const Index k = way(b, t);
        if (k < 0 || k >= ways) {
          unknown_ = t;
          return;
        }
        way_[t] = k;
        ++starts_[k + 1];
      }
    }
    for (Index k = 0; k < ways; ++k) starts_[k + 1] += starts_[k];
    Buffer<Index> taken(ways);  // rows of each way so far
    for (Index k = 0; k < ways; ++k) taken[k] = 0;
    for (Index b = 0, t = 0; b <= sequences; ++b) {
      for (Index k = 0; k < ways; ++k) offsets_[k * (sequences + 1) + b] = taken[k];
      if (b == sequences) break;
      for (; t < end(b); ++t) {
        const Index k = way_[t];
        order_[starts_[k] + taken[k]++] = t;
      }
    }
  }

  Index rows() const { return rows_; }

  /// Reports and says no if a row wanted a way that there is not.
  bool known(const char* who) const {
    if (unknown_ < 0) return true;
    fail({who, "an alternative below " + std::to_string(ways_),
          "another one at row " + std::to_string(unknown_)});
    return false;
  }

  /// y = run(x, batch) for the rows of way k, which may be none or all.
  /// X: an owner or a view of [T x in].
  template <class State, class X, class Y, class Run>
  bool send(Index k, X& x, const Batch<State>& batch, Y& y, Run run) const {
    const Index first = starts_[k], count = starts_[k + 1] - first;
    if (count == 0) return true;
    if (count == rows_) {
      y = run(std::move(x), batch);
      return y.rows() == rows_;
    }
    if (y.rows() != rows_) y = Y(rows_);
    Sequence<typename Y::Scalar, decltype(x.row(0))::size()> mine(count);
    gather_rows(std::as_const(x).matrix(), order_.data() + first, mine.matrix());
    const Y part = run(std::move(mine), batch.over(offsets_.data() + k * (sequences_ + 1)));
    if (part.rows() != count) return false;
    scatter_rows(part.matrix(), order_.data() + first, y.matrix());
    return true;
  }

 private:
  Index ways_ = 0, sequences_ = 0, rows_ = 0, unknown_ = -1;
  Buffer<Index> way_;      ///< [T]
  Buffer<Index> order_;    ///< [T] rows by way, in order
  Buffer<Index> starts_;   ///< [K + 1] of each way in order_
  Buffer<Index> offsets_;  ///< [K][B + 1] of each sequence among the rows of a way
};

/// Layers of which each row passes one.
template <class... Layers>
struct Alternatives {
  static constexpr std::size_t count = sizeof...(Layers);
  static constexpr Index in = last({Layers::in...}), out = last({Layers::out...});
  using Real = typename FirstOf<Layers...>::type::Scalar;
  using Parts = Pack<Layers...>;
  using States = Pack<typename Layers::State...>;
  using Caches = Pack<cache_of<Layers>...>;

  /// With a cache or without.
  template <class X, class... C>
  static Sequence<Real, out> forward(const Parts& parts, const Routes& routes, X x,
                                     const Batch<States>& batch, C&... caches) {
    Sequence<Real, out> y;
    const bool all = every_position<count>([&]<std::size_t I>(Position<I>) {
      TapScope scope(batch.context, position_names<count>[I]);
      return routes.send(Index{I}, x, scope.of(part_of<I>(batch)), y, [&](auto&& rows, auto part) {
        return get<I>(parts).forward(std::move(rows), part, get<I>(caches)...);
      });
    });
    if (!all) return {};
    return y;
  }

  /// A way that there is not gives NaN: a step cannot fail.
  static Vector<Real, out> step(const Parts& parts, Index way, VectorView<Real, in> x,
                                States& states) noexcept {
    Vector<Real, out> y;
    const bool none = every_position<count>([&]<std::size_t I>(Position<I>) {
      if (way != Index{I}) return true;
      y = get<I>(parts).step(x, get<I>(states));
      return false;
    });
    if (none) {
      for (Index d = 0; d < out; ++d) y[d] = std::numeric_limits<Real>::quiet_NaN();
    }
    return y;
  }

  static Sequence<Real, in> backward(const Parts& parts, const Routes& routes,
                                     SequenceView<Real, out> dy, const Batch<States>& batch,
                                     const Caches& caches, Parts& gradient) {
    if (!fits_cache(dy.rows(), routes.rows())) return {};
    Sequence<Real, in> dx;
    const bool all = every_position<count>([&]<std::size_t I>(Position<I>) {
      TapScope scope(batch.context, position_names<count>[I]);
      return routes.send(
          Index{I}, dy, scope.of(part_of<I>(batch)), dx, [&](const auto& rows, auto part) {
            return get<I>(parts).backward(rows, part, get<I>(caches), get<I>(gradient));
          });
    });
    if (!all) return {};
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
