#pragma once
// Draws what was learned as an SVG: for each direction a map of the delays of its synapses, dark
// where they are long, small where the weight is.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <limen/spiking/delay_lines.hpp>

#include "bars.hpp"

class Picture {
 public:
  explicit Picture(const std::vector<limen::DelayedSynapse>& synapses) : synapses_(synapses) {
    for (const auto& s : synapses) {
      longest_ = std::max(longest_, static_cast<double>(s.delay));
      strongest_ = std::max(strongest_, std::abs(s.weight));
    }
  }

  bool write(const std::string& path) {
    draw();
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr double left = 28, top = 62, cell = 15, block = 172, down = 186;

  void draw() {
    svg_.clear();
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 736 444' width='736' height='444' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n");
    put("<rect x='.5' y='.5' width='735' height='443' rx='10' fill='#fff' stroke='#e2e8f0'/>\n");
    text(left, 26, "start", "#0f172a",
         "delays of the synapses of each direction, by pixel (mean of both polarities)");
    for (limen::Index d = 0; d < Bars::directions; ++d) {
      panel(d, left + block * static_cast<double>(d % 4), top + down * static_cast<double>(d / 4));
    }
    const double y = top + 2 * down - 24;
    for (int k = 0; k <= 40; ++k) {
      put("<rect x='%g' y='%g' width='5.2' height='12' fill='%s'/>\n", left + 120 + 5 * k, y,
          color(k / 40.0).c_str());
    }
    text(left + 112, y + 10, "end", "#475569", "no delay");
    char label[40];
    std::snprintf(label, sizeof label, "%g steps", longest_);
    text(left + 334, y + 10, "start", "#475569", label);
    text(left + 420, y + 10, "start", "#475569", "arrow: the motion it answers to");
    svg_ += "</svg>\n";
  }

  void panel(limen::Index direction, double x0, double y0) {
    double delay[Bars::pixels] = {}, weight[Bars::pixels] = {};
    for (const auto& s : synapses_) {
      if (s.to != direction) continue;
      const auto p = static_cast<std::size_t>(s.from % Bars::pixels);
      const double w = std::abs(s.weight);
      delay[p] += w * static_cast<double>(s.delay);
      weight[p] += w;
    }
    const double a = Bars::angle(direction), side = cell * Bars::side;
    put("<rect x='%g' y='%g' width='%g' height='%g' fill='#f1f5f9'/>\n", x0, y0, side, side);
    for (limen::Index p = 0; p < Bars::pixels; ++p) {
      const auto k = static_cast<std::size_t>(p);
      if (weight[k] == 0) continue;
      const double share = std::sqrt(std::min(1.0, weight[k] / strongest_));
      const double x = x0 + cell * (static_cast<double>(p % Bars::side) + (1 - share) / 2);
      const double y = y0 + cell * (static_cast<double>(p / Bars::side) + (1 - share) / 2);
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='%s'/>\n", x, y, cell * share,
          cell * share, color(delay[k] / weight[k] / longest_).c_str());
    }
    const double cx = x0 + side / 2, cy = y0 - 13, dx = 9 * std::cos(a), dy = 9 * std::sin(a);
    put("<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='#0f172a' stroke-width='2'/>\n",
        cx - dx, cy - dy, cx + dx, cy + dy);
    put("<polygon points='%.1f,%.1f %.1f,%.1f %.1f,%.1f' fill='#0f172a'/>\n", cx + 1.5 * dx,
        cy + 1.5 * dy, cx + 0.7 * dx - 0.5 * dy, cy + 0.7 * dy + 0.5 * dx, cx + 0.7 * dx + 0.5 * dy,
        cy + 0.7 * dy - 0.5 * dx);
  }

  /// From yellow over red to a dark blue.
  static std::string color(double share) {
    static constexpr int stops[4][3] = {
        {253, 224, 71}, {249, 115, 22}, {190, 24, 93}, {30, 27, 75}};
    const double s = std::clamp(share, 0.0, 1.0) * 3;
    const int k = s < 1 ? 0 : s < 2 ? 1 : 2;
    char hex[16];
    const auto mix = [&](int c) {
      return static_cast<unsigned>(stops[k][c] + (s - k) * (stops[k + 1][c] - stops[k][c]));
    };
    std::snprintf(hex, sizeof hex, "#%02x%02x%02x", mix(0), mix(1), mix(2));
    return hex;
  }

  void text(double x, double y, const char* anchor, const char* color, const char* words) {
    put("<text x='%g' y='%g' text-anchor='%s' fill='%s'>%s</text>\n", x, y, anchor, color, words);
  }

  template <class... Args>
  void put(const char* format, Args... args) {
    char line[512];
    std::snprintf(line, sizeof line, format, args...);
    svg_ += line;
  }
  void put(const char* words) { svg_ += words; }

  const std::vector<limen::DelayedSynapse>& synapses_;
  double longest_ = 1, strongest_ = 1e-9;
  std::string svg_;
};
