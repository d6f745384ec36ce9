#pragma once
// Six families of dynamical systems in the plane, each with two coefficients that differ from one
// environment to the next. States are scaled so that all families move in about the same range.

#include <array>
#include <cmath>

#include <limen/core/random.hpp>

struct Point {
  double x, y;
};

struct Family {
  const char* name;
  Point (*slope)(Point s, double a, double b);  ///< ds/dt
  Point a, b;                                   ///< from .x to .y
  Point center, spread;                         ///< of the first states
  double time;                                  ///< that one step takes
  Point scale;                                  ///< (s - center) / scale is what a model sees
};

inline constexpr std::array<Family, 6> families{{
    {"Lotka-Volterra",
     [](Point s, double a, double b) -> Point {
       return {a * s.x - s.x * s.y, s.x * s.y - b * s.y};
     },
     {0.6, 1.4},
     {0.6, 1.4},
     {1.2, 1.0},
     {0.6, 0.5},
     0.15,
     {1.0, 0.8}},
    {"pendulum",
     [](Point s, double a, double b) -> Point { return {s.y, -a * std::sin(s.x) - b * s.y}; },
     {1.0, 3.0},
     {0.0, 0.4},
     {0, 0},
     {1.8, 1.0},
     0.1,
     {1.2, 1.6}},
    {"Van der Pol",
     [](Point s, double a, double b) -> Point {
       return {s.y, a * (1 - s.x * s.x) * s.y - b * s.x};
     },
     {0.5, 1.8},
     {0.7, 1.4},
     {0, 0},
     {1.8, 1.8},
     0.1,
     {1.4, 1.8}},
    {"FitzHugh-Nagumo",
     [](Point s, double a, double b) -> Point {
       return {3 * (s.x - s.x * s.x * s.x / 3 - s.y + a), (s.x + 0.7 - b * s.y) / 3};
     },
     {0.4, 1.2},
     {0.6, 1.0},
     {0, 0.6},
     {1.5, 0.8},
     0.12,
     {1.3, 0.7}},
    {"Duffing",
     [](Point s, double a, double b) -> Point {
       return {s.y, -a * s.x - b * s.x * s.x * s.x - 0.1 * s.y};
     },
     {0.2, 1.0},
     {1.5, 3.5},
     {0, 0},
     {1.4, 1.0},
     0.08,
     {0.9, 1.3}},
    {"Brusselator",
     [](Point s, double a, double b) -> Point {
       const double cycle = s.x * s.x * s.y;
       return {a - (b + 1) * s.x + cycle, b * s.x - cycle};
     },
     {0.8, 1.2},
     {1.6, 2.6},
     {1.2, 2.0},
     {0.8, 0.8},
     0.1,
     {0.9, 0.9}},
}};

/// One step of time by the rule of Runge and Kutta, in eight parts.
inline Point advance(const Family& f, Point s, double a, double b) {
  const double h = f.time / 8;
  for (int part = 0; part < 8; ++part) {
    const auto along = [&](Point k, double t) -> Point { return {s.x + t * k.x, s.y + t * k.y}; };
    const Point k1 = f.slope(s, a, b), k2 = f.slope(along(k1, h / 2), a, b),
                k3 = f.slope(along(k2, h / 2), a, b), k4 = f.slope(along(k3, h), a, b);
    s.x += h / 6 * (k1.x + 2 * k2.x + 2 * k3.x + k4.x);
    s.y += h / 6 * (k1.y + 2 * k2.y + 2 * k3.y + k4.y);
  }
  return s;
}

inline double between(Point range, limen::Random& random) {
  return random.uniform(range.x, range.y);
}
