#pragma once
/// @file  One layer after another: Sequential<A, B, C> is x -> C(B(A(x))).

#include <array>
#include <string_view>
#include <tuple>
#include <utility>

#include <limen/core/layer.hpp>
#include <limen/core/pack.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/random.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// "0", "1", ... as text that lives as long as the program.
template <std::size_t I>
struct PositionName {
  static constexpr auto digits = [] {
    std::array<char, 8> text{};
    std::size_t size = 0;
    for (std::size_t n = I; size == 0 || n > 0; n /= 10) {
      for (std::size_t i = size; i > 0; --i) text[i] = text[i - 1];
      text[0] = static_cast<char>('0' + n % 10);
      ++size;
    }
    return std::pair{text, size};
  }();
  static constexpr std::string_view value{digits.first.data(), digits.second};
};

}  // namespace detail

template <class... Layers>
struct Sequential {
  static_assert(sizeof...(Layers) > 0, "Sequential: needs at least one layer");
  static constexpr std::size_t depth = sizeof...(Layers);

  template <std::size_t I>
  using LayerAt = std::tuple_element_t<I, std::tuple<Layers...>>;

  static constexpr Index in = LayerAt<0>::in;
  static constexpr Index out = LayerAt<depth - 1>::out;
  using Scalar = typename LayerAt<0>::Scalar;
  template <class T>
  using with_scalar = Sequential<typename Layers::template with_scalar<T>...>;

  Pack<Layers...> layers;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (visit_one<I>(f, l...), ...);
    }(std::index_sequence_for<Layers...>{});
  }

  static Sequential initialized(Random& random) {
    Sequential model;
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((get<I>(model.layers) = Layers::initialized(random)), ...);
    }(std::index_sequence_for<Layers...>{});
    return model;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = Pack<typename Layers::State...>;

  Sequence<Scalar, out> forward(SequenceView<Scalar, in> x, Batch<State> batch) const {
    return through<0>(x, [&](const auto& layer, const auto& input, auto i) {
      return layer.forward(input, part<i>(batch));
    });
  }

  Vector<Scalar, out> step(VectorView<Scalar, in> x, State& state) const noexcept {
    return through<0>(x, [&](const auto& layer, const auto& input, auto i) {
      return layer.step(input, get<i>(state));
    });
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct CacheOf {
    template <class L>
    struct Of {
      using type = NoState;
    };
    template <Trainable L>
    struct Of<L> {
      using type = typename L::Cache;
    };
  };
  using Cache = Pack<typename CacheOf::template Of<Layers>::type...>;

  Sequence<Scalar, out> forward(Sequence<Scalar, in> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Layers> && ...)
  {
    return through<0>(std::move(x), [&](const auto& layer, auto& input, auto i) {
      return layer.forward(std::move(input), part<i>(batch), get<i>(cache));
    });
  }

  Sequence<Scalar, in> backward(SequenceView<Scalar, out> dy, Batch<State> batch,
                                const Cache& cache, Sequential& gradient) const
    requires(Trainable<Layers> && ...)
  {
    return back_through<depth - 1>(dy, batch, cache, gradient);
  }

 private:
  template <std::size_t I, class F, class... L>
  static constexpr void visit_one(F&& f, L&... l) {
    f(detail::PositionName<I>::value, get<I>(l.layers)...);
  }

  template <std::size_t I>
  static auto part(const Batch<State>& batch) {
    return batch.part([](State& s) -> auto& { return get<I>(s); });
  }

  template <std::size_t I, class X, class Run>
  auto through(X&& x, Run run) const {
    auto y = run(get<I>(layers), x, std::integral_constant<std::size_t, I>{});
    if constexpr (I + 1 == depth) {
      return y;
    } else {
      return through<I + 1>(std::move(y), run);
    }
  }

  template <std::size_t I, class DY>
  auto back_through(const DY& dy, const Batch<State>& batch, const Cache& cache,
                    Sequential& gradient) const {
    auto dx =
        get<I>(layers).backward(dy, part<I>(batch), get<I>(cache), get<I>(gradient.layers));
    if constexpr (I == 0) {
      return dx;
    } else {
      return back_through<I - 1>(dx, batch, cache, gradient);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
