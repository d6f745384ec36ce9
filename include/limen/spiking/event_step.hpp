#pragma once
/// @file  A step of a network in which a list of those that fired goes from layer to layer.
///
///     using Net = Sequential<SpikeLinear<in>, Lif<hidden>, SpikeLinear<out>, Lif<last>>;
///     const auto net = prepare(trained);
///     Net::State state{};
///     const Fired<10> who = step_events(net, fired(x_t), state);     // or from a list of one's
///     own
///
/// The same as net.step(x_t, state), bit for bit, without rows of zeros between the layers: a
/// SpikeLinear takes a list, a Lif gives one. Any other layer may stand between them; it is given
/// and gives a row. What comes out is a list where the last layer fires, else a row. No heap, no
/// exception.

#include <span>

#include <limen/compose/sequential.hpp>
#include <limen/spiking/spike_linear.hpp>

namespace limen::inline LIMEN_ABI {

/// Who of D fired, in ascending order.
template <Index D>
struct Fired {
  Index count = 0;
  SpikeIndex ids[spike_room(D)];

  Fired() {}  // NOLINT: the list is not cleared, nor its end read
  std::span<const SpikeIndex> list() const { return {ids, static_cast<std::size_t>(count)}; }
  bool operator[](Index i) const {
    for (Index k = 0; k < count; ++k) {
      if (ids[k] == i) return true;
    }
    return false;
  }
};

/// A list of one's own, if it ascends and stays below D.
template <Index D>
Result<Fired<D>> fired(std::span<const SpikeIndex> ids) {
  if (std::string fault = spike_list_fault(ids, D); !fault.empty()) {
    return Error{"list of spikes", "ascending numbers below " + std::to_string(D),
                 std::move(fault)};
  }
  Fired<D> all;
  all.count = static_cast<Index>(ids.size());
  for (std::size_t k = 0; k < ids.size(); ++k) all.ids[k] = ids[k];
  return all;
}

/// Those of a row that are not 0.
template <class Real, Index D>
Fired<D> fired(VectorView<Real, D> s) noexcept {
  Fired<D> all;
  all.count = list_spikes(s.data(), D, all.ids).count;
  return all;
}

template <class Real, Index D>
Fired<D> fired(const Vector<Real, D>& s) noexcept {
  return fired(VectorView<Real, D>(s));
}

/// Back to a row of 0 and 1.
template <class Real, Index D>
Vector<Real, D> row_of(const Fired<D>& fired) noexcept {
  Vector<Real, D> s{};
  for (const SpikeIndex i : fired.list()) s[i] = Real(1);
  return s;
}

namespace detail {

/// Layers that read a list.
template <class L>
concept SumsLists =
    requires(const L layer, const SpikeList<typename L::Scalar> s) { layer.sum(s); };

/// Neurons whose spikes are 0 and 1, and whose step can be taken apart.
template <class L>
concept FiresLists = requires(const L layer, typename L::Scalar* room, typename L::State& state) {
  requires !L::Membrane::soft;
  layer.unit(room);
  state.arrays();
};

template <class Real, Index D>
Vector<Real, D> as_row(const Fired<D>& s) noexcept {
  return row_of<Real>(s);
}
template <class Real, Index D>
const Vector<Real, D>& as_row(const Vector<Real, D>& x) noexcept {
  return x;
}

template <class Real, Index D>
VectorView<Real, D> as_row(VectorView<Real, D> x) noexcept {
  return x;
}

template <class L, class X>
auto event_step_of(const L& layer, const X& x, typename L::State& state) noexcept {
  using Real = typename L::Scalar;
  if constexpr (SumsLists<L> && std::is_same_v<X, Fired<L::in>>) {
    return layer.sum({x.ids, x.count, nullptr});
  } else if constexpr (FiresLists<L>) {
    Fired<L::out> s;
    alignas(alignment) Real own[L::own_numbers > 0 ? L::own_numbers * L::out : 1];
    const auto& row = as_row<Real>(x);
    s.count = fire_and_list(layer.unit(own), L::out, row.data(), state.arrays(), s.ids);
    return s;
  } else {
    return layer.step(as_row<Real>(x), state);
  }
}

template <std::size_t I, class X, class... Layers>
auto event_step_from(const Sequential<Layers...>& net, const X& x,
                     typename Sequential<Layers...>::State& state) noexcept {
  const auto y = event_step_of(get<I>(net.layers), x, get<I>(state));
  if constexpr (I + 1 == sizeof...(Layers)) {
    return y;
  } else {
    return event_step_from<I + 1>(net, y, state);
  }
}

}  // namespace detail

/// Fired or Vector -> Fired or Vector.
template <class... Layers>
auto step_events(const Sequential<Layers...>& net, const Fired<Sequential<Layers...>::in>& s,
                 typename Sequential<Layers...>::State& state) noexcept {
  const FlushDenormals guard;
  return detail::event_step_from<0>(net, s, state);
}
template <class... Layers>
auto step_events(const Sequential<Layers...>& net,
                 VectorView<typename Sequential<Layers...>::Scalar, Sequential<Layers...>::in> x,
                 typename Sequential<Layers...>::State& state) noexcept {
  const FlushDenormals guard;
  return detail::event_step_from<0>(net, x, state);
}

}  // namespace limen::inline LIMEN_ABI
