#pragma once
/// @file  N layers of one kind in a row, each with parameters and a state of its own.
///
///   y = L_{N-1}(... L_1(L_0(x)))        in checkpoints "0", "1", ...
///
/// The same as Sequential<L, L, ...>, but a loop at run time: the compiler sees L once, whatever
/// the depth.

#include <array>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
LIMEN_RULE(fits_itself, "Repeat: a repeated layer must give as many numbers as it takes");
}

template <Index N, class L>
struct Repeat {
  static_assert(N > 0, "Repeat: needs at least one layer");
  static_assert(detail::compose<L>() && detail::fits_itself < N == 1 || L::in == L::out,
                detail::takes<L::in>, detail::gives < L::out >> ::ok);
  static constexpr std::size_t depth = std::size_t{N};

  static constexpr Index D = L::in, in = D, out = D;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Repeat<N, typename L::template with_scalar<T>>;

  std::array<L, depth> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    for (std::size_t i = 0; i < depth; ++i) f(name(i), m.layers[i]...);
  }

  static Repeat initialized(Random& random) {
    Repeat model;
    for (L& layer : model.layers) layer = L::initialized(random);
    return model;
  }

  static constexpr Index macs(Index rows) { return N * limen::macs<L>(rows); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  static constexpr bool remembers = !std::is_empty_v<typename L::State>;
  using State = std::conditional_t<remembers, std::array<typename L::State, depth>,
                                   typename L::State>;  // an array of nothing is not empty

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    const FlushDenormals guard;
    auto y = run(0, x, batch);
    for (std::size_t i = 1; i < depth && y.rows() == x.rows(); ++i) y = run(i, y, batch);
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept
    requires Streaming<L>
  {
    const FlushDenormals guard;
    auto y = layers[0].step(x, part(state, 0));
    for (std::size_t i = 1; i < depth; ++i) y = layers[i].step(y, part(state, i));
    return y;
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const
    requires(!Streaming<L>)
  {
    static_assert(detail::Rules<L>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = std::array<detail::cache_of<L>, depth>;

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires Trainable<L>
  {
    const FlushDenormals guard;
    const Index rows = x.rows();
    auto y = run(0, std::move(x), batch, cache[0]);
    for (std::size_t i = 1; i < depth && y.rows() == rows; ++i) {
      y = run(i, std::move(y), batch, cache[i]);
    }
    return y;
  }

  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             Repeat& gradient) const
    requires Trainable<L>
  {
    const FlushDenormals guard;
    const auto back = [&](std::size_t i, SequenceView<Real, D> d) {
      detail::TapScope scope(batch.context, name(i));
      return layers[i].backward(d, scope.of(part(batch, i)), cache[i], gradient.layers[i]);
    };
    auto dx = back(depth - 1, dy);
    for (std::size_t i = depth - 1; i > 0; --i) dx = back(i - 1, dx);
    return dx;
  }

 private:
  static constexpr std::string_view name(std::size_t i) { return detail::position_names<depth>[i]; }

  static auto& part(State& state, std::size_t i) {
    if constexpr (remembers) {
      return state[i];
    } else {
      return state;
    }
  }
  static auto part(const Batch<State>& batch, std::size_t i) {
    return batch.part([i](State& s) -> auto& { return part(s, i); });
  }

  /// Layer i, with a cache or without.
  template <class X, class... C>
  Sequence<Real, D> run(std::size_t i, X x, const Batch<State>& batch, C&... cache) const {
    detail::TapScope scope(batch.context, name(i));
    return layers[i].forward(std::move(x), scope.of(part(batch, i)), cache...);
  }
};

}  // namespace limen::inline LIMEN_ABI
