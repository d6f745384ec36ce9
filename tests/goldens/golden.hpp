#pragma once
/// @file  A layer against numbers from an implementation that is not ours.

#include <limen/core/layer.hpp>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "../catch.hpp"

namespace golden {

using Numbers = std::span<const double>;

struct Run {
  Numbers x, y, dy, dx;
};
struct Parameter {
  Numbers value, gradient;
};
using Parameters = std::initializer_list<Parameter>;

/// What an error is measured against: 1 and the number itself, or the largest of its tensor. Where
/// sums cancel, what is left in float is as exact as what they summed, and no more.
enum class Against { each, largest };

template <class A>
void same(const char* what, const A& got, Numbers expected, double tolerance,
          Against against = Against::each) {
  INFO(what);
  REQUIRE(static_cast<std::size_t>(got.size()) == expected.size());
  double largest = 0;
  for (const double v : expected) largest = std::max(largest, std::abs(v));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = static_cast<double>(got.data()[i]);
    const double size = against == Against::each ? std::abs(expected[i]) : largest;
    INFO("element " << i << ": got " << value << ", expected " << expected[i]);
    REQUIRE(std::abs(value - expected[i]) <= tolerance * (1 + size));
  }
}

/// An L with the given parameters, in the order of `visit`.
template <class L>
std::unique_ptr<L> layer_of(Parameters parameters) {
  auto layer = std::make_unique<L>();
  auto from = parameters.begin();
  limen::for_each_tensor(
      [&](auto& tensor) {
        if constexpr (!limen::is_statistic<std::remove_cvref_t<decltype(tensor)>>) {
          REQUIRE(from != parameters.end());
          REQUIRE(static_cast<std::size_t>(tensor.size) == from->value.size());
          for (limen::Index i = 0; i < tensor.size; ++i) {
            tensor[i] = static_cast<typename L::Scalar>(from->value[static_cast<std::size_t>(i)]);
          }
          ++from;
        }
      },
      *layer);
  REQUIRE(from == parameters.end());
  return layer;
}

template <class Real, limen::Index D>
limen::Sequence<Real, D> rows_of(Numbers values) {
  limen::Sequence<Real, D> rows(static_cast<limen::Index>(values.size()) / D);
  REQUIRE(static_cast<std::size_t>(rows.size()) == values.size());
  std::transform(values.begin(), values.end(), rows.data(),
                 [](double v) { return static_cast<Real>(v); });
  return rows;
}

/// One sequence from rest through L with the given parameters: its output, and after backward all
/// gradients.
template <class L>
void check(const Run& run, Parameters parameters, double tolerance,
           Against against = Against::each) {
  using Real = typename L::Scalar;
  const auto layer = layer_of<L>(parameters);
  const auto gradient = std::make_unique<L>();
  typename L::Cache cache;
  same("y", limen::forward(*layer, rows_of<Real, L::in>(run.x), cache), run.y, tolerance, against);
  same("dx", limen::backward(*layer, rows_of<Real, L::out>(run.dy), cache, *gradient), run.dx,
       tolerance, against);
  auto from = parameters.begin();
  limen::for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        if constexpr (!limen::is_statistic<std::remove_cvref_t<decltype(tensor)>>) {
          same(name.c_str(), tensor.flat(), from->gradient, tolerance, against);
          ++from;
        }
      },
      *gradient);
}

/// In double to 1e-10, in float to `rough` of the largest number of each tensor.
template <class L>
void check_in_double_and_float(const Run& run, Parameters parameters, double rough = 1e-5) {
  check<typename L::template with_scalar<double>>(run, parameters, 1e-10);
  check<typename L::template with_scalar<float>>(run, parameters, rough, Against::largest);
}

/// Numbers of several parts, one after the other.
template <class... Parts>
std::vector<double> in_a_row(const Parts&... parts) {
  std::vector<double> all;
  (all.insert(all.end(), parts.data(), parts.data() + parts.size), ...);
  return all;
}

/// The state that x leaves behind, as `numbers_of(state)` lists it; as exact as outputs.
template <class L, class F>
void check_last_state(Numbers x, Parameters parameters, F numbers_of, Numbers expected) {
  const auto run = [&]<class S>(double tolerance, std::type_identity<S>) {
    using In = typename L::template with_scalar<S>;
    const auto layer = layer_of<In>(parameters);
    const auto state = std::make_unique<typename In::State>();
    layer->forward(rows_of<S, In::in>(x), *state);
    same("state", numbers_of(*state), expected, tolerance, Against::largest);
  };
  run(1e-10, std::type_identity<double>{});
  run(1e-5, std::type_identity<float>{});
}

}  // namespace golden
