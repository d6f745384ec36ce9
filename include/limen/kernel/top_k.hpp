#pragma once
/// @file  The k largest of n numbers, the same on every machine.
///
/// The order is total: larger first, of equal ones the lower index first (-0 equals +0). NaN counts
/// as -inf. So the answer depends neither on threads nor on the width of vectors, and always names
/// k different entries; whether they deserve it is what `top_k` returns.

#include <cmath>
#include <cstdint>
#include <limits>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// ids [k]: the entries of x [n] in the order above; best [k]: their values. 1 <= k <= n.
/// False if x has a NaN, or fewer than k entries above -inf: then no such choice exists.
///
/// One pass with insertion: for the k and n of routers faster than a sort or a heap.
template <class Real>
bool top_k(const Real* x, Index n, Index k, std::int32_t* ids, Real* best) noexcept {
  constexpr Real lowest = -std::numeric_limits<Real>::infinity();
  Index found = 0;
  bool numbers = true;
  for (Index i = 0; i < n; ++i) {
    Real value = x[i];
    if (std::isnan(value)) {
      numbers = false;
      value = lowest;
    }
    if (found == k && !(value > best[k - 1])) continue;
    Index at = found < k ? found++ : k - 1;
    for (; at > 0 && value > best[at - 1]; --at) {
      best[at] = best[at - 1];
      ids[at] = ids[at - 1];
    }
    best[at] = value;
    ids[at] = static_cast<std::int32_t>(i);
  }
  return numbers && best[k - 1] > lowest;
}

/// Keeps the entries of the best `kept` of `groups` groups of neighbours, sets the others to -inf.
/// A group is as good as the sum of its `count` largest. `ids`, `best` [kept] and `sums` [groups]
/// are scratch; groups must divide n, and count be 1 or 2.
template <class Real>
void keep_top_groups(Real* x, Index n, Index groups, Index kept, Index count, std::int32_t* ids,
                     Real* best, Real* sums) noexcept {
  constexpr Real lowest = -std::numeric_limits<Real>::infinity();
  const Index size = n / groups;
  for (Index g = 0; g < groups; ++g) {
    std::int32_t of[2];
    Real largest[2];
    top_k(x + g * size, size, count, of, largest);
    sums[g] = count == 1 ? largest[0] : largest[0] + largest[1];
  }
  top_k(sums, groups, kept, ids, best);
  for (Index g = 0; g < groups; ++g) {
    bool stays = false;
    for (Index j = 0; j < kept; ++j) stays = stays || ids[j] == g;
    if (stays) continue;
    for (Index i = g * size; i < (g + 1) * size; ++i) x[i] = lowest;
  }
}

}  // namespace limen::inline LIMEN_ABI
