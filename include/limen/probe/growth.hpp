#pragma once
/// @file  How a massive activation grows over a training: a law of five parameters, and its fit.
///
///   f(t) = A exp(-λ x) log x + K,   x = γ t + t0 > 0
///
///   df/dA = e log x        df/dλ = -A x e log x      df/dx = A e (1 / x - λ log x)     e = exp(-λ
///   x) df/dγ = t df/dx        df/dt0 = df/dx            df/dK = 1
///
///   peak (A > 0): 1 = λ x log x, so x* = exp(W(1 / λ)), t* = (x* - t0) / γ; then down to K.
///
///     const auto fit = fit_growth(steps, ratios);     Result<GrowthFit>
///     fit->law(1000.0), fit->law.peak(), fit->r_squared
///
/// Levenberg and Marquardt over (A, log λ, log γ, t0, K), on t and r divided by their largest.
/// From several starts, as the sum of squares has more than one valley. W: Lambert's, by Newton.
///
/// Gallego-Feliciano et al., "Hidden dynamics of massive activations", arXiv:2508.03616; Marquardt,
/// J. SIAM 11 (1963).

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>

namespace limen::inline LIMEN_ABI {

/// w with w exp(w) = y, for y >= 0.
inline double lambert_w(double y) {
  double w = std::log1p(y);
  for (int i = 0; i < 64; ++i) {
    const double e = std::exp(w), step = (w * e - y) / (e * (w + 1));
    w -= step;
    if (std::abs(step) <= 1e-15 * (1 + std::abs(w))) break;
  }
  return w;
}

struct GrowthLaw {
  double A = 0, lambda = 0, gamma = 1, t0 = 1, K = 0;

  double x(double t) const { return gamma * t + t0; }
  double operator()(double t) const { return A * std::exp(-lambda * x(t)) * std::log(x(t)) + K; }

  /// df by A, λ, γ, t0, K.
  std::array<double, 5> slope(double t) const {
    const double at = x(t), e = std::exp(-lambda * at), l = std::log(at);
    const double dx = A * e * (1 / at - lambda * l);
    return {e * l, -A * at * e * l, t * dx, dx, 1};
  }

  /// t*, where f is largest for A > 0; it lies behind the start if it is positive.
  double peak() const { return (std::exp(lambert_w(1 / lambda)) - t0) / gamma; }
};

struct GrowthFit {
  GrowthLaw law;
  double r_squared = 0;
};

namespace detail {

/// Solves the 5 x 5 system a z = b, a positive definite (Cholesky); false if it is not.
inline bool solve5(std::array<std::array<double, 5>, 5> a, std::array<double, 5> b,
                   std::array<double, 5>& z) {
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (std::size_t k = 0; k < j; ++k) sum -= a[i][k] * a[j][k];
      if (i == j && !(sum > 0)) return false;
      a[i][j] = i == j ? std::sqrt(sum) : sum / a[j][j];
    }
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  for (std::size_t i = 5; i-- > 0;) {
    for (std::size_t k = i + 1; k < 5; ++k) b[i] -= a[k][i] * z[k];
    z[i] = b[i] / a[i][i];
  }
  return true;
}

inline double squares(const GrowthLaw& f, const std::vector<double>& t,
                      const std::vector<double>& y) {
  double sum = 0;
  for (std::size_t i = 0; i < t.size(); ++i) {
    if (!(f.x(t[i]) > 0)) return std::numeric_limits<double>::infinity();
    const double r = f(t[i]) - y[i];
    sum += r * r;
  }
  return sum;
}

/// Down from `f` into its valley.
inline GrowthLaw descend(GrowthLaw f, const std::vector<double>& t, const std::vector<double>& y,
                         int steps = 2000) {
  double best = squares(f, t, y), damping = 1e-3;
  for (int step = 0; step < steps && damping < 1e12 && best > 0; ++step) {
    std::array<std::array<double, 5>, 5> jj{};
    std::array<double, 5> jr{}, z{};
    for (std::size_t i = 0; i < t.size(); ++i) {
      auto j = f.slope(t[i]);
      j[1] *= f.lambda;  // by log λ
      j[2] *= f.gamma;   // by log γ
      const double r = y[i] - f(t[i]);
      for (std::size_t a = 0; a < 5; ++a) {
        jr[a] += j[a] * r;
        for (std::size_t b = 0; b < 5; ++b) jj[a][b] += j[a] * j[b];
      }
    }
    for (std::size_t a = 0; a < 5; ++a) jj[a][a] += damping * jj[a][a] + 1e-300;
    if (!solve5(jj, jr, z)) {
      damping *= 4;
      continue;
    }
    const GrowthLaw next{f.A + z[0], f.lambda * std::exp(z[1]), f.gamma * std::exp(z[2]),
                         f.t0 + z[3], f.K + z[4]};
    const double now = squares(next, t, y);
    if (now < best) {
      const bool done = best - now <= 1e-15 * best;
      f = next;
      best = now;
      damping = std::max(damping / 3, 1e-14);
      if (done) break;
    } else {
      damping *= 4;
    }
  }
  return f;
}

}  // namespace detail

/// At least 6 points, finite, with t >= 0.
inline Result<GrowthFit> fit_growth(std::vector<double> t, std::vector<double> y) {
  if (t.size() < 6 || t.size() != y.size()) {
    return Error{"growth", "at least 6 points (t, r)",
                 std::to_string(t.size()) + " and " + std::to_string(y.size())};
  }
  for (std::size_t i = 0; i < t.size(); ++i) {
    if (!std::isfinite(y[i]) || !(t[i] >= 0) || !std::isfinite(t[i])) {
      return Error{"growth at point " + std::to_string(i), "finite numbers, t >= 0", "others"};
    }
  }
  const double t_max = *std::max_element(t.begin(), t.end());
  const double y_max = *std::max_element(y.begin(), y.end());
  const auto [low, high] = std::minmax_element(y.begin(), y.end());
  if (!(t_max > 0) || !(y_max > 0) || !(*high > *low)) {
    return Error{"growth", "values that grow, over more than one t", "none that do"};
  }
  double mean = 0, square = 0, total = 0, y_mean = 0;
  for (std::size_t i = 0; i < t.size(); ++i) {
    t[i] /= t_max;
    y[i] /= y_max;
    mean += t[i] / static_cast<double>(t.size());
    y_mean += y[i] / static_cast<double>(t.size());
  }
  for (std::size_t i = 0; i < t.size(); ++i) {
    square += (t[i] - mean) * (t[i] - mean) / static_cast<double>(t.size());
    total += (y[i] - y_mean) * (y[i] - y_mean);
  }
  const auto [y_low, y_high] = std::minmax_element(y.begin(), y.end());
  const double range = *y_high - *y_low;
  GrowthLaw best;
  double least = std::numeric_limits<double>::infinity();
  for (const double faster : {1.0, 10.0, 100.0}) {
    for (const double decay : {1.0, 0.1, 0.01}) {
      const GrowthLaw start{range, decay / std::sqrt(square), faster, 1, *y_low + range / 2};
      const GrowthLaw end = detail::descend(start, t, y);
      const double left = detail::squares(end, t, y);
      if (left < least) {
        least = left;
        best = end;
      }
    }
  }
  best.gamma /= t_max;
  best.A *= y_max;
  best.K *= y_max;
  return GrowthFit{best, 1 - least / total};
}

}  // namespace limen::inline LIMEN_ABI
