#pragma once
// A digit on its way through the network, what it costs, and how accuracy grows with time: an SVG.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "network.hpp"

namespace spikes {

/// Per digit of the test part.
struct Results {
  double dense_accuracy = 0, accuracy = 0, early_accuracy = 0, early_steps = 0;
  limen::Operations dense, spiking, early;
  std::vector<limen::ConfidencePoint> fixed, dynamic, oracle;
};

/// What happened at each step of one digit.
struct Passage {
  const float* pixels = nullptr;
  int label = 0;
  limen::Index stop = 0;  // steps taken
  std::array<std::array<bool, 64>, steps> in{};
  std::array<std::array<bool, hidden>, steps> fired{};
  std::array<std::array<float, hidden>, steps> membrane{};  // before the reset
  std::array<std::array<float, 10>, steps> belief{};
};

/// A digit that is right and takes about as long as most.
inline limen::Index telling_digit(const std::vector<limen::Decision>& decisions,
                                  const std::vector<int>& labels) {
  std::vector<std::size_t> right;
  for (std::size_t b = 0; b < labels.size(); ++b) {
    if (decisions[b].label == labels[b]) right.push_back(b);
  }
  if (right.empty()) return 0;
  const auto middle = right.begin() + static_cast<std::ptrdiff_t>(right.size()) * 3 / 5;
  std::nth_element(right.begin(), middle, right.end(), [&](std::size_t a, std::size_t b) {
    return decisions[a].steps != decisions[b].steps ? decisions[a].steps < decisions[b].steps
                                                    : a < b;
  });
  return static_cast<limen::Index>(*middle);
}

inline Passage passage_of(const Spiking& net, const Part& part, limen::Index digit,
                          limen::Index stop) {
  using namespace limen;
  Passage p;
  p.pixels = part.images.row(digit).data();
  p.label = part.labels[static_cast<std::size_t>(digit)];
  p.stop = stop;
  Spiking::State state{};
  std::array<float, 10> sum{};
  for (Index t = 0; t < steps; ++t) {
    const auto at = static_cast<std::size_t>(t);
    const auto x = part.spikes.row(digit * steps + t);
    const auto current = get<0>(net.layers).step(x, get<0>(state));
    const auto s = get<1>(net.layers).step(current, get<1>(state));
    const auto o = get<2>(net.layers).step(s, get<2>(state));
    for (Index i = 0; i < 64; ++i) p.in[at][static_cast<std::size_t>(i)] = x[i] != 0;
    for (Index i = 0; i < hidden; ++i) {
      const auto k = static_cast<std::size_t>(i);
      p.fired[at][k] = s[i] != 0;
      p.membrane[at][k] = get<1>(state).v[i] + static_cast<float>(neurons.threshold) * s[i];
    }
    float all = 0;
    for (std::size_t c = 0; c < 10; ++c) {
      sum[c] += o[static_cast<Index>(c)] / static_cast<float>(smoothing);
      all += p.belief[at][c] = std::exp(sum[c]);
    }
    for (float& b : p.belief[at]) b /= all;
  }
  return p;
}

class Picture {
 public:
  Picture(const Passage& passage, const Results& results) {
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 820 %d' width='820' height='%d' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='819' height='%d' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    way(passage);
    costs(results);
    times(results);
    svg_ += "</svg>\n";
  }

  bool write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr int height = 560;
  static constexpr const char *ink = "#0f172a", *grey = "#475569", *line = "#e2e8f0",
                              *blue = "#2563eb", *teal = "#0d9488", *amber = "#f59e0b";
  // The time axis of the left half.
  static constexpr double left = 116, dt = 17;
  static double at(limen::Index t) { return left + dt * (static_cast<double>(t) + 0.5); }

  // ── A digit on its way ─────────────────────────────────────────────────────────────────────────

  void way(const Passage& p) {
    text(28, 34, "start", ink, "a digit on its way: pixels, neurons, beliefs");
    digit(p.pixels, 34, 66, 7.5);
    const double stop = at(p.stop - 1) + dt / 2;
    put("<rect x='%.1f' y='52' width='%.1f' height='458' fill='#f1f5f9'/>\n", stop,
        left + dt * steps - stop);
    raster(p.in, 56, 1.6, blue);
    label(140, "pixels", "64");  // below the digit
    raster(p.fired, 174, 1.15, ink);
    label(174 + hidden * 1.15 / 2, "neurons", "128");
    traces(p, 340, 76);
    beliefs(p, 434, 72);
    for (limen::Index t = 0; t < steps; t += 3) {
      text(at(t), 526, "middle", grey, std::to_string(t + 1).c_str());
    }
    text(left + dt * steps / 2, 544, "middle", grey, "step");
    text(stop + 4, 48, "start", grey, "sure: not needed");
  }

