#pragma once
/// @file  What combinators share: parts in a row, named by position, and the batch as one part
/// sees it.

#include <array>
#include <initializer_list>
#include <string_view>
#include <utility>

#include <limen/core/layer.hpp>
#include <limen/core/pack.hpp>
#include <limen/core/random.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// "0", "1", ... without asking for memory.
class PositionName {
 public:
  constexpr PositionName() = default;
  constexpr explicit PositionName(std::size_t position) {
    for (std::size_t n = position; size_ == 0 || n > 0; n /= 10) {
      for (std::size_t i = size_; i > 0; --i) text_[i] = text_[i - 1];
      text_[0] = static_cast<char>('0' + n % 10);
      ++size_;
    }
  }
  constexpr operator std::string_view() const { return {text_, size_}; }  // NOLINT: it is text

 private:
  char text_[20] = {};
  std::size_t size_ = 0;
};

template <std::size_t N>
inline constexpr auto position_names = [] {
  std::array<PositionName, N> names;
  for (std::size_t i = 0; i < N; ++i) names[i] = PositionName(i);
  return names;
}();

template <std::size_t I, class F, class... Packs>
constexpr void visit_part(F& f, std::string_view name, Packs&... packs) {
  f(name, get<I>(packs)...);
}
/// f(name, part...) for each position of the packs.
template <std::size_t N, class F, class... Packs>
constexpr void visit_parts(F& f, Packs&... packs) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (visit_part<I>(f, position_names<N>[I], packs...), ...);
  }(std::make_index_sequence<N>{});
}

template <std::size_t I>
using Position = std::integral_constant<std::size_t, I>;

/// f(Position<0>{}) && f(Position<1>{}) && ... for N positions: true if all are.
template <std::size_t N, class F>
constexpr bool every_position(F f) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return (f(Position<I>{}) && ...);
  }(std::make_index_sequence<N>{});
}

template <class... Layers>
Pack<Layers...> initialized_parts(Random& random) {
  Pack<Layers...> parts;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    ((get<I>(parts) = Layers::initialized(random)), ...);
  }(std::index_sequence_for<Layers...>{});
  return parts;
}

constexpr Index last(std::initializer_list<Index> numbers) { return *(numbers.end() - 1); }

template <class First, class...>
struct FirstOf {
  using type = First;
};

template <class L>
struct CacheOf {
  using type = NoState;
};
template <class L>
  requires requires { typename L::Cache; }
struct CacheOf<L> {
  using type = typename L::Cache;
};
/// The cache of a layer, nothing if it has none.
template <class L>
using cache_of = typename CacheOf<L>::type;

template <std::size_t I, class State>
auto part_of(const Batch<State>& batch) {
  return batch.part([](State& s) -> auto& { return get<I>(s); });
}

/// Puts the name of a part before the names of the taps in it. Lives as long as the part runs; a
/// run without listener passes it by.
class TapScope final : public TapListener {
 public:
  TapScope(Context* context, std::string_view name) : name_(name) {
    if (context == nullptr || context->taps == nullptr) return;
    inner_ = *context;
    inner_.taps = this;
    outer_ = context->taps;
  }
  TapScope(const TapScope&) = delete;
  TapScope& operator=(const TapScope&) = delete;

  /// The batch as the part sees it.
  template <class State>
  Batch<State> of(Batch<State> batch) {
    if (outer_ != nullptr) batch.context = &inner_;
    return batch;
  }

  void at(std::string_view name, MatrixView<float> rows) override {
    outer_->at(dotted(name_, name), rows);
  }
  void at(std::string_view name, MatrixView<double> rows) override {
    outer_->at(dotted(name_, name), rows);
  }
  void back_at(std::string_view name, MatrixView<float> rows) override {
    outer_->back_at(dotted(name_, name), rows);
  }
  void back_at(std::string_view name, MatrixView<double> rows) override {
    outer_->back_at(dotted(name_, name), rows);
  }

 private:
  std::string_view name_;
  Context inner_;
  TapListener* outer_ = nullptr;
};

}  // namespace limen::inline LIMEN_ABI::detail
