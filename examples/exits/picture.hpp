#pragma once
// Accuracy against time for each policy, and digits by the exit where they left, as an SVG.

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "curves.hpp"

/// A digit and where it left.
struct Departure {
  const float* pixels;  // 8 x 8
  int label, said;
  double confidence;
};

class Picture {
 public:
  Picture(const std::vector<Curve>& curves, const Point& full,
          const std::array<std::vector<Departure>, 4>& departures) {
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %d' width='760' height='%d' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='759' height='%d' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    plot(curves, full);
    digits(departures);
    svg_ += "</svg>\n";
  }

  bool write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr int height = 400;
  static constexpr double left = 62, right = 372, top = 54, bottom = 330;

  // ── Accuracy against time ──────────────────────────────────────────────────────────────────────

  void plot(const std::vector<Curve>& curves, const Point& full) {
    static const char* const colors[] = {"#2563eb", "#0d9488", "#f59e0b", "#db2777", "#64748b"};
    double least = full.accuracy, most = full.accuracy, longest = full.ns;
    for (const Curve& c : curves) {
      for (const Point& p : c.points) {
        least = std::min(least, p.accuracy);
        most = std::max(most, p.accuracy);
        longest = std::max(longest, p.ns);
      }
    }
    least = std::max(0.0, least - 0.01);
    most = std::min(1.0, most + 0.005);
    const auto x = [&](double ns) { return left + (right - left) * ns / (1.05 * longest); };
    const auto y = [&](double a) { return bottom - (bottom - top) * (a - least) / (most - least); };

    text(28, 34, "start", "#0f172a", "how often it is right, and how long a digit takes");
    for (int i = 0; i <= 4; ++i) {
      const double a = least + (most - least) * i / 4, ns = 1.05 * longest * i / 4;
      put("<path d='M%g %.1fH%g' stroke='#e2e8f0'/>\n", left, y(a), right);
      text(left - 6, y(a) + 4, "end", "#475569", number("%.1f%%", 100 * a).c_str());
      text(x(ns), bottom + 18, "middle", "#475569", number("%.1f", ns / 1000).c_str());
    }
    text((left + right) / 2, bottom + 36, "middle", "#475569", "µs a digit, in one batch");
    for (std::size_t i = 0; i < curves.size(); ++i) line(curves[i], colors[i % 5], x, y);
    put("<circle cx='%.1f' cy='%.1f' r='5' fill='#0f172a'/>\n", x(full.ns), y(full.accuracy));
    text(x(full.ns) - 8, y(full.accuracy) - 8, "end", "#0f172a", "without exits");
    for (std::size_t i = 0; i < curves.size(); ++i) {
      const double at = 196 + 17 * static_cast<double>(i);
      put("<rect x='262' y='%g' width='11' height='11' rx='2' fill='%s'/>\n", at, colors[i % 5]);
      text(278, at + 10, "start", "#475569", curves[i].name.c_str());
    }
  }

  template <class X, class Y>
  void line(const Curve& curve, const char* color, X x, Y y) {
    std::string d;
    for (const Point& p : curve.points) {
      d += number(d.empty() ? "M%.1f " : "L%.1f ", x(p.ns)) + number("%.1f", y(p.accuracy));
    }
    put("<path d='");
    svg_ += d;
    put("' fill='none' stroke='%s' stroke-width='1.8'/>\n", color);
    for (const Point& p : curve.points) {
      put("<circle cx='%.1f' cy='%.1f' r='2.6' fill='%s'/>\n", x(p.ns), y(p.accuracy), color);
    }
  }

  // ── Who left where ─────────────────────────────────────────────────────────────────────────────

  /// The surest first in each row, then the least sure.
  void digits(const std::array<std::vector<Departure>, 4>& departures) {
    text(404, 34, "start", "#0f172a", "which digits left where: the surest and the least sure");
    for (std::size_t k = 0; k < 4; ++k) {
      const double y = 54 + 80 * static_cast<double>(k);
      const auto& here = departures[k];
      const std::string words = (k < 3 ? "exit " + std::to_string(k + 1) : std::string("the end")) +
                                ": " + std::to_string(here.size()) + ", " +
                                number("%.0f%% of the work", 100 * work[k] / whole);
      text(404, y + 10, "start", "#475569", words.c_str());
      constexpr std::size_t half = 4;
      for (std::size_t i = 0; i < std::min(here.size(), 2 * half); ++i) {
        const bool sure = i < half;
        const auto from = sure || here.size() <= 2 * half ? i : here.size() - 2 * half + i;
        draw(here[from], 404 + 40 * static_cast<double>(i) + (sure ? 0 : 10), y + 16);
      }
    }
    text(404, 386, "start", "#475569", "framed: wrong, with what it said");
  }

  void draw(const Departure& d, double x, double y) {
    constexpr double cell = 4.4;
    for (int i = 0; i < 64; ++i) {
      const int shade = 241 - static_cast<int>(226 * d.pixels[i]);
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='#%02x%02x%02x'/>\n",
          x + cell * (i % 8), y + cell * (i / 8), cell, cell, shade, shade,
          std::min(255, shade + 8));
    }
    if (d.said != d.label) {
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='none' stroke='#dc2626' "
          "stroke-width='2'/>\n",
          x - 1, y - 1, 8 * cell + 2, 8 * cell + 2);
      text(x + 4 * cell, y + 8 * cell + 14, "middle", "#dc2626", std::to_string(d.said).c_str());
    }
  }

  // ── Words and numbers ──────────────────────────────────────────────────────────────────────────

  template <class... A>
  static std::string number(const char* format, A... values) {
    char line[400];
    std::snprintf(line, sizeof line, format, values...);
    return line;
  }
  template <class... A>
  void put(const char* format, A... values) {
    svg_ += number(format, values...);
  }
  void text(double x, double y, const char* anchor, const char* color, const char* words) {
    put("<text x='%g' y='%g' text-anchor='%s' fill='%s'>%s</text>\n", x, y, anchor, color, words);
  }

  std::string svg_;
};
