#pragma once
/// @file  Distributed alignment search: the directions along which a patch does what a variable
/// should do.
///
///   h' = h_b + Vᵀ V (h_s - h_b)             V [k x D], orthonormal rows, learned
///   L  = mean CE(z'(base with h'), label)   label: the answer if the variable had the source's
///   value
///
///   dv_i = Σ_t (v_i · δ_t) g_t + (v_i · g_t) δ_t,   δ = h_s - h_b,  g = dL/dh'
///
///     const auto found = align_subspace(model, bases, sources, labels, {.tap = "blocks.1"},
///                                       {.directions = 1});
///     subspace_effect(study, site, found->V), illusion_check(study, site, found->V[0], W, data)
///
/// Steps go along the part of dV that keeps rows orthonormal to first order, and end with Gram and
/// Schmidt; of a rotation of all of h only these k rows count. The model does not move. That a
/// subspace was found does not say that the model uses it: check for the illusion.
///
/// Geiger et al., "Finding alignments between interpretable causal variables and distributed neural
/// representations", arXiv:2303.02536.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/probe/subspace.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

/// Pairs of runs and the answer wanted of the last row when they are mixed.
template <class L>
struct Interchange {
  using X = Sequence<typename L::Scalar, L::in>;
  std::vector<X> bases, sources;
  std::vector<int> labels;

  Status check() const {
    if (bases.empty() || sources.size() != bases.size() || labels.size() != bases.size()) {
      return Error{"interchange: sources and labels",
                   std::to_string(bases.size()) + ", one or more",
                   std::to_string(sources.size()) + " and " + std::to_string(labels.size())};
    }
    for (std::size_t i = 0; i < bases.size(); ++i) {
      if (bases[i].rows() != sources[i].rows() || bases[i].rows() == 0) {
        return Error{"rows of source " + std::to_string(i), std::to_string(bases[i].rows()),
                     std::to_string(sources[i].rows())};
      }
      if (labels[i] < 0 || labels[i] >= L::out) {
        return Error{"label " + std::to_string(i), "0 to " + std::to_string(L::out - 1),
                     std::to_string(labels[i])};
      }
    }
    return {};
  }
};

struct InterchangeLoss {
  double value = 0;
  double accuracy = 0;          ///< pairs whose first choice is the label
  std::vector<Direction> dV{};  ///< as V
};

namespace detail {

/// h' on the way there, dV on the way back. Sums over rows of the site.
struct SubspaceSwap {
  const Site* site;
  const Recording* source;
  const std::vector<Direction>* V;
  std::vector<Direction>* dV;
  std::vector<Direction>* change;  ///< δ of each row, for the way back

  template <class Real>
  Status operator()(const TapPoint& point, MatrixView<Real> rows) const {
    Status why;
    const auto part = part_of_site(*site, point, rows, why);
    if (!part) return why;
    const Activations* from = source->find(point.name, point.pass);
    if (from == nullptr || from->rows != rows.rows ||
        static_cast<Index>(V->front().size()) != part->cols) {
      return Error{"directions at " + std::string(point.name),
                   std::to_string(part->cols) + " numbers, and as many rows in both runs",
                   std::to_string(V->front().size())};
    }
    for (Index t = 0; t < part->rows; ++t) {
      Direction delta(V->front().size()), moved(delta.size());
      for (std::size_t d = 0; d < delta.size(); ++d) {
        const Index at = static_cast<Index>(d);
        delta[d] = (*from)(site->rows.first + t, site->columns.first + at) -
                   static_cast<double>((*part)(t, at));
      }
      for (const Direction& v : *V) add_scaled(moved, dot(v, delta), v);
      for (std::size_t d = 0; d < delta.size(); ++d) {
        (*part)(t, static_cast<Index>(d)) += static_cast<Real>(moved[d]);
      }
      change->push_back(std::move(delta));
    }
    return {};
  }

  template <class Real>
  Status back(const TapPoint& point, MatrixView<Real> dh) const {
    Status why;
    const auto part = part_of_site(*site, point, dh, why);
    if (!part) return why;
    for (Index t = 0; t < part->rows; ++t) {
      const Direction& delta = (*change)[static_cast<std::size_t>(t)];
      Direction g(delta.size());
      for (std::size_t d = 0; d < g.size(); ++d) {
        g[d] = static_cast<double>((*part)(t, static_cast<Index>(d)));
      }
      for (std::size_t i = 0; i < V->size(); ++i) {
        add_scaled((*dV)[i], dot((*V)[i], delta), g);
        add_scaled((*dV)[i], dot((*V)[i], g), delta);
      }
    }
    return {};
  }
};

/// Rows orthonormal, in order.
inline void make_orthonormal(std::vector<Direction>& V) {
  for (std::size_t i = 0; i < V.size(); ++i) {
    for (int twice = 0; twice < 2; ++twice) {
      for (std::size_t j = 0; j < i; ++j) add_scaled(V[i], -dot(V[i], V[j]), V[j]);
    }
    const double norm = length(V[i]);  // before V[i] is moved: arguments have no order
    V[i] = scaled(std::move(V[i]), 1 / norm);
  }
}

}  // namespace detail

