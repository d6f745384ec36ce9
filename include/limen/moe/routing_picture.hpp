#pragma once
/// @file  What RoutingMeasures has counted, as a picture (SVG).
///
///     write(routing_over_time(layer));     // an expert a line, a call or so many rows a column
///     write(routing_of_tasks(layer));      // an expert a column, a task a line
///
/// The darker a field, the larger the share of the choices of its column (of its task).

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <limen/moe/measures.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// value(line, column) from 0 to 1.
template <class F>
std::string heat_map(const std::string& title, const char* line_name, const char* column_name,
                     std::size_t lines, std::size_t columns, F value) {
  constexpr int left = 64, top = 40, width = 640;
  const int tall = std::clamp(320 / static_cast<int>(std::max<std::size_t>(lines, 1)), 6, 24);
  const double wide =
      static_cast<double>(width) / static_cast<double>(std::max<std::size_t>(columns, 1));
  const int height = tall * static_cast<int>(lines);
  char text[256];
  std::string svg;
  const auto put = [&](auto... what) {
    std::snprintf(text, sizeof text, what...);
    svg += text;
  };
  put("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n",
      left + width + 16, top + height + 32);
  svg += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  svg += "<text x=\"64\" y=\"24\" font-size=\"14\">";
  for (const char c : title) svg += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  svg += "</text>\n";
  double most = 0;
  for (std::size_t i = 0; i < lines; ++i) {
    for (std::size_t j = 0; j < columns; ++j) most = std::max(most, value(i, j));
  }
  for (std::size_t i = 0; i < lines; ++i) {
    const int y = top + tall * static_cast<int>(i);
    if (tall >= 12 || i % 4 == 0) {
      put("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d</text>\n", left - 6, y + tall / 2 + 4,
          static_cast<int>(i));
    }
    for (std::size_t j = 0; j < columns; ++j) {
      const double v = most > 0 ? value(i, j) / most : 0;
      if (v <= 0) continue;  // white, as what is under it
      put("<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"rgb(%d,%d,%d)\"/>\n",
          left + wide * static_cast<double>(j), y, wide + 0.05, tall,
          static_cast<int>(255 - 235 * v), static_cast<int>(255 - 190 * v),
          static_cast<int>(255 - 105 * v));
    }
  }
  put("<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#888888\"/>\n",
      left, top, width, height);
  put("<text x=\"%d\" y=\"%d\">%s</text>\n", left, top + height + 20, column_name);
  put("<text x=\"14\" y=\"%d\" transform=\"rotate(-90 14 %d)\" text-anchor=\"middle\">%s</text>\n",
      top + height / 2, top + height / 2, line_name);
  return svg + "</svg>\n";
}

inline double share_of(const std::vector<Index>& counts, std::size_t e) {
  Index sum = 0;
  for (const Index n : counts) sum += n;
  return sum > 0 && e < counts.size() ? static_cast<double>(counts[e]) / static_cast<double>(sum)
                                      : 0;
}

}  // namespace detail

inline std::string routing_over_time(const RoutingMeasures::Layer& layer,
                                     const std::string& title = "Routing over time") {
  return detail::heat_map(
      title, "expert", "time", layer.load.size(), layer.history.size(),
      [&](std::size_t e, std::size_t c) { return detail::share_of(layer.history[c], e); });
}

inline std::string routing_of_tasks(const RoutingMeasures::Layer& layer,
                                    const std::string& title = "Experts of each task") {
  return detail::heat_map(
      title, "task", "expert", layer.tasks.size(), layer.load.size(),
      [&](std::size_t n, std::size_t e) { return detail::share_of(layer.tasks[n], e); });
}

}  // namespace limen::inline LIMEN_ABI