  void label(double y, const char* what, const char* number_of) {
    text(left - 8, y, "end", grey, what);
    text(left - 8, y + 14, "end", "#94a3b8", number_of);
  }

  template <std::size_t n>
  void raster(const std::array<std::array<bool, n>, steps>& spikes, double y, double row,
              const char* color) {
    put("<rect x='%g' y='%g' width='%g' height='%.1f' fill='none' stroke='%s'/>\n", left, y - 2,
        dt * steps, row * static_cast<double>(n) + 4, line);
    for (limen::Index t = 0; t < steps; ++t) {
      for (std::size_t i = 0; i < n; ++i) {
        if (!spikes[static_cast<std::size_t>(t)][i]) continue;
        put("<rect x='%.1f' y='%.1f' width='5' height='%.2f' fill='%s'/>\n", at(t) - 2.5,
            y + row * static_cast<double>(i), std::max(row, 1.4), color);
      }
    }
  }

  /// Membranes of three neurons that fired most, different in when.
  void traces(const Passage& p, double y, double tall) {
    std::vector<std::size_t> order(hidden);
    std::array<int, hidden> count{};
    for (std::size_t i = 0; i < hidden; ++i) {
      order[i] = i;
      for (const auto& step : p.fired) count[i] += step[i];
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return count[a] > count[b]; });
    const std::array<std::size_t, 3> shown{order[0], order[hidden / 8], order[hidden / 3]};
    const char* const colors[] = {blue, teal, amber};
    double most = 1, least = 0;
    for (const std::size_t i : shown) {
      for (const auto& step : p.membrane) {
        most = std::max(most, static_cast<double>(step[i]));
        least = std::min(least, static_cast<double>(step[i]));
      }
    }
    const auto height_of = [&](double v) { return y + tall * (most - v) / (most - least); };
    put("<path d='M%g %.1fh%g' stroke='%s' stroke-dasharray='3 3'/>\n", left,
        height_of(neurons.threshold), dt * steps, "#94a3b8");
    text(left + dt * steps + 4, height_of(neurons.threshold) + 4, "start", grey, "θ");
    for (std::size_t k = 0; k < 3; ++k) {
      std::string d;
      double rest = 0;
      for (limen::Index t = 0; t < steps; ++t) {
        const auto now = static_cast<std::size_t>(t);
        const double h = p.membrane[now][shown[k]];
        d += number(t == 0 ? "M%.1f " : "L%.1f ", at(t) - dt / 2) + number("%.1f", height_of(rest));
        d += number("L%.1f ", at(t)) + number("%.1f", height_of(h));
        rest = h - (p.fired[now][shown[k]] ? neurons.threshold : 0);
        if (p.fired[now][shown[k]]) {
          d += number("L%.1f ", at(t)) + number("%.1f", height_of(rest));
          put("<circle cx='%.1f' cy='%.1f' r='2.4' fill='%s'/>\n", at(t), height_of(h), colors[k]);
        }
      }
      put("<path d='");
      svg_ += d;
      put("' fill='none' stroke='%s' stroke-width='1.4'/>\n", colors[k]);
    }
    label(y + tall / 2, "membranes", "of three");
  }

  void beliefs(const Passage& p, double y, double tall) {
    put("<path d='M%g %.1fh%g' stroke='%s'/>\n", left, y + tall, dt * steps, line);
    const auto last = p.belief[steps - 1];
    for (int c = 0; c < 10; ++c) {
      const auto k = static_cast<std::size_t>(c);
      std::string d;
      double most = 0;
      limen::Index when = 0;
      for (limen::Index t = 0; t < steps; ++t) {
        const double b = p.belief[static_cast<std::size_t>(t)][k];
        if (b > most) most = b, when = t;
        d += number(t == 0 ? "M%.1f " : "L%.1f ", at(t)) + number("%.1f", y + tall * (1 - b));
      }
      const bool right = c == p.label;
      put("<path d='");
      svg_ += d;
      put("' fill='none' stroke='%s' stroke-width='%g'/>\n", right ? blue : "#94a3b8",
          right ? 2.0 : 1.0);
      if (right) {
        text(left + dt * steps + 4, y + tall * (1 - static_cast<double>(last[k])) + 4, "start",
             blue, std::to_string(c).c_str());
      } else if (most > 0.2) {
        text(at(when), y + tall * (1 - most) - 3, "middle", grey, std::to_string(c).c_str());
      }
    }
    text(left - 8, y + tall / 2 + 4, "end", grey, "belief");
  }

