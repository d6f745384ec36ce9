#pragma once
// Draws what a model believes while it reads digits, row by row, as an SVG.

#include <array>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "reading.hpp"

class Picture {
 public:
  explicit Picture(const std::vector<Reading>& readings) : order_(by_opening(readings)) {
    const double height = 82 + block * static_cast<double>(readings.size());
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %g' width='760' height='%g' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='759' height='%g' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    text(28, 34, "start", "#0f172a", "what it sees");
    text(204, 34, "start", "#0f172a", "what it believes after each row");
    text(522, 34, "start", "#0f172a", "how its update gates stand");
    double top = 52;
    for (const Reading& r : readings) {
      draw(r, top);
      top += block;
    }
    legend(top - 4);
    svg_ += "</svg>\n";
  }

  bool write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr double cell = 18, block = 8 * cell + 26;
  static constexpr int shades = 24;

  struct Rgb {
    int r, g, b;
  };
  static Rgb mix(Rgb a, Rgb b, double t) {
    const auto between = [t](int from, int to) { return static_cast<int>(from + t * (to - from)); };
    return {between(a.r, b.r), between(a.g, b.g), between(a.b, b.b)};
  }
  static Rgb ink(double t) { return mix({241, 245, 249}, {15, 23, 42}, t); }
  static Rgb glow(double t) {  // indigo, teal, yellow
    return t < 0.5 ? mix({38, 32, 92}, {20, 150, 140}, 2 * t)
                   : mix({20, 150, 140}, {253, 231, 76}, 2 * t - 1);
  }

  template <class... A>
  void put(const char* format, A... values) {
    char line[400];
    std::snprintf(line, sizeof line, format, values...);
    svg_ += line;
  }
  void text(double x, double y, const char* anchor, const char* color, const char* words) {
    put("<text x='%g' y='%g' text-anchor='%s' fill='%s'>%s</text>\n", x, y, anchor, color, words);
  }

  /// Rectangles of equal shade are one path: a fifth of the bytes.
  class Cells {
   public:
    void add(double x, double y, double w, double h, double shade) {
      const int s = static_cast<int>(shade * shades);
      char d[64];
      std::snprintf(d, sizeof d, "M%.2f %gh%.2fv%gh-%.2fz", x, y, w, h, w);
      paths_[static_cast<std::size_t>(s < 0 ? 0 : s >= shades ? shades - 1 : s)] += d;
    }
    void flush(Picture& to, Rgb (*color)(double)) {
      for (int s = 0; s < shades; ++s) {
        std::string& d = paths_[static_cast<std::size_t>(s)];
        if (d.empty()) continue;
        const Rgb c = color((s + 0.5) / shades);
        to.put("<path fill='#%02x%02x%02x' d='", c.r, c.g, c.b);
        to.svg_ += d + "'/>\n";
        d.clear();
      }
    }

   private:
    std::array<std::string, shades> paths_;
  };

  /// Units that are mostly open come first.
  static std::vector<std::size_t> by_opening(const std::vector<Reading>& readings) {
    std::vector<float> sum;
    for (const Reading& r : readings) {
      for (const auto& row : r.openings) {
        sum.resize(row.size());
        for (std::size_t u = 0; u < row.size(); ++u) sum[u] += row[u];
      }
    }
    std::vector<std::size_t> order(sum.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return sum[a] > sum[b]; });
    return order;
  }

  void draw(const Reading& r, double top) {
    Cells pixels, gates;
    for (std::size_t row = 0; row < 8; ++row) {
      const double y = top + cell * static_cast<double>(row);
      for (std::size_t c = 0; c < 8; ++c) {
        const double x = 28 + cell * static_cast<double>(c);
        pixels.add(x, y, cell - 1, cell - 1, static_cast<double>(r.pixels[row][c]));
      }
      beliefs(r, row, y);
      const double wide = 210.0 / static_cast<double>(order_.size());
      for (std::size_t u = 0; u < order_.size(); ++u) {
        gates.add(522 + wide * static_cast<double>(u), y, wide, cell - 1,
                  static_cast<double>(r.openings[row][order_[u]]));
      }
    }
    pixels.flush(*this, ink);
    gates.flush(*this, glow);
  }

  /// One bar, cut into the classes; the right one is blue.
  void beliefs(const Reading& r, std::size_t row, double y) {
    constexpr double width = 286;
    double x = 204;
    for (int k = 0; k < 10; ++k) {
      const double w = width * static_cast<double>(r.belief[row][static_cast<std::size_t>(k)]);
      const bool right = k == r.label, leads = k == r.leader(row);
      if (w >= 1) {
        put("<rect x='%.1f' y='%g' width='%.1f' height='%g' fill='%s'/>\n", x, y, w - 0.7, cell - 1,
            right   ? "#2563eb"
            : leads ? "#f59e0b"
                    : "#cbd5e1");
      }
      if (w >= 12) {
        const char digit[] = {static_cast<char>('0' + k), 0};
        text(x + w / 2, y + 13, "middle", right || leads ? "#fff" : "#475569", digit);
      }
      x += w;
    }
  }

  void legend(double y) {
    const auto key = [&](double x, const char* color, const char* words) {
      put("<rect x='%g' y='%g' width='11' height='11' rx='2' fill='%s'/>\n", x, y, color);
      text(x + 16, y + 10, "start", "#475569", words);
    };
    text(28, y + 10, "start", "#475569", "one row of 8 pixels a step");
    key(204, "#2563eb", "right digit");
    key(298, "#f59e0b", "wrong, but leads");
    key(424, "#cbd5e1", "others");
    text(522, y + 10, "start", "#475569", "keep");
    Cells scale;
    for (int s = 0; s < shades; ++s) scale.add(558 + 4 * s, y, 4, 11, (s + 0.5) / shades);
    scale.flush(*this, glow);
    text(660, y + 10, "start", "#475569", "rewrite");
  }

  std::vector<std::size_t> order_;  // of the units
  std::string svg_;
};
