#pragma once
/// @file  The laws of limen/check.hpp as a Catch2 assertion, in double and in float.

#include <limen/check.hpp>

#include "allocations.hpp"
#include "catch.hpp"

namespace laws {

template <class L>
void hold(const L& layer, limen::check::Options options = {}) {
  options.allocations = allocations;
  const auto report = limen::check::laws(layer, options);
  INFO(report.text());
  REQUIRE(report.ok());
  REQUIRE(report.checks > 0);
}

/// For a layer template over its scalar: hold_for<Linear, LinearConfig{...}>() and so on.
template <class L>
void hold_in_double_and_float(limen::check::Options options = {}) {
  static_assert(limen::check::names_every_member<L>,
                "a member is missing from visit, or named twice");
  limen::Random random(options.seed);
  hold(L::template with_scalar<double>::initialized(random), options);
  hold(L::template with_scalar<float>::initialized(random), options);
}

/// For a layer built of others, which names its parts by position.
template <class L>
void hold_for_composed(limen::check::Options options = {}) {
  limen::Random random(options.seed);
  hold(L::template with_scalar<double>::initialized(random), options);
  hold(L::template with_scalar<float>::initialized(random), options);
}

}  // namespace laws
