#pragma once
/// @file  Holding activations at given values: v' = where(mask, value, v).
///
///     Probe probe;
///     clamp(probe, {.tap = "blocks.3.mixer", .columns = {5, 1}}, 0.0);          // one unit silent
///     clamp(probe, {.tap = "gate"}, {.values = {0, 9, 0}, .mask = {0, 1, 0}});   // element-wise
///     replace(probe, {.tap = "blocks.3.mixer"}, other_run["blocks.3.mixer"]);   // a graft
///
/// values and mask: one number for all of the site, one row of them for each row, or all
/// [rows x columns]. What is clamped learns nothing, and nothing before it learns through it:
///
///   dv = (1 - mask) dv'
///
/// Singh et al., "What needs to go right for an induction head?", arXiv:2404.07129, section 3
/// ("optogenetics").

#include <string>
#include <utility>
#include <vector>

#include <limen/probe/probe.hpp>
#include <limen/probe/record.hpp>

namespace limen::inline LIMEN_ABI {

struct Clamp {
  std::vector<double> values = {0};
  std::vector<char> mask = {1};  ///< 0: left as it is
};

namespace detail {

/// A hook on part of what passes; gradients of what it held are 0.
class ClampHook {
 public:
  ClampHook(Site site, Clamp clamp) : site_(std::move(site)), clamp_(std::move(clamp)) {}

  template <class Real>
  Status operator()(const TapPoint& point, MatrixView<Real> rows) const {
    Status why;
    const auto part = part_of_site(site_, point, rows, why);
    if (!part) return why;
    for (const std::size_t n : {clamp_.values.size(), clamp_.mask.size()}) {
      if (n != 1 && n != static_cast<std::size_t>(part->cols) &&
          n != static_cast<std::size_t>(part->rows * part->cols)) {
        return Error{"clamp of " + std::string(point.name),
                     "1, " + std::to_string(part->cols) + " or " +
                         std::to_string(part->rows * part->cols) + " numbers",
                     std::to_string(n)};
      }
    }
    each(*part, [&](Index t, Index d, double value) { (*part)(t, d) = static_cast<Real>(value); });
    return {};
  }

  template <class Real>
  void back(const TapPoint& point, MatrixView<Real> dy) const {
    Status why;
    const auto part = part_of_site(site_, point, dy, why);
    if (part) each(*part, [&](Index t, Index d, double) { (*part)(t, d) = Real(0); });
  }

 private:
  /// f(row, column, value) where the mask is set.
  template <class Real, class F>
  void each(MatrixView<Real> part, F f) const {
    const auto at = [&](const auto& of, Index t, Index d) {
      const auto n = static_cast<Index>(of.size());
      return of[static_cast<std::size_t>(n == 1 ? 0 : n == part.cols ? d : t * part.cols + d)];
    };
    for (Index t = 0; t < part.rows; ++t) {
      for (Index d = 0; d < part.cols; ++d) {
        if (at(clamp_.mask, t, d) != 0) f(t, d, at(clamp_.values, t, d));
      }
    }
  }

  Site site_;
  Clamp clamp_;
};

}  // namespace detail

inline Probe::Id clamp(Probe& probe, Site site, Clamp how) {
  std::string tap = site.tap;
  return probe.on(std::move(tap), detail::ClampHook(std::move(site), std::move(how)));
}
inline Probe::Id clamp(Probe& probe, Site site, double value) {
  return clamp(probe, std::move(site), Clamp{.values = {value}});
}

namespace detail {

/// The site's part of `rows` takes the same place of `values`, which must have the shape of `rows`.
template <class Real>
Status replace_part(const Site& site, const TapPoint& point, MatrixView<Real> rows,
                    const Activations& values) {
  Status why;
  const auto part = part_of_site(site, point, rows, why);
  if (!part) return why;
  if (rows.rows != values.rows || rows.cols != values.cols) {
    return Error{"tap " + std::string(point.name), shape(rows.rows, rows.cols),
                 shape(values.rows, values.cols) + " to put there"};
  }
  for (Index t = 0; t < part->rows; ++t) {
    for (Index d = 0; d < part->cols; ++d) {
      (*part)(t, d) = static_cast<Real>(values(site.rows.first + t, site.columns.first + d));
    }
  }
  return {};
}

class ReplaceHook {
 public:
  ReplaceHook(Site site, Activations values) : site_(std::move(site)), values_(std::move(values)) {}

  template <class Real>
  Status operator()(const TapPoint& point, MatrixView<Real> rows) const {
    return replace_part(site_, point, rows, values_);
  }

  template <class Real>
  void back(const TapPoint& point, MatrixView<Real> dy) const {
    Status why;
    if (const auto part = part_of_site(site_, point, dy, why)) {
      for (Index t = 0; t < part->rows; ++t) {
        for (Index d = 0; d < part->cols; ++d) (*part)(t, d) = Real(0);
      }
    }
  }

 private:
  Site site_;
  Activations values_;
};

}  // namespace detail

/// The site takes the values that the same place had in another run.
inline Probe::Id replace(Probe& probe, Site site, Activations values) {
  std::string tap = site.tap;
  return probe.on(std::move(tap), detail::ReplaceHook(std::move(site), std::move(values)));
}

}  // namespace limen::inline LIMEN_ABI
