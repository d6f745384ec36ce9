#pragma once
// Draws, family by family, which experts serve its environments, a path with what the mixture makes
// of its first point, and the errors of all networks, as an SVG.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

class Picture {
 public:
  struct Row {
    const char* family;
    std::vector<double> share;   ///< of its environments, for each expert
    std::vector<double> path;    ///< x, y, x, y, ..
    std::vector<double> guess;   ///< likewise
    std::vector<double> errors;  ///< of each network
  };

  Picture(const std::vector<Row>& rows, const std::vector<std::string_view>& networks) {
    const double height = 96 + block * static_cast<double>(rows.size());
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %g' width='760' height='%g' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='759' height='%g' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    text(cells, 32, "start", "#0f172a", "environments by expert, %");
    text(plot, 32, "start", "#0f172a", "from a first point");
    text(bars, 32, "start", "#0f172a", "share of the motion missed, log scale");
    double top = 52;
    for (const Row& row : rows) {
      text(28, top + 38, "start", "#475569", row.family);
      heat(row.share, top);
      phase(row, top);
      errors(row.errors, top);
      top += block;
    }
    const std::size_t experts = rows.empty() ? 0 : rows[0].share.size();
    for (std::size_t e = 0; e < experts; ++e) {
      char name[32];
      std::snprintf(name, sizeof name, "%zu", e + 1);
      text(cells + cell * (static_cast<double>(e) + 0.5) - 2, top + 12, "middle", "#475569", name);
    }
    key(plot, top + 3, "#94a3b8", "simulated");
    key(plot + 84, top + 3, "#2563eb", "mixture");
    for (std::size_t n = 0; n < networks.size(); ++n) {
      key(bars + 86 * static_cast<double>(n), top + 3, colors[n % 3], networks[n]);
    }
    svg_ += "</svg>\n";
  }

  bool write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr double block = 78, cells = 150, cell = 28, plot = 340, bars = 512;
  static constexpr const char* colors[] = {"#2563eb", "#f59e0b", "#94a3b8"};

  void heat(const std::vector<double>& share, double top) {
    for (std::size_t e = 0; e < share.size(); ++e) {
      const double x = cells + cell * static_cast<double>(e);
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='58' rx='3' fill='#f1f5f9'/>\n", x, top + 4,
          cell - 4);
      if (share[e] == 0) continue;
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='58' rx='3' fill='#2563eb' "
          "fill-opacity='%.2f'/>\n",
          x, top + 4, cell - 4, share[e]);
      char percent[32];
      std::snprintf(percent, sizeof percent, "%.0f", 100 * share[e]);
      text(x + (cell - 4) / 2, top + 37, "middle", share[e] > 0.5 ? "#fff" : "#0f172a", percent,
           10);
    }
  }

  void phase(const Row& row, double top) {
    double low[2] = {1e9, 1e9}, high[2] = {-1e9, -1e9};
    for (std::size_t i = 0; i < row.path.size(); ++i) {
      low[i % 2] = std::min(low[i % 2], row.path[i]);
      high[i % 2] = std::max(high[i % 2], row.path[i]);
    }
    const auto line = [&](const std::vector<double>& path, const char* color, double width) {
      svg_ += "<polyline fill='none' points='";
      for (std::size_t i = 0; i + 1 < path.size(); i += 2) {
        const auto at = [&](std::size_t d) {  // outside of the frame, should it run away: its edge
          const double share = (path[i + d] - low[d]) / (high[d] - low[d] + 1e-9);
          return std::clamp(share, -0.05, 1.05);
        };
        put("%.1f,%.1f ", plot + 4 + 112 * at(0), top + 62 - 58 * at(1));
      }
      put("' stroke='%s' stroke-width='%g'/>\n", color, width);
    };
    line(row.path, "#94a3b8", 4);
    line(row.guess, "#2563eb", 1.5);
  }

  /// On a logarithmic scale, from 0.001 to 1.
  void errors(const std::vector<double>& of, double top) {
    for (std::size_t n = 0; n < of.size(); ++n) {
      const double y = top + 5 + 19.5 * static_cast<double>(n);
      const double share = std::clamp((std::log10(of[n]) + 3) / 3, 0.01, 1.0);
      put("<rect x='%g' y='%.1f' width='%.1f' height='16' rx='2' fill='%s'/>\n", bars, y,
          170 * share, colors[n % 3]);
      char number[32];
      std::snprintf(number, sizeof number, "%.4f", of[n]);
      text(bars + 170 * share + 6, y + 12, "start", "#0f172a", number);
    }
  }

  void key(double x, double y, const char* color, std::string_view words) {
    put("<rect x='%g' y='%g' width='11' height='11' rx='2' fill='%s'/>\n", x, y, color);
    text(x + 16, y + 10, "start", "#475569", words);
  }

  template <class... A>
  void put(const char* format, A... values) {
    char line[400];
    std::snprintf(line, sizeof line, format, values...);
    svg_ += line;
  }
  void text(double x, double y, const char* anchor, const char* color, std::string_view words,
            int size = 12) {
    put("<text x='%g' y='%g' text-anchor='%s' fill='%s' font-size='%d'>%.*s</text>\n", x, y, anchor,
        color, size, static_cast<int>(words.size()), words.data());
  }

  std::string svg_;
};
