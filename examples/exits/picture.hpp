#pragma once
// Accuracy against time for each policy, and images by the exit where they left, as an SVG.

#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "curves.hpp"

/// An image that left.
struct Departure {
  const float* pixels;  // side x side
  int label, said;
  double confidence;
};

class Picture {
 public:
  Picture(const std::vector<Curve>& curves, const Point& full,
          const std::array<std::vector<Departure>, 4>& departures,
          const std::array<double, 4>& work, double whole, limen::Index pixels)
      : side_(static_cast<int>(std::lround(std::sqrt(static_cast<double>(pixels))))) {
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %d' width='760' height='%d' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='759' height='%d' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    plot(curves, full);
    images(departures, work, whole);
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

  /// Curves that coincide are told apart by their marks: large and hollow first, small on top.
  void plot(const std::vector<Curve>& curves, const Point& full) {
    static const char* const colors[] = {"#2563eb", "#0d9488", "#f59e0b", "#db2777", "#64748b"};
    static const double radii[] = {6, 4.2, 2.4, 3, 3};
    double least = full.accuracy, most = full.accuracy, longest = full.ns / 1000;
    for (const Curve& c : curves) {
      for (const Point& p : c.points) {
        least = std::min(least, p.accuracy);
        most = std::max(most, p.accuracy);
        longest = std::max(longest, p.ns / 1000);
      }
    }
    const double down = step_for(100 * (most - least)), across = step_for(longest);
    const double low = std::floor(100 * least / down) * down;
    const double high = std::min(100.0, std::ceil(100 * most / down + 0.2) * down);
    const double end = std::ceil(longest / across) * across;
    const auto x = [&](double ns) { return left + (right - left) * ns / 1000 / end; };
    const auto y = [&](double a) {
      return bottom - (bottom - top) * (100 * a - low) / (high - low);
    };

    text(28, 34, "start", "#0f172a", "how often it is right, and how long an image takes");
    for (double a = low; a <= high + 1e-9; a += down) {
      put("<path d='M%g %.1fH%g' stroke='#e2e8f0'/>\n", left, y(a / 100), right);
      text(left - 6, y(a / 100) + 4, "end", "#475569", number("%g%%", a).c_str());
    }
    for (double us = 0; us <= end + 1e-9; us += across) {
      text(x(1000 * us), bottom + 18, "middle", "#475569", number("%g", us).c_str());
    }
    text((left + right) / 2, bottom + 36, "middle", "#475569", "µs an image, in one batch");
    for (std::size_t i = 0; i < curves.size(); ++i) {
      line(curves[i], colors[i % 5], radii[i % 5], i < 2, x, y);
    }
    put("<circle cx='%.1f' cy='%.1f' r='5' fill='#0f172a'/>\n", x(full.ns), y(full.accuracy));
    text(x(full.ns) - 4, y(full.accuracy) - 10, "end", "#0f172a", "without exits");
    for (std::size_t i = 0; i < curves.size(); ++i) {
      const double at = 228 + 17 * static_cast<double>(i);
      mark(268, at + 6, radii[i % 5], colors[i % 5], i < 2);
      text(280, at + 10, "start", "#475569", curves[i].name.c_str());
    }
  }

  /// 1, 2 or 5 times a power of ten, three to seven of them in `range`.
  static double step_for(double range) {
    double step = std::pow(10, std::floor(std::log10(range)) - 1);
    for (int i = 0; range / step > 7; ++i) step *= i % 3 == 1 ? 2.5 : 2;
    return step;
  }

  void mark(double x, double y, double r, const char* color, bool hollow) {
    put("<circle cx='%.1f' cy='%.1f' r='%g' fill='%s' stroke='%s' stroke-width='1.4'/>\n", x, y, r,
        hollow ? "#fff" : color, color);
  }

  template <class X, class Y>
  void line(const Curve& curve, const char* color, double r, bool hollow, X x, Y y) {
    std::string d;
    for (const Point& p : curve.points) {
      d += number(d.empty() ? "M%.1f " : "L%.1f ", x(p.ns)) + number("%.1f", y(p.accuracy));
    }
    put("<path d='");
    svg_ += d;
    put("' fill='none' stroke='%s' stroke-width='1.4'/>\n", color);
    for (const Point& p : curve.points) mark(x(p.ns), y(p.accuracy), r, color, hollow);
  }

  // ── Who left where ─────────────────────────────────────────────────────────────────────────────

  /// The surest first in each row, then the least sure.
  void images(const std::array<std::vector<Departure>, 4>& departures,
              const std::array<double, 4>& work, double whole) {
    text(404, 34, "start", "#0f172a", "what left where, the surest");
    text(574, 34, "start", "#0f172a", "and the least sure");
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
        draw(here[from], 404 + 40 * static_cast<double>(i) + (sure ? 0 : 10), y + 18);
      }
    }
    text(404, 386, "start", "#475569", "framed: wrong, with what it said");
  }

  void draw(const Departure& d, double x, double y) {
    const double cell = 35.2 / side_;
    for (int i = 0; i < side_ * side_; ++i) {
      const int shade = 241 - static_cast<int>(226 * d.pixels[i]);
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='#%02x%02x%02x'/>\n",
          x + cell * (i % side_), y + cell * (i / side_), cell + 0.1, cell + 0.1, shade, shade,
          std::min(255, shade + 8));
    }
    if (d.said != d.label) {
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='none' stroke='#dc2626' "
          "stroke-width='2'/>\n",
          x - 1, y - 1, side_ * cell + 2, side_ * cell + 2);
      text(x + side_ * cell / 2, y + side_ * cell + 14, "middle", "#dc2626",
           std::to_string(d.said).c_str());
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
  int side_;
};
