#pragma once
/// @file  Patterns at which a head of attention may be held. (See probe/attention_clamp.hpp.)
///
/// P [Tq x Tk]; rows that a pattern does not name stay as they are.
///
///   previous_token  P = (1 - s) 1 + s (the sub-diagonal); the first row looks at itself
///   induction       the last row: s on the places whose label is the answer, 1 - s on the others,
///                   each evenly
///   match           the last row: softmax(cos(item, query) / τ) on places; τ = 0: the nearest, of
///                   equals all
///   disallow        e = -inf in front of the softmax: P there is 0, the rest of the row grows
///
/// Singh et al., "What needs to go right for an induction head?", arXiv:2404.07129, section 3.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <limen/probe/record.hpp>
#include <limen/probe/subspace.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
inline Status check_strength(double s) {
  if (s >= 0 && s <= 1) return {};
  return Error{"attention pattern: strength", "0 to 1", std::to_string(s)};
}
inline Status check_places(const Activations& P, const std::vector<Index>& places) {
  for (const Index j : places) {
    if (j >= 0 && j < P.cols) continue;
    return Error{"attention pattern: place", "0 to " + std::to_string(P.cols - 1),
                 std::to_string(j)};
  }
  return {};
}
}  // namespace detail

inline Status previous_token_pattern(Activations& P, double s) {
  if (Status sound = detail::check_strength(s); !sound) return sound;
  if (P.rows != P.cols) {
    return Error{"previous token: queries", std::to_string(P.cols) + ", as many as keys",
                 std::to_string(P.rows)};
  }
  for (Index i = 0; i < P.rows; ++i) {
    for (Index j = 0; j < P.cols; ++j) {
      P(i, j) = i == j ? (i == 0 ? 1 : 1 - s) : j + 1 == i ? s : 0;
    }
  }
  return {};
}

/// places [n] with labels [n].
inline Status induction_pattern(Activations& P, const std::vector<Index>& places,
                                const std::vector<int>& labels, int answer, double s) {
  if (Status sound = detail::check_strength(s); !sound) return sound;
  if (Status sound = detail::check_places(P, places); !sound) return sound;
  if (labels.size() != places.size()) {
    return Error{"induction: labels", std::to_string(places.size()), std::to_string(labels.size())};
  }
  const auto right = std::count(labels.begin(), labels.end(), answer);
  const auto others = static_cast<std::ptrdiff_t>(labels.size()) - right;
  if ((right == 0 && s > 0) || (others == 0 && s < 1)) {
    return Error{"induction: labels", "some that are the answer, and some that are not",
                 std::to_string(right) + " and " + std::to_string(others)};
  }
  for (Index j = 0; j < P.cols; ++j) P(P.rows - 1, j) = 0;
  for (std::size_t i = 0; i < places.size(); ++i) {
    P(P.rows - 1, places[i]) += labels[i] == answer ? s / static_cast<double>(right)
                                                    : (1 - s) / static_cast<double>(others);
  }
  return {};
}

/// items [n x D] belong to places [n].
inline Status match_pattern(Activations& P, const std::vector<Index>& places,
                            const Activations& items, const Direction& query, double tau) {
  if (Status sound = detail::check_places(P, places); !sound) return sound;
  if (places.empty() || items.rows != static_cast<Index>(places.size()) ||
      items.cols != static_cast<Index>(query.size())) {
    return Error{"match: items",
                 detail::shape(static_cast<Index>(places.size()), static_cast<Index>(query.size())),
                 detail::shape(items.rows, items.cols)};
  }
  if (!(tau >= 0)) return Error{"match: temperature", "0 or more", std::to_string(tau)};
  std::vector<double> near(places.size());
  for (std::size_t i = 0; i < places.size(); ++i) {
    double both = 0, own = 0;
    for (std::size_t d = 0; d < query.size(); ++d) {
      const double x = items(static_cast<Index>(i), static_cast<Index>(d));
      both += x * query[d];
      own += x * x;
    }
    near[i] = both / std::sqrt(own * detail::dot(query, query));
    if (std::isnan(near[i])) return Error{"match: items and query", "other than 0", "0"};
  }
  const double most = *std::max_element(near.begin(), near.end());
  double sum = 0;
  for (double& n : near) sum += n = tau > 0 ? std::exp((n - most) / tau) : (n == most ? 1 : 0);
  for (Index j = 0; j < P.cols; ++j) P(P.rows - 1, j) = 0;
  for (std::size_t i = 0; i < places.size(); ++i) P(P.rows - 1, places[i]) += near[i] / sum;
  return {};
}

inline Status disallow(Activations& P, Index query, Index key) {
  if (query < 0 || query >= P.rows || key < 0 || key >= P.cols) {
    return Error{"disallow: query and key",
                 "below " + std::to_string(P.rows) + " and " + std::to_string(P.cols),
                 std::to_string(query) + " and " + std::to_string(key)};
  }
  // what is left may be a sink's, which is no column; a rounded 1 - 1 says nothing
  double rest = 1 - P(query, key);
  P(query, key) = 0;
  if (rest <= 1e-6) {
    rest = 0;
    for (Index j = 0; j < P.cols; ++j) rest += P(query, j);
  }
  if (!(rest > 0)) {
    return Error{"disallow: row " + std::to_string(query), "another key that it may see", "none"};
  }
  for (Index j = 0; j < P.cols; ++j) P(query, j) /= rest;
  return {};
}

}  // namespace limen::inline LIMEN_ABI
