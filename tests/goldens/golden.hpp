#pragma once
/// @file  A layer against numbers from an implementation that is not ours.

#include <limen/core/layer.hpp>

#include <initializer_list>
#include <memory>
#include <span>

#include "../catch.hpp"

namespace golden {

using Numbers = std::span<const double>;

struct Run {
  Numbers x, y, dy, dx;
};
struct Parameter {
  Numbers value, gradient;
};

template <class A>
void same(const char* what, const A& got, Numbers expected, double tolerance) {
  INFO(what);
  REQUIRE(static_cast<std::size_t>(got.size()) == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = static_cast<double>(got.data()[i]);
    INFO("element " << i << ": got " << value << ", expected " << expected[i]);
    REQUIRE(std::abs(value - expected[i]) <= tolerance * (1 + std::abs(expected[i])));
  }
}

/// One sequence from rest through L with the given parameters, in the order of `visit`: its output,
/// and after backward all gradients.
template <class L>
void check(const Run& run, std::initializer_list<Parameter> parameters, double tolerance) {
  using Real = typename L::Scalar;
  const auto layer = std::make_unique<L>(), gradient = std::make_unique<L>();
  auto from = parameters.begin();
  limen::for_each_tensor(
      [&](auto& tensor) {
        if constexpr (!limen::is_statistic<std::remove_cvref_t<decltype(tensor)>>) {
          REQUIRE(from != parameters.end());
          REQUIRE(static_cast<std::size_t>(tensor.size) == from->value.size());
          for (limen::Index i = 0; i < tensor.size; ++i) {
            tensor[i] = static_cast<Real>(from->value[static_cast<std::size_t>(i)]);
          }
          ++from;
        }
      },
      *layer);
  REQUIRE(from == parameters.end());
  const auto sequence = [](auto width, Numbers values) {
    limen::Sequence<Real, width> s(static_cast<limen::Index>(values.size()) / width);
    REQUIRE(static_cast<std::size_t>(s.size()) == values.size());
    for (limen::Index i = 0; i < s.size(); ++i) {
      s.data()[i] = static_cast<Real>(values[static_cast<std::size_t>(i)]);
    }
    return s;
  };
  using In = std::integral_constant<limen::Index, L::in>;
  using Out = std::integral_constant<limen::Index, L::out>;
  typename L::Cache cache;
  same("y", limen::forward(*layer, sequence(In{}, run.x), cache), run.y, tolerance);
  same("dx", limen::backward(*layer, sequence(Out{}, run.dy), cache, *gradient), run.dx, tolerance);
  from = parameters.begin();
  limen::for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        if constexpr (!limen::is_statistic<std::remove_cvref_t<decltype(tensor)>>) {
          same(name.c_str(), tensor.flat(), from->gradient, tolerance);
          ++from;
        }
      },
      *gradient);
}

/// In double to 1e-10, in float to `rough`.
template <class L>
void check_in_double_and_float(const Run& run, std::initializer_list<Parameter> parameters,
                               double rough = 1e-5) {
  check<typename L::template with_scalar<double>>(run, parameters, 1e-10);
  check<typename L::template with_scalar<float>>(run, parameters, rough);
}

}  // namespace golden
