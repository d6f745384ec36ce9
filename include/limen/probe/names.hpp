#pragma once
/// @file  Names of taps: patterns that choose some, and the close ones of a name that there is not.
///
///     fits("blocks.*.mixer", "blocks.3.mixer")             a * stands for one part of a name
///     edit_distance("mixr", "mixer")                       1
///     closest("blocks.3.mixr", names)                      the nearest ones first
///
/// Levenshtein, "Binary codes capable of correcting deletions, insertions and reversals", Soviet
/// Physics Doklady 10 (1966).

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <limen/core/error.hpp>

namespace limen::inline LIMEN_ABI {

/// Does the name fit the pattern, part by part between the dots?
inline bool fits(std::string_view pattern, std::string_view name) {
  for (;;) {
    const std::size_t p = pattern.find('.'), n = name.find('.');
    const std::string_view wanted = pattern.substr(0, p);
    if (wanted != "*" && wanted != name.substr(0, n)) return false;
    if (p == pattern.npos || n == name.npos) return p == pattern.npos && n == name.npos;
    pattern.remove_prefix(p + 1);
    name.remove_prefix(n + 1);
  }
}

/// The fewest letters to insert, delete or replace that make b of a.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> d(b.size() + 1);  // from a's first letters to b's first j
  for (std::size_t j = 0; j <= b.size(); ++j) d[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t before = std::exchange(d[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = before + (a[i - 1] == b[j - 1] ? 0 : 1);
      before = d[j];
      d[j] = std::min({replaced, d[j] + 1, d[j - 1] + 1});
    }
  }
  return d[b.size()];
}

/// At most `most` of the names, each once, the nearest first; what is further than half the
/// length of the name is not close.
inline std::vector<std::string> closest(std::string_view name, std::span<const std::string> names,
                                        std::size_t most = 3) {
  std::vector<std::pair<std::size_t, std::string>> near;
  for (const std::string& known : names) {
    std::pair<std::size_t, std::string> one{edit_distance(name, known), known};
    if (2 * one.first > name.size() || std::find(near.begin(), near.end(), one) != near.end())
      continue;
    near.push_back(std::move(one));
  }
  std::sort(near.begin(), near.end());
  std::vector<std::string> result;
  for (std::size_t i = 0; i < near.size() && i < most; ++i) result.push_back(near[i].second);
  return result;
}

/// "tap blocks.3.mixr: wanted blocks.3.mixer or blocks.2.mixer, found no tap of that name"
inline Error no_such_tap(std::string_view name, std::span<const std::string> names) {
  std::vector<std::string> some = closest(name, names);
  std::string wanted;
  if (some.empty() && names.empty()) {
    wanted = "a model with taps";
  } else if (some.empty()) {
    wanted = "one like " + names.front();
  }
  for (std::size_t i = 0; i < some.size(); ++i) wanted += (i > 0 ? " or " : "") + some[i];
  return {"tap " + std::string(name), std::move(wanted), "no tap of that name"};
}

}  // namespace limen::inline LIMEN_ABI
