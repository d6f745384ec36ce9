#pragma once
/// @file  Sorting by a key, highest first; what is equal stays as it stands, NaN comes last.
///
/// As std::stable_sort would, which with g++ 12's library is a warning in clang.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <limen/core/config.hpp>

namespace limen::inline LIMEN_ABI {

/// `order`: ascending numbers of things, each of which has a key.
template <class Number, class Key>
void sort_by_highest(std::vector<Number>& order, Key key) {
  std::sort(order.begin(), order.end(), [&](Number a, Number b) {
    const auto x = key(a), y = key(b);
    const bool no_x = std::isnan(x), no_y = std::isnan(y);
    if (no_x || no_y) return no_x == no_y ? a < b : no_y;
    return x != y ? x > y : a < b;
  });
}

}  // namespace limen::inline LIMEN_ABI
