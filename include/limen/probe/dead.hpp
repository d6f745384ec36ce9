#pragma once
/// @file  Dead neurons of pruned networks, and weights to prune that wake them.
///
///   unit i is silent on row b     its output behind ReLU is 0
///   static dead                   all its incoming weights are pruned
///   dynamic dead on b             silent on b, not static dead
///   rate = mean_b count(dynamic dead on b) / units
///
///     const auto rates = dead_neurons(seen["0.hidden"], mask);
///     const auto pruned = selective_activation(W, mask, rates.of_unit, score, P, Q);
///
/// Of a budget of P weights, P - Q go by the pruner's own score; Q are negative weights into the
/// units that are dead most often: without them the sum in front of the ReLU rises.
///
/// Liu et al., "AP: Selective Activation for De-sparsifying Pruned Neural Networks",
/// arXiv:2212.06145. The definitions are our reading of it.

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <limen/core/sort.hpp>
#include <limen/probe/record.hpp>

namespace limen::inline LIMEN_ABI {

struct DeadNeurons {
  Index static_dead = 0;        ///< units
  Index never_active = 0;       ///< units that are 0 on every row, static dead ones among them
  double dynamic_rate = 0;      ///< mean over rows, of all units
  std::vector<double> of_unit;  ///< share of rows on which it is dynamic dead
};

namespace detail {
inline Error mask_error(std::size_t found, Index o, Index i) {
  return {"mask of weights", shape(o, i), std::to_string(found) + " numbers"};
}
}  // namespace detail

/// h [B x O] behind ReLU; mask [O x I], 0 where a weight is pruned; empty: nothing is pruned.
inline DeadNeurons dead_neurons(const Activations& h, const std::vector<char>& mask = {}) {
  DeadNeurons result;
  const auto units = static_cast<std::size_t>(h.cols);
  if (h.rows == 0 || units == 0 || mask.size() % units != 0) {
    fail(h.rows == 0 || units == 0
             ? Error{"dead neurons", "at least one row", "an empty batch"}
             : detail::mask_error(mask.size(), h.cols, static_cast<Index>(mask.size() / units)));
    return result;
  }
  const std::size_t inputs = mask.size() / units;
  result.of_unit.resize(units);
  for (std::size_t i = 0; i < units; ++i) {
    Index silent = 0;
    for (Index b = 0; b < h.rows; ++b) silent += h(b, static_cast<Index>(i)) == 0 ? 1 : 0;
    const bool pruned =
        inputs > 0 && std::all_of(mask.data() + i * inputs, mask.data() + (i + 1) * inputs,
                                  [](char m) { return m == 0; });
    result.never_active += silent == h.rows ? 1 : 0;
    result.static_dead += pruned ? 1 : 0;
    if (!pruned) result.of_unit[i] = static_cast<double>(silent) / static_cast<double>(h.rows);
    result.dynamic_rate += result.of_unit[i] / static_cast<double>(units);
  }
  return result;
}

/// The weights to prune, as positions in W [O x I]: first the P - Q of lowest score, then Q
/// negative ones, from the unit that is dead most often on, the most negative first. Ties go to the
/// lower position. Fewer than P if there are not so many.
inline std::vector<std::size_t> selective_activation(const Activations& W,
                                                     const std::vector<char>& mask,
                                                     const std::vector<double>& dead_rate,
                                                     const std::vector<double>& score,
                                                     std::size_t P, std::size_t Q) {
  const std::size_t size = W.values.size(), I = static_cast<std::size_t>(W.cols);
  if (mask.size() != size || score.size() != size ||
      dead_rate.size() != static_cast<std::size_t>(W.rows) || Q > P) {
    fail(Q > P ? Error{"selective activation: Q", "at most P, " + std::to_string(P),
                       std::to_string(Q)}
               : detail::mask_error(mask.size(), W.rows, W.cols));
    return {};
  }
  std::vector<std::size_t> left;
  for (std::size_t n = 0; n < size; ++n) {
    if (mask[n] != 0) left.push_back(n);
  }
  sort_by_highest(left, [&](std::size_t n) { return -score[n]; });
  const auto by_score = std::min(P - Q, left.size());
  std::vector<std::size_t> pruned(left.begin(),
                                  left.begin() + static_cast<std::ptrdiff_t>(by_score));
  left.erase(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(by_score));
  std::erase_if(left, [&](std::size_t n) { return !(W.values[n] < 0); });
  std::vector<std::size_t> units;
  for (const std::size_t n : left) units.push_back(n / I);
  std::sort(units.begin(), units.end());
  units.erase(std::unique(units.begin(), units.end()), units.end());
  sort_by_highest(units, [&](std::size_t i) { return dead_rate[i]; });
  std::vector<std::size_t> place(static_cast<std::size_t>(W.rows));
  for (std::size_t k = 0; k < units.size(); ++k) place[units[k]] = k;
  std::sort(left.begin(), left.end(), [&](std::size_t a, std::size_t b) {
    if (a / I != b / I) return place[a / I] < place[b / I];
    return W.values[a] != W.values[b] ? W.values[a] < W.values[b] : a < b;
  });
  if (left.size() > Q) left.resize(Q);
  pruned.insert(pruned.end(), left.begin(), left.end());
  return pruned;
}

}  // namespace limen::inline LIMEN_ABI
