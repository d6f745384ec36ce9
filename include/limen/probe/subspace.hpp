#pragma once
/// @file  Patching along some directions only, and the check that the effect is not an illusion.
///
///   h' = h_b + Vᵀ V (h_s - h_b)        V [k x D], orthonormal rows; one direction v: V = v / |v|
///
///     subspace_effect(study, site, {v})
///     const auto report = illusion_check(study, site, v, W_out);
///
/// A direction may look as if it carried a feature because it mixes one that varies with it but is
/// never read (in the kernel of the next map W) and one that is read but hardly varies: the patch
/// writes what it saw on the first into the second. So v is taken apart, v = v_row + v_null with
/// v_null in the kernel of W. The direction is faithful if v_row alone keeps the effect.
///
/// Makelov, Lange & Nanda, "Is this the subspace you are looking for?", arXiv:2311.17030.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <limen/probe/patch.hpp>

namespace limen::inline LIMEN_ABI {

using Direction = std::vector<double>;

namespace detail {

inline double dot(const Direction& a, const Direction& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
inline double length(const Direction& v) { return std::sqrt(dot(v, v)); }

inline void add_scaled(Direction& to, double factor, const Direction& v) {
  for (std::size_t i = 0; i < v.size(); ++i) to[i] += factor * v[i];
}
inline Direction scaled(Direction v, double factor) {
  for (double& x : v) x *= factor;
  return v;
}

/// Orthonormal rows that span those of w [O x D]: Gram and Schmidt, twice for good measure.
inline std::vector<Direction> orthonormal_rows(const Activations& w, double tolerance = 1e-10) {
  std::vector<Direction> basis;
  for (Index o = 0; o < w.rows; ++o) {
    Direction row(static_cast<std::size_t>(w.cols));
    for (Index d = 0; d < w.cols; ++d) row[static_cast<std::size_t>(d)] = w(o, d);
    const double before = length(row);
    for (int twice = 0; twice < 2; ++twice) {
      for (const Direction& b : basis) add_scaled(row, -dot(row, b), b);
    }
    const double left = length(row);
    if (left > tolerance * before) basis.push_back(scaled(std::move(row), 1 / left));
  }
  return basis;
}

}  // namespace detail

/// The effect of patching the site along the rows of V. One row may have any length but 0.
template <class L, class Metric>
Result<Effect> subspace_effect(const Patching<L, Metric>& study, const Site& site,
                               std::vector<Direction> V) {
  if (V.empty()) return Error{"subspace", "at least one direction", "none"};
  if (V.size() == 1) {
    const double length = detail::length(V[0]);
    if (!(length > 0)) return Error{"direction", "another than 0", "0"};
    V[0] = detail::scaled(std::move(V[0]), 1 / length);
  }
  for (std::size_t i = 0; i < V.size(); ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      if (V[i].size() != V[j].size() ||
          !(std::abs(detail::dot(V[i], V[j]) - (i == j ? 1 : 0)) <= 1e-6)) {
        return Error{"directions " + std::to_string(j) + " and " + std::to_string(i),
                     "orthonormal ones", std::to_string(detail::dot(V[i], V[j])) + " as product"};
      }
    }
  }
  Probe probe;
  probe.on(site.tap, [&](const TapPoint& point, auto rows) -> Status {
    Status why;
    const auto part = part_of_site(site, point, rows, why);
    if (!part) return why;
    const Activations* source = study.source().find(point.name, point.pass);
    if (source == nullptr) return no_such_tap(point.name, study.source().names());
    if (source->rows != rows.rows || static_cast<Index>(V[0].size()) != part->cols) {
      return Error{"directions at " + std::string(point.name),
                   std::to_string(part->cols) + " numbers", std::to_string(V[0].size())};
    }
    for (Index t = 0; t < part->rows; ++t) {
      Direction h(V[0].size());
      for (std::size_t d = 0; d < h.size(); ++d) {
        h[d] = static_cast<double>((*part)(t, static_cast<Index>(d)));
      }
      Direction difference = detail::scaled(h, -1);
      for (std::size_t d = 0; d < h.size(); ++d) {
        difference[d] += (*source)(site.rows.first + t, site.columns.first + static_cast<Index>(d));
      }
      for (const Direction& v : V) detail::add_scaled(h, detail::dot(difference, v), v);
      for (std::size_t d = 0; d < h.size(); ++d) {
        auto& to = (*part)(t, static_cast<Index>(d));
        to = static_cast<std::remove_reference_t<decltype(to)>>(h[d]);
      }
    }
    return {};
  });
  return study.measure(probe);
}

struct IllusionReport {
  Direction row, null;                         ///< v = row + null, null in the kernel of W
  bool kernel_is_empty = false;                ///< W reads all: v_null is 0, nothing can hide there
  Effect all, v, v_row, v_null;                ///< patching the whole site, and each direction
  double row_variance = 0, null_variance = 0;  ///< of data along v_row and v_null, made unit

  /// v has an effect, which v_row (what is read of it) has not, and data hardly varies along that.
  bool illusory(double effect = 0.5, double kept = 0.5, double varies = 0.1) const {
    return std::abs(v.share()) >= effect && std::abs(v_row.share()) < kept * std::abs(v.share()) &&
           row_variance < varies * null_variance;
  }
};

/// W [O x D]: the map that reads the site next. `data` [N x D]: activations of the site.
template <class L, class Metric>
Result<IllusionReport> illusion_check(const Patching<L, Metric>& study, const Site& site,
                                      const Direction& v, const Activations& W,
                                      const Activations& data) {
  const Index D = static_cast<Index>(v.size());
  if (W.cols != D || data.cols != D || data.rows < 2) {
    return Error{"map and data of the direction", "rows of " + std::to_string(D) + " numbers",
                 detail::shape(W.rows, W.cols) + " and " + detail::shape(data.rows, data.cols)};
  }
  if (!(detail::length(v) > 0)) return Error{"direction", "another than 0", "0"};
  IllusionReport report;
  const auto read = detail::orthonormal_rows(W);
  report.kernel_is_empty = static_cast<Index>(read.size()) == D;
  report.row = Direction(v.size());
  for (const Direction& r : read) detail::add_scaled(report.row, detail::dot(v, r), r);
  report.null = v;
  detail::add_scaled(report.null, -1, report.row);

  const auto along = [&](const Direction& u, Effect& effect, double& variance) -> Status {
    const double length = detail::length(u);
    if (length <= 1e-10 * detail::length(v)) {  // there is no such direction: nothing is patched
      effect = {report.all.base, report.all.source, report.all.base};
      return {};
    }
    auto patched = subspace_effect(study, site, {u});
    if (!patched) return patched.error();
    effect = *patched;
    double sum = 0, squares = 0;
    for (Index t = 0; t < data.rows; ++t) {
      double p = 0;
      for (Index d = 0; d < D; ++d) p += data(t, d) * u[static_cast<std::size_t>(d)] / length;
      sum += p;
      squares += p * p;
    }
    const double n = static_cast<double>(data.rows);
    variance = (squares - sum * sum / n) / n;
    return {};
  };
  auto whole = study.effect({site});
  if (!whole) return whole.error();
  report.all = *whole;
  double ignored = 0;
  if (Status s = along(v, report.v, ignored); !s) return s.error();
  if (Status s = along(report.row, report.v_row, report.row_variance); !s) return s.error();
  if (Status s = along(report.null, report.v_null, report.null_variance); !s) return s.error();
  return report;
}

}  // namespace limen::inline LIMEN_ABI
