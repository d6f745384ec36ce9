#pragma once
/// @file  What the laws of layers are told, and what they answer.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI::check {

struct Options {
  Index rows = 7;        ///< the odd length
  double tolerance = 0;  ///< relative to 1 + |expected|; 0: 1e-10 in double, 2e-4 in float
  double slope = 0;      ///< the same for slopes; 0: 1e-6 in double, 2e-2 in float
  double amplitude = 1;  ///< inputs are normal with this deviation
  Index tokens = 0;      ///< instead, inputs are whole numbers below this one, and have no slope
  std::uint64_t seed = 1;
  bool random = false;  ///< the layer draws in training: give it a generator, the same each time
  bool training_is_inference = true;  ///< false for layers that measure the batch while training
  bool rows_are_independent = true;   ///< false likewise: a sequence sees others of its batch
  bool state_has_slope = true;        ///< false where the state holds more than real numbers
  bool causal = true;                 ///< false for layers that see the future: they cannot be cut
  bool nan_stays = true;              ///< check that NaN poisons its own sequence only
  bool refuses_other_rows = true;     ///< false for layers whose cache does not know its rows
  int most_slopes = 400;              ///< elements of one tensor whose slope is measured
  std::size_t (*allocations)() = nullptr;  ///< how often the program asked for memory, if you count
};

struct Finding {
  std::string law;
  std::string where;
  double got;
  double expected;
};

struct Report {
  std::vector<Finding> findings;  ///< the first of each law and place
  Index checks = 0;               ///< numbers compared

  bool ok() const { return findings.empty(); }

  std::string text() const {
    std::string all = findings.empty() ? "all laws hold" : "";
    for (const Finding& f : findings) {
      char numbers[96];
      std::snprintf(numbers, sizeof numbers, ": got %.9g, expected %.9g\n", f.got, f.expected);
      all += f.law + ": " + f.where + numbers;
    }
    return all;
  }

  void broke(const char* law, const std::string& where, double got, double expected) {
    const auto place = [](const std::string& w) { return w.substr(0, w.find('[')); };
    for (const Finding& f : findings) {
      if (f.law == law && place(f.where) == place(where)) return;
    }
    findings.push_back({law, where, got, expected});
  }

  /// The tolerance is relative to 1 + |expected|.
  void compare(const char* law, const std::string& place, Index element, double got,
               double expected, double tolerance) {
    ++checks;
    const bool same = (std::isnan(got) && std::isnan(expected)) || got == expected ||
                      std::abs(got - expected) <= tolerance * (1 + std::abs(expected));
    if (!same) broke(law, place + '[' + std::to_string(element) + ']', got, expected);
  }
};

}  // namespace limen::inline LIMEN_ABI::check
