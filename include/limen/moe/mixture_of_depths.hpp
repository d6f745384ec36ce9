#pragma once
/// @file  Only some rows of a sequence pass a block; the others skip it.
///
///   r_t = ⟨w, x_t⟩                                       x [T x D], w [D]
///   I   = the ⌊capacity T⌋ rows of a sequence with the largest r, at least one
///   y_t = x_t + r_t F(x_I)_t   for t ∈ I,   y_t = x_t for the others
///
/// F sees the chosen rows of each sequence, in order, as if there were no others, and remembers
/// only those. A choice by rank sees the whole sequence, so there is no step. `.threshold` chooses
/// by r_t > 0 instead, row by row, with a step; `.predict` trains r for it beside the choice by
/// rank: β times the mean cross entropy between σ(r_t) and "t ∈ I". The two have the same
/// parameters.
///
/// Raposo et al., "Mixture-of-Depths: dynamically allocating compute in transformer-based language
/// models", arXiv:2404.02258, equation 1 and section 3.5.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/dispatch.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

struct MixtureOfDepthsConfig {
  double capacity = 0.125;  ///< share of the rows that pass
  bool threshold = false;   ///< choose by r > 0
  double predict = 0;       ///< β
};

template <MixtureOfDepthsConfig C, class Block>
struct MixtureOfDepths {
  static_assert(detail::compose<Block>());
  static_assert(C.capacity > 0 && C.capacity <= 1,
                "MixtureOfDepths: .capacity must be above 0 and at most 1");
  static_assert(Block::in == Block::out,
                "MixtureOfDepths: a block must give as many numbers as it takes");

  static constexpr MixtureOfDepthsConfig config = C;
  static constexpr Index D = Block::in, in = D, out = D;
  static constexpr bool work_depends_on_data = true;
  using Scalar = typename Block::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = MixtureOfDepths<C, typename Block::template with_scalar<T>>;

