#pragma once
// Draws days of single sensors as an SVG: what was read, what was foretold an hour before, and the
// average of that time of the week.

#include <cstdio>
#include <string>
#include <vector>

class Picture {
 public:
  struct Day {
    std::ptrdiff_t sensor, weekday;
    std::vector<double> truth, season, foretold;
  };

  void add(const Day& day) { days_.push_back(day); }

  bool write(const std::string& path) {
    draw();
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    const bool written = std::fwrite(svg_.data(), 1, svg_.size(), file) == svg_.size();
    return std::fclose(file) == 0 && written;
  }

 private:
  static constexpr double left = 62, wide = 670, high = 130, block = 176, fastest = 80;

  void draw() {
    const double height = 60 + block * static_cast<double>(days_.size());
    svg_.clear();
    put("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 %g' width='760' height='%g' "
        "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif' "
        "font-size='12'>\n",
        height, height);
    put("<rect x='.5' y='.5' width='759' height='%g' rx='10' fill='#fff' stroke='#e2e8f0'/>\n",
        height - 1);
    double top = 44;
    for (const Day& day : days_) {
      panel(day, top);
      top += block;
    }
    key(left, height - 24, "#94a3b8", "as it was");
    key(left + 110, height - 24, "#2563eb", "as foretold an hour before");
    key(left + 310, height - 24, "#f59e0b", "mean of that time of the week");
    svg_ += "</svg>\n";
  }

  void panel(const Day& day, double top) {
    static const char* const names[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                        "Friday", "Saturday", "Sunday"};
    char title[64];
    std::snprintf(title, sizeof title, "sensor %td, a %s", day.sensor + 1, names[day.weekday]);
    text(left, top - 8, "start", "#0f172a", title);
    for (int speed = 0; speed <= 80; speed += 20) {
      const double y = top + high * (1 - speed / fastest);
      put("<line x1='%g' y1='%.1f' x2='%g' y2='%.1f' stroke='#f1f5f9'/>\n", left, y, left + wide,
          y);
      char label[16];
      std::snprintf(label, sizeof label, speed == 80 ? "%d km/h" : "%d", speed);
      text(left - 6, y + 4, "end", "#475569", label);
    }
    for (int hour = 0; hour <= 24; hour += 6) {
      char label[16];
      std::snprintf(label, sizeof label, "%d:00", hour);
      text(left + wide * hour / 24, top + high + 16, "middle", "#475569", label);
    }
    curve(day.season, top, "#f59e0b", "1.5", " stroke-dasharray='5 3'");
    curve(day.truth, top, "#94a3b8", "3", "");
    curve(day.foretold, top, "#2563eb", "1.5", "");
  }

  void curve(const std::vector<double>& values, double top, const char* color, const char* width,
             const char* more) {
    svg_ += "<polyline fill='none' points='";
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double x = wide * static_cast<double>(i) / static_cast<double>(values.size());
      put("%.1f,%.1f ", left + x, top + high * (1 - values[i] / fastest));
    }
    put("' stroke='%s' stroke-width='%s'%s/>\n", color, width, more);
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

  std::vector<Day> days_;
  std::string svg_;
};