/// L of directions V and its slope in them, V taken as free numbers. The site passes once a run.
template <Trainable L>
Result<InterchangeLoss> interchange_loss(const L& model, const Interchange<L>& pairs,
                                         const Site& site, const std::vector<Direction>& V) {
  using Real = typename L::Scalar;
  constexpr Index C = L::out;
  if (const Status sound = pairs.check(); !sound) return sound.error();
  if (V.empty()) return Error{"interchange", "one direction or more", "none"};
  InterchangeLoss loss;
  loss.dV.assign(V.size(), Direction(V.front().size()));
  const auto gradient = std::make_unique<L>();
  const double each = 1 / static_cast<double>(pairs.bases.size());
  for (std::size_t i = 0; i < pairs.bases.size(); ++i) {
    Recording seen;
    Sequence<Real, C> y;
    Probe recorder, swap;
    recorder.on(site.tap, RecordInto{&seen});
    if (Status s = try_watch(model, pairs.sources[i], recorder, y); !s) return s.error();
    std::vector<Direction> change;
    swap.on(site.tap, detail::SubspaceSwap{&site, &seen, &V, &loss.dV, &change});
    typename L::Cache cache;
    const Status well = detail::listen(
        swap, pairs.bases[i].rows(), Batch<typename L::State>(), y, [&](const auto& batch) {
          return model.forward(Sequence<Real, L::in>(pairs.bases[i]), batch, cache);
        });
    if (!well) return well.error();
    auto dy = Sequence<Real, C>::zeros(y.rows());
    const Index last = y.rows() - 1;
    const MatrixView<const Real> z{y.row(last).data(), 1, C, C};
    loss.value +=
        each * detail::cross_entropy<Real>(z, std::span<const int>(&pairs.labels[i], 1),
                                           MatrixView<Real>{dy.row_data(last), 1, C, C}, {}, each);
    const auto choice = std::max_element(z.data, z.data + C) - z.data;
    loss.accuracy += choice == pairs.labels[i] ? each : 0;
    Sequence<Real, L::in> dx;
    if (Status s = try_watch_back(model, dy, swap, cache, *gradient, dx); !s) return s.error();
  }
  return loss;
}

struct AlignmentOptions {
  Index directions = 1;  ///< k
  int steps = 100;
  double rate = 0.5;  ///< of the first step; falls to 0 in a line
  std::uint64_t seed = 0;
};

struct Alignment {
  std::vector<Direction> V;  ///< [k x D], orthonormal
  double loss = 0, accuracy = 0;
  std::vector<double> losses;  ///< before each step
};

/// V for the columns of the site, from random directions on.
template <Trainable L>
Result<Alignment> align_subspace(const L& model, const Interchange<L>& pairs, const Site& site,
                                 const AlignmentOptions& options = {}) {
  if (const Status sound = pairs.check(); !sound) return sound.error();
  Recording seen;
  Probe recorder;
  Sequence<typename L::Scalar, L::out> y;
  recorder.on(site.tap, RecordInto{&seen});
  if (Status s = try_watch(model, pairs.bases.front(), recorder, y); !s) return s.error();
  const Index D = site.columns.size(seen.entries().front().seen.cols);
  if (options.directions < 1 || options.directions > D || !(options.rate > 0) ||
      options.steps < 0) {
    return Error{"AlignmentOptions: .directions, .rate, .steps",
                 "1 to " + std::to_string(D) + ", above 0, and 0 or more",
                 std::to_string(options.directions) + ", " + std::to_string(options.rate) + ", " +
                     std::to_string(options.steps)};
  }
  Random random(options.seed);
  Alignment found;
  for (Index i = 0; i < options.directions; ++i) {
    Direction v(static_cast<std::size_t>(D));
    for (double& x : v) x = random.normal();
    found.V.push_back(std::move(v));
  }
  detail::make_orthonormal(found.V);
  for (int step = 0; step <= options.steps; ++step) {
    auto loss = interchange_loss(model, pairs, site, found.V);
    if (!loss) return loss.error();
    found.loss = loss->value;
    found.accuracy = loss->accuracy;
    if (step == options.steps) break;
    found.losses.push_back(loss->value);
    // what of dV would turn rows of V into each other or stretch them changes nothing
    const std::vector<Direction> V = found.V;
    const double rate = options.rate * (1 - static_cast<double>(step) / options.steps);
    for (std::size_t i = 0; i < V.size(); ++i) {
      Direction d = loss->dV[i];
      for (const Direction& v : V) detail::add_scaled(d, -detail::dot(loss->dV[i], v), v);
      detail::add_scaled(found.V[i], -rate, d);
    }
    detail::make_orthonormal(found.V);
  }
  return found;
}

}  // namespace limen::inline LIMEN_ABI