  Tensor<Real, D> router;  ///< w
  Block block;             ///< F

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("router", l.router...);
    f("block", l.block...);
  }

  static MixtureOfDepths initialized(Random& random) {
    MixtureOfDepths layer;
    fill_normal(layer.router, 0.02, random);
    layer.block = Block::initialized(random);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename Block::State;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto r = scores(x);
    const Dispatch plan = choose(r, batch);
    auto y = x.copy();
    if (plan.places() == 0) return y;
    Sequence<Real, D> mine(plan.count(0));
    gather_rows(x.matrix(), plan.rows_of(0), mine.matrix());
    const auto f = block.forward(SequenceView<Real, D>(mine), batch.over(plan.offsets(0)));
    if (f.rows() != mine.rows()) return {};
    add_weighted(plan, f, r, y);
    return y;
  }

  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept
    requires(C.threshold && Streaming<Block>)
  {
    const FlushDenormals guard;
    auto y = x.copy();
    const Real r = score(x.data());
    if (passes(r)) {
      const auto f = block.step(x, state);
      for (Index d = 0; d < D; ++d) y[d] += r * f[d];
    }
    return y;
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const
    requires(!(C.threshold && Streaming<Block>))
  {
    static_assert(C.threshold,
                  "MixtureOfDepths: a choice by rank looks at whole sequences, there is no step; "
                  "set .threshold");
    static_assert(detail::Rules<Block>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x, f;  ///< f: of the rows that passed
    Sequence<Real, 1> r;
    Dispatch plan;
    detail::cache_of<Block> block;
    double predict = 0;

    /// β times the cross entropy; backward adds its slope by itself.
    double loss() const { return predict; }
    /// How many rows passed.
    Index load() const { return plan.places(); }
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires Trainable<Block>
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.r = scores(x);
    cache.plan = choose(cache.r, batch);
    const Dispatch& plan = cache.plan;
    cache.x = std::move(x);
    auto y = cache.x;
    Sequence<Real, D> mine(plan.count(0));
    gather_rows(std::as_const(cache.x).matrix(), plan.rows_of(0), mine.matrix());
    cache.f = block.forward(std::move(mine), batch.over(plan.offsets(0)), cache.block);
    if (cache.f.rows() != plan.count(0)) return {};
    add_weighted(plan, cache.f, cache.r, y);
    cache.predict = 0;
    for (Index t = 0; config.predict != 0 && t < y.rows(); ++t) {
      const double r = static_cast<double>(cache.r(t, 0)), chosen = passed(plan, t);
      const double entropy = std::max(r, 0.0) - chosen * r + std::log1p(std::exp(-std::abs(r)));
      cache.predict += config.predict * entropy / static_cast<double>(y.rows());
    }
    return y;
  }

  /// dF_t = r_t dy_t,  dr_t = ⟨dy_t, F_t⟩ + β (σ(r_t) - [t ∈ I]) / T,
  /// dx = dy + F'ᵀ dF + dr w,  dw = Σ_t dr_t x_t
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             MixtureOfDepths& gradient) const
    requires Trainable<Block>
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const Dispatch& plan = cache.plan;
    const Index count = plan.count(0);
    Sequence<Real, D> df(count);
    gather_weighted(plan, 0, dy.matrix(), cache.r.data(), df.matrix());
    const auto dmine = block.backward(df, batch.over(plan.offsets(0)), cache.block, gradient.block);
    if (dmine.rows() != count) return {};
    auto dx = dy.copy();
    auto dr = Sequence<Real, 1>::zeros(dy.rows());
    for (Index i = 0; i < count; ++i) {
      const Index t = plan.rows_of(0)[i];
      dr(t, 0) = dot(dy.row(t).data(), cache.f.row(i).data());
      for (Index d = 0; d < D; ++d) dx(t, d) += dmine(i, d);
    }
    for (Index t = 0; t < dy.rows(); ++t) {
      if constexpr (config.predict != 0) {
        const double s = 1 / (1 + std::exp(-static_cast<double>(cache.r(t, 0))));
        dr(t, 0) += static_cast<Real>(config.predict * (s - passed(plan, t)) /
                                      static_cast<double>(dy.rows()));
      }
      for (Index d = 0; d < D; ++d) {
        dx(t, d) += dr(t, 0) * router[d];
        gradient.router[d] += dr(t, 0) * cache.x(t, d);
      }
    }
    return dx;
  }

 private:
  static Real dot(const Real* a, const Real* b) noexcept {
    return reduce_row<Real>(D, [&](Index i, auto load) { return load(a + i) * load(b + i); });
  }
  Real score(const Real* x) const noexcept { return dot(x, router.data()); }
  Sequence<Real, 1> scores(SequenceView<Real, D> x) const {
    Sequence<Real, 1> r(x.rows());
    for (Index t = 0; t < x.rows(); ++t) r(t, 0) = score(x.row(t).data());
    return r;
  }

  /// NaN passes: what is broken must be seen.
  static bool passes(Real r) { return !(r <= Real(0)); }
  static double passed(const Dispatch& plan, Index t) { return plan.count_of(t) > 0 ? 1 : 0; }

  /// One expert, which takes the chosen rows. Equal scores: the earlier row; NaN is the largest.
  static Dispatch choose(const Sequence<Real, 1>& r, const Batch<State>& batch) {
    const Index rows = r.rows();
    Buffer<std::int32_t> ids(rows);
    Buffer<Index> order(rows);
    for (Index t = 0; t < rows; ++t) {
      ids[t] = C.threshold && passes(r(t, 0)) ? 0 : -1;
      order[t] = t;
    }
    for (Index b = 0; !C.threshold && b < batch.count(); ++b) {
      const Index first = batch.begin(b), end = batch.end(b, rows);
      if (first == end) continue;
      const Index taken = std::max(
          Index{1}, static_cast<Index>(config.capacity * static_cast<double>(end - first)));
      Index* const from = order.data() + first;
      std::nth_element(from, from + taken, order.data() + end, [&](Index a, Index c) {
        const Real ra = r(a, 0), rc = r(c, 0);
        if (std::isnan(ra) || std::isnan(rc)) return std::isnan(ra) && (!std::isnan(rc) || a < c);
        return ra != rc ? ra > rc : a < c;
      });
      for (Index i = 0; i < taken; ++i) ids[from[i]] = 0;
    }
    return {ids.data(), rows, 1, 1, batch.offsets(), batch.count()};
  }

  static void add_weighted(const Dispatch& plan, const Sequence<Real, D>& f,
                           const Sequence<Real, 1>& r, Sequence<Real, D>& y) {
    Buffer<const Real*> from(plan.places());
    for (Index i = 0; i < plan.places(); ++i) from[i] = f.row(i).data();
    combine(plan, from.data(), r.data(), y.matrix(), true);
  }
};

}  // namespace limen::inline LIMEN_ABI
