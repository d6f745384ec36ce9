#pragma once
/// @file  The laws of layers, for any layer, also your own.
///
///     const auto report = limen::check::laws(MyLayer<double>::initialized(random));
///     if (!report.ok()) std::puts(report.text().c_str());
///
/// Runs over lengths 0, 1, 2, an odd one, and a ragged batch. Run it with `double`, where the
/// tolerances are tight, and with `float`. What the laws are is said where each is checked; a
/// report says which law broke, at which parameter or input, which element, what was got and what
/// expected.

#include <string_view>

#include <limen/check/running.hpp>
#include <limen/check/slope.hpp>
#include <limen/check/training.hpp>

namespace limen::inline LIMEN_ABI::check {

namespace detail {

struct Anything {
  template <class T>
  operator T() const;
};

template <class L, class... A>
consteval int members() {
  if constexpr (requires { L{A{}..., Anything{}}; }) {
    return members<L, A..., Anything>();
  } else {
    return sizeof...(A);
  }
}

template <class L>
consteval int named() {
  int count = 0;
  L::visit([&](std::string_view, auto&...) { ++count; });
  return count;
}

}  // namespace detail

/// True if `visit` lists each member once. For layers with members of their own; a combinator names
/// its parts by position.
template <class L>
inline constexpr bool names_every_member = detail::members<L>() == detail::named<L>();

/// Checks every law that applies to the layer.
template <Runs L>
Report laws(const L& layer, const Options& options = {}) {
  Subject<L> s(layer, options);
  for (const Index rows : {Index{0}, Index{1}, Index{2}, options.rows}) {
    if (options.causal) cutting_changes_nothing(s, rows);
    if constexpr (Streaming<L>) stepping_is_forward(s, rows);
    if constexpr (Streaming<L>) the_past_does_not_see_the_future(s, rows);
    if constexpr (Trainable<L>) training_is_inference(s, rows);
  }
  a_batch_is_its_sequences(s);
  if (options.nan_stays && options.rows_are_independent && options.tokens == 0) {
    nan_stays_in_its_sequence(s);
  }
  if constexpr (Streaming<L>) stepping_allocates_nothing(s);
  if constexpr (Trainable<L>) {
    running_again_allocates_nothing(s);
    backward_is_the_slope(s);
    gradients_add(s);
    gradients_of_a_batch_add(s);
    other_rows_are_refused(s);
  }
  if constexpr (Preparable<L>) {
    if constexpr (Runs<prepared_form<L>>) prepared_is_the_same(s);
  }
  return std::move(s.report);
}

}  // namespace limen::inline LIMEN_ABI::check
