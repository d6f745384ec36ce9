#pragma once
/// @file  Massive activations: a few numbers of the residual stream that dwarf all others.
///
///   a is massive if |a| > 100 and |a| >= 1000 median |h|       h [S x D], behind a layer
///   r = mean max |h| / mean median |h|                         over sequences
///
///     const auto found = massive_activations(seen["blocks.3"]);
///     found.largest[0].row, .column, .value
///
/// The median goes over all S D numbers, the lower middle one of an even count. How r grows over a
/// training is probe/growth.hpp; setting the numbers to 0 or to their mean is probe/clamp.hpp.
///
/// Sun et al., "Massive activations in large language models", arXiv:2402.17762, section 2;
/// Gallego-Feliciano et al., "Hidden dynamics of massive activations", arXiv:2508.03616.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <limen/probe/record.hpp>

namespace limen::inline LIMEN_ABI {

struct MassiveActivations {
  struct Place {
    Index row, column;
    double value;
  };
  double max = 0, median = 0;   ///< of |h|
  std::vector<Place> largest;   ///< by |a|, of equal ones the earlier first
  std::vector<Place> massive;   ///< that pass the criterion, likewise
  bool median_is_zero = false;  ///< then ratio() is infinite

  double ratio() const {
    return median_is_zero ? std::numeric_limits<double>::infinity() : max / median;
  }
};

inline MassiveActivations massive_activations(const Activations& h, std::size_t top = 3,
                                              double least = 100, double times = 1000) {
  MassiveActivations result;
  std::vector<MassiveActivations::Place> all;
  for (Index t = 0; t < h.rows; ++t) {
    for (Index d = 0; d < h.cols; ++d) all.push_back({t, d, h(t, d)});
  }
  const auto finite = [](const auto& p) { return std::isfinite(p.value); };
  if (all.empty() || !std::all_of(all.begin(), all.end(), finite)) {
    fail({"massive activations", "finite numbers", all.empty() ? "none at all" : "others"});
    return result;
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
    const double x = std::abs(a.value), y = std::abs(b.value);
    return x != y ? x > y : a.row != b.row ? a.row < b.row : a.column < b.column;
  });
  result.max = std::abs(all.front().value);
  result.median = std::abs(all[all.size() / 2].value);  // from above: the lower middle one
  result.median_is_zero = result.median == 0;
  for (const auto& place : all) {
    const double a = std::abs(place.value);
    if (result.largest.size() < top) result.largest.push_back(place);
    if (a > least && a >= times * result.median) result.massive.push_back(place);
  }
  return result;
}

/// r of a layer over several sequences: mean maximum by mean median.
inline double massive_ratio(const std::vector<const Activations*>& sequences) {
  double max = 0, median = 0;
  for (const Activations* h : sequences) {
    const auto found = massive_activations(*h);
    max += found.max;
    median += found.median;
  }
  return median > 0 ? max / median : std::numeric_limits<double>::infinity();
}

}  // namespace limen::inline LIMEN_ABI
