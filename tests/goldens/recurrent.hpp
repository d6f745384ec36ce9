#pragma once
/// @file  A layer with a state h against numbers from an implementation that is not ours: from a
/// given first state, with a gradient that arrives at the last one.

#include "golden.hpp"

namespace golden {

struct RecurrentRun {
  Numbers x, first, y, dy, d_last, dx, d_first;
};

template <class L>
void check_recurrent(const RecurrentRun& run, std::initializer_list<Parameter> parameters,
                     double tolerance) {
  using Real = typename L::Scalar;
  using State = typename L::State;
  const auto layer = std::make_unique<L>(), gradient = std::make_unique<L>();
  auto from = parameters.begin();
  limen::for_each_tensor(
      [&](auto& tensor) {
        REQUIRE(from != parameters.end());
        REQUIRE(static_cast<std::size_t>(tensor.size) == from->value.size());
        for (limen::Index i = 0; i < tensor.size; ++i) {
          tensor[i] = static_cast<Real>(from->value[static_cast<std::size_t>(i)]);
        }
        ++from;
      },
      *layer);
  REQUIRE(from == parameters.end());
  const auto rows = [](auto width, Numbers values) {
    limen::Sequence<Real, width> s(static_cast<limen::Index>(values.size()) / width);
    REQUIRE(static_cast<std::size_t>(s.size()) == values.size());
    for (limen::Index i = 0; i < s.size(); ++i) {
      s.data()[i] = static_cast<Real>(values[static_cast<std::size_t>(i)]);
    }
    return s;
  };
  const auto state = [](Numbers values) {
    State s{};
    REQUIRE(values.size() == s.h.values.size());
    for (std::size_t i = 0; i < values.size(); ++i) s.h.values[i] = static_cast<Real>(values[i]);
    return s;
  };
  using In = std::integral_constant<limen::Index, L::in>;
  using Out = std::integral_constant<limen::Index, L::out>;
  State h = state(run.first), dh = state(run.d_last);
  typename L::Cache cache;
  same("y", layer->forward(rows(In{}, run.x), h, cache), run.y, tolerance);
  same("last state", h.h.values, run.y.last(h.h.values.size()), tolerance);
  same("dx", layer->backward(rows(Out{}, run.dy), dh, cache, *gradient), run.dx, tolerance);
  same("d first state", dh.h.values, run.d_first, tolerance);
  from = parameters.begin();
  limen::for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        same(name.c_str(), tensor.flat(), from->gradient, tolerance);
        ++from;
      },
      *gradient);
}

/// In double to 1e-10, in float to `rough`.
template <class L>
void check_recurrent_in_double_and_float(const RecurrentRun& run,
                                         std::initializer_list<Parameter> parameters,
                                         double rough = 2e-5) {
  check_recurrent<typename L::template with_scalar<double>>(run, parameters, 1e-10);
  check_recurrent<typename L::template with_scalar<float>>(run, parameters, rough);
}

}  // namespace golden

/// The numbers of one namespace of a golden header.
#define RECURRENT_RUN(c) \
  golden::RecurrentRun { c::x, c::first, c::y, c::dy, c::d_last, c::dx, c::d_first }
