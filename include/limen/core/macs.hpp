#pragma once
/// @file  How much work a layer is, before it runs.
///
///     static_assert(macs<Model>(1) < 1'000'000);    // one step fits the budget
///
/// Counted are multiply-accumulates of products and convolutions of `forward`, one sequence of
/// `rows` rows; what happens to each number by itself (activations, norms, sums) is not. A layer
/// that has products says so in one line:
///
///     static constexpr Index macs(Index rows) { return rows * in * out; }
///
/// A layer whose work depends on its data says `static constexpr bool work_depends_on_data = true`
/// and has no such number; asking is a compile error.

#include <limen/core/config.hpp>
#include <limen/core/matrix.hpp>

namespace limen::inline LIMEN_ABI {

template <class L>
constexpr Index macs(Index rows) {
  if constexpr (requires { requires L::work_depends_on_data; }) {
    static_assert(!L::work_depends_on_data,
                  "macs: the work of this layer depends on its data; measure it instead");
    return 0;
  } else if constexpr (requires { L::macs(rows); }) {
    return L::macs(rows);
  } else {
    return 0;
  }
}

}  // namespace limen::inline LIMEN_ABI
