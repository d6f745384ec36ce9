#pragma once
/// @file  What tests of routers share.

#include <limen/moe/mixture_of_experts.hpp>
#include <limen/nn/linear.hpp>

#include "../laws.hpp"
#include "tagged.hpp"

/// Linear experts behind a router, 2 wide.
template <class Router>
using Mixture = limen::MixtureOfExperts<
    Router, limen::Linear<limen::LinearConfig{
                              .d_in = Router::in - limen::detail::own_columns<Router>, .d_out = 2},
                          typename Router::Scalar>>;

/// The laws in double and float. In float the steps are wide enough to change a choice, so that no
/// slope is compared.
template <class L, class Start>
void hold_from(limen::check::Options options, Start start) {
  options.nan_stays = false;  // it is an error
  const auto with = [&](auto layer) {
    limen::Random random(2);
    layer = decltype(layer)::initialized(random);
    start(layer, random);
    laws::hold(layer, options);
    options.slope = 1e3;
  };
  with(typename L::template with_scalar<double>());
  with(typename L::template with_scalar<float>());
}

/// The slope of what backward gives for every number of x and of the router, where forward is
/// `value(layer, x)` and its gradient comes from `slopes(layer, x, gradient)`.
template <class L, limen::Index In, class Value, class Slopes>
void slopes_are_right(L& layer, limen::Sequence<double, In> x, Value value, Slopes slopes,
                      bool inputs = true) {
  L gradient;
  const auto dx = slopes(layer, x, gradient);
  const auto check = [&](const std::string& name, double& number, double got) {
    const double before = number, h = 1e-6;
    number = before + h;
    const double above = value(layer, x);
    number = before - h;
    const double below = value(layer, x);
    number = before;
    INFO(name);
    REQUIRE(got == Approx((above - below) / (2 * h)).epsilon(1e-6).margin(1e-8));
  };
  for (limen::Index i = 0; inputs && i < x.size(); ++i) check("input", x.data()[i], dx.data()[i]);
  limen::for_each_parameter(
      [&](const std::string& name, auto& tensor, auto& d) {
        if constexpr (!limen::is_statistic<std::remove_cvref_t<decltype(tensor)>>) {
          for (limen::Index i = 0; i < tensor.size; ++i) check(name, tensor[i], d[i]);
        }
      },
      layer, gradient);
}
