#pragma once
/// @file  Walking the parameters of a layer.
///
/// A layer names its parameters once, in `visit`:
///
///     template <class F, class... L>
///     static constexpr void visit(F&& f, L&... l) {
///       f("weight", l.weight...);
///       f("norm", l.norm...);        // a layer inside a layer is listed the same way
///     }
///
/// With one layer this is the list a checkpoint is written from; with a layer and its gradient,
/// what an optimizer walks; with no layer at all, the bare names. A gradient has the type of the
/// layer, so all of them go hand in hand. Members that a config left out are listed too, and
/// skipped.

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

#include <limen/core/config.hpp>
#include <limen/core/tensor.hpp>

namespace limen::inline LIMEN_ABI {

template <class L>
concept Parametrized = requires(L& layer) { L::visit([](std::string_view, auto&...) {}, layer); };

namespace detail {
/// "outer.inner". Out of line: each layer of a model would have a copy of it.
LIMEN_NOINLINE inline std::string dotted(std::string_view outer, std::string_view inner) {
  std::string name;
  name.reserve(outer.size() + 1 + inner.size());
  name.append(outer).push_back('.');
  return name.append(inner);
}
}  // namespace detail

/// Calls f(name, tensor...) for each parameter, depth first; nested names are joined with dots.
template <class F, class First, class... Rest>
  requires(std::same_as<std::remove_const_t<First>, std::remove_const_t<Rest>> && ...)
void for_each_parameter(F&& f, First& first, Rest&... rest) {
  using L = std::remove_const_t<First>;
  L::visit(
      [&f](std::string_view name, auto& member, auto&... members) {
        using Member = std::remove_cvref_t<decltype(member)>;
        if constexpr (is_tensor<Member>) {
          f(std::string(name), member, members...);
        } else if constexpr (!is_absent<Member>) {
          for_each_parameter([&](const std::string& inner,
                                 auto&... tensors) { f(detail::dotted(name, inner), tensors...); },
                             member, members...);
        }
      },
      first, rest...);
}

/// The same without names: no string is made.
template <class F, class First, class... Rest>
  requires(std::same_as<std::remove_const_t<First>, std::remove_const_t<Rest>> && ...)
void for_each_tensor(F&& f, First& first, Rest&... rest) {
  using L = std::remove_const_t<First>;
  L::visit(
      [&f](std::string_view, auto& member, auto&... members) {
        using Member = std::remove_cvref_t<decltype(member)>;
        if constexpr (is_tensor<Member>) {
          f(member, members...);
        } else if constexpr (!is_absent<Member>) {
          for_each_tensor(f, member, members...);
        }
      },
      first, rest...);
}

/// How many numbers the layer learns.
template <Parametrized L>
Index parameter_count(const L& layer) {
  Index count = 0;
  for_each_tensor(
      [&](const auto& tensor) {
        if constexpr (!is_statistic<std::remove_cvref_t<decltype(tensor)>>) count += tensor.size;
      },
      layer);
  return count;
}

/// Sets every parameter (of a gradient, say) to zero.
template <Parametrized L>
void set_zero(L& layer) {
  for_each_tensor(
      [](auto& tensor) {
        for (auto& value : tensor.flat()) value = 0;
        if constexpr (is_statistic<std::remove_cvref_t<decltype(tensor)>>) tensor.weight = 0;
      },
      layer);
}

/// sum += part, parameter by parameter.
template <Parametrized L>
void add(L& sum, const L& part) {
  for_each_tensor(
      [](auto& a, const auto& b) {
        for (Index i = 0; i < a.size; ++i) a[i] += b[i];
        if constexpr (is_statistic<std::remove_cvref_t<decltype(a)>>) a.weight += b.weight;
      },
      sum, part);
}

/// Moves every Statistic of the model by `momentum` towards the mean of what the gradient has
/// gathered, and clears that:  v += momentum Σ weight (measured - v) / Σ weight.  One that moves by
/// a rule of its own has it as a member: v.settle(gathered).
template <Parametrized L>
void settle(L& model, L& gradient, double momentum) {
  for_each_tensor(
      [momentum](auto& value, auto& gathered) {
        using T = std::remove_cvref_t<decltype(value)>;
        if constexpr (is_statistic<T>) {
          using Real = typename T::Scalar;
          if constexpr (requires { value.settle(gathered); }) {
            value.settle(gathered);
          } else if (gathered.weight > Real(0)) {
            const Real share = static_cast<Real>(momentum) / gathered.weight;
            for (Index i = 0; i < value.size; ++i) value[i] += share * gathered[i];
          }
          for (Real& g : gathered.flat()) g = 0;
          gathered.weight = 0;
        }
      },
      model, gradient);
}

}  // namespace limen::inline LIMEN_ABI
