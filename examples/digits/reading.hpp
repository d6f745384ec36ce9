#pragma once
// What a model believes while it reads a digit row by row, and the same in a terminal.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

struct Reading {
  int label = 0;
  std::array<std::array<float, 8>, 8> pixels{};   // [row][column], 0..1
  std::array<std::array<float, 10>, 8> belief{};  // [row][class], sums to 1
  std::array<std::vector<float>, 8> openings{};   // [row][unit], 0 keeps, 1 rewrites

  int leader(std::size_t row) const {
    const auto& b = belief[row];
    return static_cast<int>(std::max_element(b.begin(), b.end()) - b.begin());
  }
  bool right() const { return leader(7) == label; }

  /// How often it changed its mind, for good in the end: the more, the better to look at.
  double drama() const {
    if (belief[7][static_cast<std::size_t>(label)] < 0.9F) return 0;
    double changes = 0;
    for (std::size_t row = 1; row < 8; ++row) {
      changes += leader(row) != leader(row - 1);
      for (std::size_t k = 0; k < 10; ++k) {  // certain beliefs that fall count more than doubts
        changes += std::max(0.0F, belief[row - 1][k] - belief[row][k]);
      }
    }
    return changes;
  }
};

/// The best to look at, of different digits.
inline std::vector<Reading> most_dramatic(std::vector<Reading> readings, std::size_t count) {
  std::stable_sort(readings.begin(), readings.end(),
                   [](const Reading& a, const Reading& b) { return a.drama() > b.drama(); });
  std::vector<Reading> chosen;
  for (const Reading& r : readings) {
    const bool known = std::any_of(chosen.begin(), chosen.end(),
                                   [&](const Reading& c) { return c.label == r.label; });
    if (!known && chosen.size() < count) chosen.push_back(r);
  }
  return chosen;
}

///     ░░▒▒██▓▓        7  ██████████▌           0.42    1  ███   0.13
inline void show(const Reading& r) {
  static const char* const inks[] = {"  ", "░░", "▒▒", "▓▓", "██"};
  static const char* const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  constexpr int width = 24;
  std::printf("\nreads a %d\n", r.label);
  for (std::size_t row = 0; row < 8; ++row) {
    std::string line = "  ";
    for (const float p : r.pixels[row]) line += inks[static_cast<std::size_t>(p * 4.99F)];
    std::array<std::size_t, 10> order{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    const auto& belief = r.belief[row];
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return belief[a] > belief[b]; });
    for (const std::size_t k : {order[0], order[1]}) {
      const int length = static_cast<int>(belief[k] * width * 8 + 0.5F);  // in eighths
      line += "   " + std::to_string(k) + ' ';
      for (int i = 0; i < length / 8; ++i) line += "█";
      line += eighths[length % 8];
      const int room = k == order[0] ? width - (length + 7) / 8 : 0;
      line.append(static_cast<std::size_t>(room), ' ');
      char number[16];
      std::snprintf(number, sizeof number, " %.2f", static_cast<double>(belief[k]));
      line += number;
    }
    std::puts(line.c_str());
  }
}
