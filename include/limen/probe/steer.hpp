#pragma once
/// @file  Steering: a direction added to the activations on their way.
///
///   h += scale d         d [D], at the rows and columns of a site
///
///     const auto d = mean_difference(refused["blocks.3"], complied["blocks.3"]);
///     steer(probe, {.tap = "blocks.3"}, d, 2.0);
///
/// Rimsky et al., "Steering Llama 2 via contrastive activation addition", arXiv:2312.06681.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <limen/probe/probe.hpp>
#include <limen/probe/subspace.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

inline Status check_direction(const Direction& d) {
  if (length(d) > 0) return {};
  return Error{"direction", "another than 0", d.empty() ? "no numbers" : "0"};
}

/// h_t += factor(t) d; a factor of 0 leaves the bits alone.
template <class Real, class Factor>
Status push(const Site& site, const TapPoint& point, MatrixView<Real> rows, const Direction& d,
            Factor factor) {
  if (Status s = check_direction(d); !s) return s;
  Status why;
  const auto part = part_of_site(site, point, rows, why);
  if (!part) return why;
  if (part->cols != static_cast<Index>(d.size())) {
    return Error{"direction at " + std::string(point.name), std::to_string(part->cols) + " numbers",
                 std::to_string(d.size())};
  }
  for (Index t = 0; t < part->rows; ++t) {
    const double f = factor(t);
    for (Index i = 0; f != 0 && i < part->cols; ++i) {
      (*part)(t, i) += static_cast<Real>(f * d[static_cast<std::size_t>(i)]);
    }
  }
  return {};
}

}  // namespace detail

/// h += scale d at the site.
inline Probe::Id steer(Probe& probe, Site site, Direction d, double scale = 1) {
  std::string tap = site.tap;
  return probe.on(std::move(tap), [site = std::move(site), d = std::move(d), scale](
                                      const TapPoint& point, auto rows) {
    return detail::push(site, point, rows, d, [&](Index) { return scale; });
  });
}

/// The difference of the mean rows of a and b, made unit if asked: where to steer from b to a.
inline Direction mean_difference(const Activations& a, const Activations& b, bool unit = true) {
  Direction d(static_cast<std::size_t>(a.cols));
  for (std::size_t i = 0; i < d.size(); ++i) {
    const auto mean = [i](const Activations& x) {
      double sum = 0;
      for (Index t = 0; t < x.rows; ++t) sum += x(t, static_cast<Index>(i));
      return sum / static_cast<double>(x.rows);
    };
    d[i] = mean(a) - mean(b);
  }
  const double length = detail::length(d);
  return unit && length > 0 ? detail::scaled(std::move(d), 1 / length) : d;
}

}  // namespace limen::inline LIMEN_ABI
