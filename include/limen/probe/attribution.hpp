#pragma once
/// @file  Attribution patching: all effects of a patch from two runs and one way back.
///
///   e(site) ≈ Σ (h_source - h_base) · dM/dh        to first order; exact where M is linear in h
///
///     attribution(model, base, source, dM, sites)     dM [T x out]: the metric's slope in y
///
/// With `points` > 1 the slope is the mean over inputs on the way from base to source, in the
/// middles of as many equal pieces (integrated).
///
/// Syed et al., "Attribution patching outperforms automated circuit discovery", arXiv:2310.10348;
/// Sundararajan et al., "Axiomatic attribution for deep networks", arXiv:1703.01365.

#include <memory>
#include <vector>

#include <limen/probe/patch.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
/// Adds Σ (h_source - h_base) dh over the site.
struct SlopeTimesChange {
  const Site* site;
  const Recording* from;
  const Recording* to;
  double* sum;

  template <class Real>
  void operator()(const TapPoint&, MatrixView<Real>) const {}

  /// Ways back pass the last one first.
  template <class Real>
  Status back(const TapPoint& point, MatrixView<Real> dh) const {
    Status why;
    const auto part = part_of_site(*site, point, dh, why);
    if (!part) return why;
    const Index passes = std::ranges::count(from->names(), point.name);
    const Activations* a = from->find(point.name, passes - 1 - point.pass);
    const Activations* b = to->find(point.name, passes - 1 - point.pass);
    if (a == nullptr || b == nullptr || a->rows != dh.rows || b->rows != dh.rows) {
      return Error{"tap " + std::string(point.name), shape(dh.rows, dh.cols) + " in both runs",
                   "others"};
    }
    for (Index t = 0; t < part->rows; ++t) {
      for (Index d = 0; d < part->cols; ++d) {
        const Index r = site->rows.first + t, c = site->columns.first + d;
        *sum += ((*b)(r, c) - (*a)(r, c)) * static_cast<double>((*part)(t, d));
      }
    }
    return {};
  }
};
}  // namespace detail

/// dM: Sequence<Real, out>(SequenceView<Real, out> y).
template <Trainable L, class Slope>
Result<std::vector<double>> attribution(const L& model,
                                        const Sequence<typename L::Scalar, L::in>& base,
                                        const Sequence<typename L::Scalar, L::in>& source,
                                        const Slope& dM, const std::vector<Site>& sites,
                                        int points = 1) {
  using Real = typename L::Scalar;
  if (base.rows() != source.rows()) {
    return Error{"rows of the source", std::to_string(base.rows()), std::to_string(source.rows())};
  }
  if (points < 1) return Error{"points", "at least 1", std::to_string(points)};
  const Recording from = record(model, base), to = record(model, source);
  std::vector<double> effects(sites.size());
  for (int i = 0; i < points; ++i) {
    const double share = points == 1 ? 0 : (i + 0.5) / points;
    Sequence<Real, L::in> x = base;
    for (Index n = 0; n < x.size(); ++n) {
      const double way = static_cast<double>(source.data()[n]) - static_cast<double>(x.data()[n]);
      x.data()[n] += static_cast<Real>(share * way);
    }
    typename L::Cache cache;
    const auto gradient = std::make_unique<L>();
    const auto y = forward(model, std::move(x), cache);
    const Sequence<Real, L::out> dy = dM(SequenceView<Real, L::out>(y));
    Probe probe;
    for (std::size_t s = 0; s < sites.size(); ++s) {
      probe.on(sites[s].tap, detail::SlopeTimesChange{&sites[s], &from, &to, &effects[s]});
    }
    Sequence<Real, L::in> dx;
    if (Status well = try_watch_back(model, dy, probe, cache, *gradient, dx); !well) {
      return well.error();
    }
  }
  for (double& e : effects) e /= points;
  return effects;
}

}  // namespace limen::inline LIMEN_ABI
