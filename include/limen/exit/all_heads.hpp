#pragma once
/// @file  An EarlyExit that nobody leaves: all heads, side by side, and the way back through them.

#include <algorithm>
#include <utility>

#include <limen/exit/exit_plan.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// y [T x K C]
template <class Net>
struct AllHeads {
  using Real = typename Net::Scalar;
  using Plan = typename Net::Plan;
  using State = typename Net::State;
  static constexpr std::size_t depth = Net::depth;
  static constexpr Index C = Net::classes, in = Net::in, out = Net::out;

  const Net& net;

  /// Part I and what comes after it, with a cache or without. False after an error of a layer.
  template <std::size_t I, class X, class... Cache>
  bool forward(X x, const Batch<State>& batch, Sequence<Real, out>& y, Cache&... cache) const {
    TapScope scope(batch.context, position_names<depth>[I]);
    const auto part = scope.of(part_of<I>(batch));
    if constexpr (Plan::exit_at[I]) {
      const auto z = head<I>(x, part, cache...);
      if (!LIMEN_EXCEPTIONS && z.rows() != y.rows()) return false;
      copy_rows(z.matrix(), y.matrix().middle_cols(Plan::exit_of[I] * C, C));
      if constexpr (I + 1 < depth) return forward<I + 1>(std::move(x), batch, y, cache...);
      return true;
    } else {
      auto h = layer<I>().forward(std::move(x), part, get<I>(cache)...);
      if (!LIMEN_EXCEPTIONS && h.rows() != y.rows()) return false;
      x = X();  // its memory serves the layers to come
      return forward<I + 1>(std::move(h), batch, y, cache...);
    }
  }

  template <std::size_t I, class X>
  void step(const X& x, State& state, Vector<Real, out>& y) const noexcept {
    const auto h = layer<I>().step(x, get<I>(state));
    if constexpr (Plan::exit_at[I]) {
      std::copy_n(h.data(), C, y.data() + Plan::exit_of[I] * C);
      if constexpr (I + 1 < depth) step<I + 1>(x, state, y);
    } else {
      step<I + 1>(h, state, y);
    }
  }

  /// dh: gradient of what part I gives, or where it is an exit passes on; none yet at the end.
  template <std::size_t I, class DH, class Cache>
  Sequence<Real, in> backward(DH dh, SequenceView<Real, out> dy, const Batch<State>& batch,
                              const Cache& cache, Net& gradient) const {
    if constexpr (Plan::exit_at[I]) {
      constexpr Index k = Plan::exit_of[I];
      const SequenceView<Real, C> dz{dy.data() + k * C, dy.rows(), dy.stride()};
      auto dx = back<I>(dz, batch, cache, gradient);
      if (!LIMEN_EXCEPTIONS && dx.rows() != dy.rows()) return {};
      if constexpr (k + 1 < Net::exits && !Net::config.frozen) {
        add_deeper<Net::exits - 1 - k>(dh, dx);
      }
      return backward<I - 1>(std::move(dx), dy, batch, cache, gradient);
    } else if constexpr (Net::config.frozen) {
      if constexpr (I == 0) {
        return Sequence<Real, in>::zeros(dy.rows());
      } else {
        return backward<I - 1>(Sequence<Real, Plan::takes_at[I]>(), dy, batch, cache, gradient);
      }
    } else {
      auto dx = back<I>(dh, batch, cache, gradient);
      if constexpr (I == 0) {
        return dx;
      } else {
        if (!LIMEN_EXCEPTIONS && dx.rows() != dy.rows()) return {};
        dh = DH();
        return backward<I - 1>(std::move(dx), dy, batch, cache, gradient);
      }
    }
  }

 private:
  template <std::size_t I>
  const auto& layer() const {
    return layer_of(get<I>(net.parts));
  }

  template <std::size_t I, class X, class Part, class... Cache>
  auto head(X& x, const Part& part, Cache&... cache) const {
    if constexpr (sizeof...(Cache) == 0) {
      return layer<I>().forward(x, part);
    } else if constexpr (I + 1 < depth) {
      return layer<I>().forward(X(x), part, get<I>(cache)...);  // the layers to come need it
    } else {
      return layer<I>().forward(std::move(x), part, get<I>(cache)...);
    }
  }

  template <std::size_t I, class DY, class Cache>
  auto back(const DY& dy, const Batch<State>& batch, const Cache& cache, Net& gradient) const {
    TapScope scope(batch.context, position_names<depth>[I]);
    return layer<I>().backward(dy, scope.of(part_of<I>(batch)), get<I>(cache),
                               layer_of(get<I>(gradient.parts)));
  }

  /// dx = a dx + b dh,  a = b = 1 without equilibrium
  template <Index deeper, Index D>
  static void add_deeper(Sequence<Real, D>& dh, Sequence<Real, D>& dx) {
    if constexpr (Net::config.equilibrium) {
      scale(dx, Real(1) / Real(deeper + 1));
      scale(dh, Real(deeper) / Real(deeper + 1));
    }
    add_rows<Real>(std::as_const(dh).matrix(), dx.matrix());
  }
  template <Index D>
  static void scale(Sequence<Real, D>& x, Real by) {
    const simd::Vec<Real> factor(by);
    simd::transform(x.data(), x.data(), x.size(), [&](auto v) { return v * factor; });
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
