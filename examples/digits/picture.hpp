#pragma once
// Draws what a model believes while it reads a digit, row by row, as an SVG.

#include <array>
#include <cstdio>
#include <string>
#include <vector>

struct Reading {
  int label = 0;
  std::array<std::array<float, 8>, 8> pixels{};   // [row][column], 0..1
  std::array<std::array<float, 10>, 8> belief{};  // [row][class], sums to 1
  std::array<std::vector<float>, 8> openings{};   // [row][unit], how far each update gate opens
};

class Picture {
 public:
  explicit Picture(const std::vector<Reading>& readings) {
    const int height = 70 + 150 * static_cast<int>(readings.size());
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %d' width='760' height='%d' "
        "font-family='sans-serif' font-size='12'>\n",
        height, height);
    put("<rect width='760' height='%d' fill='white'/>\n", height);
    text(20, 28, "what it sees", "start");
    text(170, 28, "what it believes after each row (classes 0 to 9)", "start");
    text(470, 28, "update gates after each row: light is open to the new row", "start");
    for (std::size_t i = 0; i < readings.size(); ++i) draw(readings[i], 50 + 150 * static_cast<int>(i));
    svg_ += "</svg>\n";
  }

  bool write(const char* path) const {
    std::FILE* file = std::fopen(path, "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr int cell = 14;

  template <class... A>
  void put(const char* format, A... values) {
    char line[256];
    std::snprintf(line, sizeof line, format, values...);
    svg_ += line;
  }

  void text(int x, int y, const char* words, const char* anchor) {
    put("<text x='%d' y='%d' text-anchor='%s' fill='#333'>%s</text>\n", x, y, anchor, words);
  }

  void square(double x, double y, double width, double height, int red, int green, int blue) {
    put("<rect x='%.1f' y='%.1f' width='%.2f' height='%.1f' fill='rgb(%d,%d,%d)'/>\n", x, y, width,
        height, red, green, blue);
  }

  void draw(const Reading& r, int top) {
    for (std::size_t row = 0; row < 8; ++row) {
      const double y = top + cell * static_cast<double>(row);
      for (std::size_t c = 0; c < 8; ++c) {
        const int ink = 255 - static_cast<int>(230 * r.pixels[row][c]);
        square(20 + cell * static_cast<double>(c), y, cell, cell, ink, ink, ink);
      }
      for (std::size_t k = 0; k < 10; ++k) {  // white to dark orange, the true class in blue
        const float p = r.belief[row][k];
        const bool truth = static_cast<int>(k) == r.label;
        const int fade = 250 - static_cast<int>(220 * p);
        square(170 + 26 * static_cast<double>(k), y, 25, cell - 1, truth ? fade : 250,
               truth ? (fade + 250) / 2 : 250 - static_cast<int>(120 * p), truth ? 250 : fade);
        if (p >= 0.1f) {
          put("<text x='%d' y='%d' text-anchor='middle' font-size='9' fill='%s'>%.2f</text>\n",
              170 + 26 * static_cast<int>(k) + 12, static_cast<int>(y) + 10,
              p > 0.5f ? "white" : "#333", static_cast<double>(p));
        }
      }
      const double wide = 270.0 / static_cast<double>(r.openings[row].size());
      for (std::size_t u = 0; u < r.openings[row].size(); ++u) {
        const int light = 30 + static_cast<int>(220 * r.openings[row][u]);
        square(470 + wide * static_cast<double>(u), y, wide + 0.2, cell - 1, light / 2, light, light);
      }
    }
    for (int k = 0; k < 10; ++k) {
      char digit[] = {static_cast<char>('0' + k), 0};
      text(170 + 26 * k + 12, top + 8 * cell + 14, digit, "middle");
    }
    char words[32];
    std::snprintf(words, sizeof words, "a %d", r.label);
    text(20, top + 8 * cell + 14, words, "start");
  }

  std::string svg_;
};