  void digit(const float* pixels, double x, double y, double cell) {
    for (int i = 0; i < 64; ++i) {
      const int shade = 241 - static_cast<int>(226 * pixels[i]);
      put("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='#%02x%02x%02x'/>\n",
          x + cell * (i % 8), y + cell * (i / 8), cell, cell, shade, shade,
          std::min(255, shade + 8));
    }
  }

  // ── What a digit costs ─────────────────────────────────────────────────────────────────────────

  void costs(const Results& r) {
    constexpr double x = 470, most = 190;
    text(452, 34, "start", ink, "what a digit costs");
    struct Bar {
      const char* name;
      const limen::Operations& operations;
      double accuracy;
      const char* color;
    };
    const Bar bars[] = {{"dense, products", r.dense, r.dense_accuracy, "#94a3b8"},
                        {"spiking, additions", r.spiking, r.accuracy, ink},
                        {"spiking, until it is sure", r.early, r.early_accuracy, blue}};
    double widest = 1;
    for (const Bar& b : bars) widest = std::max(widest, b.operations.ac + b.operations.mac);
    double y = 52;
    for (const Bar& b : bars) {
      const double n = b.operations.ac + b.operations.mac;
      text(x - 18, y + 10, "start", grey, b.name);
      text(800, y + 10, "end", grey, number("%.1f%% right", 100 * b.accuracy).c_str());
      put("<rect x='%g' y='%g' width='%.1f' height='16' rx='2' fill='%s'/>\n", x - 18, y + 16,
          std::max(1.0, most * n / widest), b.color);
      text(x - 12 + most * n / widest, y + 29, "start", ink,
           (number("%.0f, ", n) + number("%.1f nJ", b.operations.picojoule() / 1000)).c_str());
      y += 52;
    }
    text(x - 18, y + 8, "start", "#94a3b8", "4.6 pJ a product with its sum, 0.9 pJ a sum (45 nm)");
  }

  // ── Accuracy against time ──────────────────────────────────────────────────────────────────────

  void times(const Results& r) {
    constexpr double x0 = 496, x1 = 796, y0 = 284, y1 = 490;
    text(452, 262, "start", ink, "how often it is right, and after how many steps");
    const auto x = [&](double s) { return x0 + (x1 - x0) * s / steps; };
    const auto y = [&](double a) { return y1 - (y1 - y0) * a; };
    for (int i = 0; i <= 4; ++i) {
      put("<path d='M%g %.1fH%g' stroke='%s'/>\n", x0, y(i / 4.0), x1, line);
      text(x0 - 6, y(i / 4.0) + 4, "end", grey, number("%.0f%%", 25.0 * i).c_str());
      text(x(4.0 * i), y1 + 18, "middle", grey, std::to_string(4 * i).c_str());
    }
    text((x0 + x1) / 2, y1 + 36, "middle", grey, "steps of a digit, mean");
    curve(r.fixed, x, y, grey);
    curve(r.oracle, x, y, amber);
    curve(r.dynamic, x, y, blue);
    put("<circle cx='%.1f' cy='%.1f' r='5' fill='none' stroke='%s' stroke-width='2'/>\n",
        x(r.early_steps), y(r.early_accuracy), blue);
    const struct {
      const char *name, *color;
    } names[] = {{"each stops when it is sure", blue},
                 {"all stop at one step", grey},
                 {"each stops when it is right (a bound)", amber}};
    double at_y = 391;  // between two lines
    for (const auto& n : names) {
      put("<rect x='560' y='%g' width='11' height='11' rx='2' fill='%s'/>\n", at_y, n.color);
      text(576, at_y + 10, "start", grey, n.name);
      at_y += 16;
    }
  }

  template <class X, class Y>
  void curve(std::vector<limen::ConfidencePoint> points, X x, Y y, const char* color) {
    std::sort(points.begin(), points.end(),
              [](const auto& a, const auto& b) { return a.mean_steps < b.mean_steps; });
    std::string d;
    for (const auto& p : points) {
      d += number(d.empty() ? "M%.1f " : "L%.1f ", x(p.mean_steps)) + number("%.1f", y(p.accuracy));
    }
    put("<path d='");
    svg_ += d;
    put("' fill='none' stroke='%s' stroke-width='1.8'/>\n", color);
  }

  // ── Words and numbers ──────────────────────────────────────────────────────────────────────────

  template <class... A>
  static std::string number(const char* format, A... values) {
    char words[400];
    std::snprintf(words, sizeof words, format, values...);
    return words;
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

}  // namespace spikes
