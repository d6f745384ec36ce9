#pragma once
// Draws, layer by layer, how much the heads of both models look at the first token, and how far the
// gates of one of them are open, as an SVG.

#include <cstdio>
#include <string>
#include <vector>

#include <limen/attention/measures.hpp>

class Picture {
 public:
  using Layers = std::vector<limen::AttentionMeasures::Layer>;

  Picture(const Layers& plain, const Layers& gated) {
    const double height = 92 + block * static_cast<double>(plain.size());
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %g' width='760' height='%g' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='759' height='%g' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    text(28, 34, "start", "#0f172a", "attention to the first token, by head");
    text(420, 34, "start", "#0f172a", "how far the gates are open");
    double top = 52;
    for (std::size_t l = 0; l < plain.size() && l < gated.size(); ++l) {
      char name[32];
      std::snprintf(name, sizeof name, "layer %zu", l + 1);
      text(28, top + 14, "start", "#475569", name);
      heads(plain[l], top, "#f59e0b");
      heads(gated[l], top + 28, "#2563eb");
      histogram(gated[l], top);
      top += block;
    }
    key(28, top + 4, "#f59e0b", "without a gate");
    key(150, top + 4, "#2563eb", "with one");
    text(420, top + 14, "start", "#475569", "closed");
    text(732, top + 14, "end", "#475569", "open");
    svg_ += "</svg>\n";
  }

  bool write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr double block = 74;

  /// Bars of the heads, side by side in one line: their length is the share from 0 to 1.
  void heads(const limen::AttentionMeasures::Layer& layer, double y, const char* color) {
    const double wide = 290.0 / static_cast<double>(layer.first.size());
    for (std::size_t h = 0; h < layer.first.size(); ++h) {
      const double x = 84 + wide * static_cast<double>(h), share = layer.first_token(h);
      put("<rect x='%.1f' y='%g' width='%.1f' height='24' fill='#f1f5f9'/>\n", x, y, wide - 4);
      put("<rect x='%.1f' y='%g' width='%.1f' height='24' fill='%s'/>\n", x, y, (wide - 4) * share,
          color);
      char percent[16];
      std::snprintf(percent, sizeof percent, "%.0f%%", 100 * share);
      text(x + wide - 8, y + 16, "end", "#0f172a", percent);
    }
  }

  void histogram(const limen::AttentionMeasures::Layer& layer, double top) {
    const double wide = 312.0 / static_cast<double>(limen::AttentionMeasures::bins);
    limen::Index most = 1;
    for (const auto n : layer.histogram) most = n > most ? n : most;
    for (std::size_t b = 0; b < layer.histogram.size(); ++b) {
      const double high = 52 * static_cast<double>(layer.histogram[b]) / static_cast<double>(most);
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='#2563eb'/>\n",
          420 + wide * static_cast<double>(b), top + 52 - high, wide - 1, high);
    }
  }

  void key(double x, double y, const char* color, const char* words) {
    put("<rect x='%g' y='%g' width='11' height='11' rx='2' fill='%s'/>\n", x, y, color);
    text(x + 16, y + 10, "start", "#475569", words);
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

  std::string svg_;
};
