#pragma once
/// @file  Batch norms that know of time: tdBN, TEBN and BNTT.
///
///   together  tdBN  y = w ⊙ x̂ + b          statistics over all rows, all steps; w starts at α θ,
///                                          so that what arrives is of the size of a threshold
///   scaled    TEBN  y_t = p_t (w ⊙ x̂ + b)  the same, times a learned p of each step
///   each      BNTT  y_t = w_t ⊙ x̂_t        every step its own statistics and w, no shift
///
///   x, y [T x P D]   P positions of D channels in a row, as in nn/batch_norm.hpp, of which all
///   three
///                    are made; running statistics are gathered and settled as there
///
/// α = 1, or 1/√2 in each of two branches that are added. In training, statistics are over the
/// whole batch, so a stream cannot be trained step by step; inference streams. With `.steps` the
/// layer knows where in its sequence it is: going past the last step is an error in `forward`, and
/// NaN from `step`, which cannot fail. Behind a Linear the inference form is a Linear (of each
/// step): `fold(linear, norm)`, `fold(linear, norm, t)`.
///
/// Zheng et al., Going Deeper With Directly-Trained Larger Spiking Neural Networks,
/// arXiv:2011.05280 (tdBN); Duan et al., Temporal Effective Batch Normalization in Spiking Neural
/// Networks, NeurIPS 2022 (TEBN); Kim & Panda, arXiv:2010.01729 (BNTT).

#include <array>
#include <cstring>
#include <limits>
#include <string>

#include <limen/nn/batch_norm.hpp>
#include <limen/spiking/step_number.hpp>

namespace limen::inline LIMEN_ABI {

enum class TimeNorm { together, scaled, each };

struct TemporalBatchNormConfig {
  Index d = 0;                         ///< D, channels
  Index positions = 1;                 ///< P, in a row
  TimeNorm kind = TimeNorm::together;  ///< tdBN, TEBN or BNTT
  Index steps = 0;                     ///< of a sequence at most; for scaled and each
  double threshold = 1;                ///< θ of the neurons behind it
  double alpha = 1;                    ///< α
  double eps = 1e-5;                   ///< added to the variance
};

/// One norm, or one for each step.
template <class Norm, Index Count>
struct NormsOfSteps {
  std::array<Norm, static_cast<std::size_t>(Count)> at;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    for (std::size_t t = 0; t < static_cast<std::size_t>(Count); ++t) {
      f(std::string_view(std::to_string(t)), l.at[t]...);
    }
  }
};

template <TemporalBatchNormConfig C, class S = float>
struct TemporalBatchNorm {
  static constexpr bool each = C.kind == TimeNorm::each, scales = C.kind == TimeNorm::scaled,
                        counts = each || scales;
  static_assert(C.d > 0, "TemporalBatchNorm: .d must be positive");
  static_assert(!counts || C.steps > 0, "TemporalBatchNorm: .steps must be positive for this kind");
  static_assert(counts || C.steps == 0, "TemporalBatchNorm: .steps is for scaled and each");
  static_assert(C.threshold > 0 && C.alpha > 0,
                "TemporalBatchNorm: .threshold and .alpha must be positive");

  static constexpr TemporalBatchNormConfig config = C;
  static constexpr Index P = C.positions, in = P * C.d, out = in, steps = C.steps,
                         norms_of = each ? steps : 1;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = TemporalBatchNorm<C, T>;
  using Norm = BatchNorm<
      BatchNormConfig{.d = C.d, .positions = C.positions, .eps = config.eps, .bias = !each}, S>;

  // ── What it has learned, and measured ──────────────────────────────────────────────────────────
  NormsOfSteps<Norm, norms_of> norms;
  Optional<scales, Tensor<Real, counts ? steps : 1>> scale;  ///< p

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("norms", l.norms...);
    f("scale", l.scale...);
  }

  static TemporalBatchNorm initialized(Random& random) {
    TemporalBatchNorm layer;
    for (Norm& norm : layer.norms.at) {
      norm = Norm::initialized(random);
      if constexpr (!counts) fill(norm.weight, config.alpha * config.threshold);
    }
    if constexpr (scales) fill(layer.scale, 1);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = std::conditional_t<counts, StepNumber<Real, true>, NoState>;

  Sequence<Real, in> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows()) || !within(batch, x.rows())) return {};
    Sequence<Real, in> y;
    if constexpr (!each) {
      y = norms.at[0].forward(x, {});
      if constexpr (scales) scale_rows(batch, y);
    } else {
      y = Sequence<Real, in>(x.rows());
      const RowsOfSteps rows(batch, x.rows());
      for (Index t = 0; t < steps; ++t) {
        rows.scatter(t, norm_of(t).forward(rows.gather(t, x), {}), y);
      }
    }
    if constexpr (counts) move_step_numbers(batch, x.rows());
    return y;
  }

  Vector<Real, in> step(VectorView<Real, in> x, State& state) const noexcept {
    NoState none;
    if constexpr (!counts) {
      return norms.at[0].step(x, none);
    } else {
      const Index t = state.step_number();
      if (t >= steps) {
        Vector<Real, in> lost;
        for (Index c = 0; c < in; ++c) lost[c] = std::numeric_limits<Real>::quiet_NaN();
        return lost;
      }
      state.move_on(1);
      auto y = norm_of(each ? t : 0).step(x, none);
      if constexpr (scales) {
        for (Index c = 0; c < in; ++c) y[c] *= scale[t];
      }
      return y;
    }
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Index rows = 0;
    std::array<typename Norm::Cache, static_cast<std::size_t>(norms_of)> norms;
    Sequence<Real, in> y;  ///< before p, if it is scaled
    Buffer<Index> first;   ///< [B], the step each sequence began at
  };

  Sequence<Real, in> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows()) || !within(batch, x.rows())) return {};
    cache.rows = x.rows();
    if constexpr (counts) cache.first = first_step_numbers(batch);
    Sequence<Real, in> y;
    if constexpr (!each) {
      y = norms.at[0].forward(std::move(x), {}, cache.norms[0]);
      if constexpr (scales) {
        cache.y = y;
        scale_rows(batch, y);
      }
    } else {
      y = Sequence<Real, in>(x.rows());
      const RowsOfSteps rows(batch, x.rows());
      for (Index t = 0; t < steps; ++t) {
        rows.scatter(t, norm_of(t).forward(rows.gather(t, x), {}, cache.norms[at(t)]), y);
      }
    }
    if constexpr (counts) move_step_numbers(batch, cache.rows);
    return y;
  }

  /// That of the batch norm; before it, in TEBN, dz_t = p_t dy_t and dp_t = Σ z_t ⊙ dy_t.
  Sequence<Real, in> backward(SequenceView<Real, in> dy, Batch<State> batch, const Cache& cache,
                              TemporalBatchNorm& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.rows)) return {};
    if constexpr (!counts) {
      return norms.at[0].backward(dy, {}, cache.norms[0], gradient.norms.at[0]);
    } else {
      if (!fits_cache(batch.count(), cache.first.size(), "sequences of the batch")) return {};
      const RowsOfSteps rows(batch, dy.rows(), &cache.first);
      if constexpr (scales) {
        const FlushDenormals guard;
        Sequence<Real, in> dz(dy.rows());
        rows.for_each([&](Index row, Index t) {
          Real sum = 0;
          for (Index c = 0; c < in; ++c) {
            sum += cache.y(row, c) * dy(row, c);
            dz(row, c) = scale[t] * dy(row, c);
          }
          gradient.scale[t] += sum;
        });
        return norms.at[0].backward(dz, {}, cache.norms[0], gradient.norms.at[0]);
      } else {
        Sequence<Real, in> dx(dy.rows());
        for (Index t = 0; t < steps; ++t) {
          const auto of_step = rows.gather(t, dy);
          rows.scatter(
              t, norm_of(t).backward(of_step, {}, cache.norms[at(t)], gradient.norms.at[at(t)]),
              dx);
        }
        return dx;
      }
    }
  }

 private:
  static constexpr std::size_t at(Index t) { return static_cast<std::size_t>(t); }
  const Norm& norm_of(Index t) const { return norms.at[at(t)]; }

  /// Which rows are which step.
  class RowsOfSteps {
   public:
    RowsOfSteps(const Batch<State>& batch, Index rows, const Buffer<Index>* first = nullptr)
        : step_(rows) {
      for (Index b = 0; b < batch.count(); ++b) {
        Index t = first != nullptr ? (*first)[b] : batch.carries() ? batch[b].step_number() : 0;
        for (Index row = batch.begin(b); row < batch.end(b, rows); ++row) step_[row] = t++;
      }
    }
    template <class F>
    void for_each(F&& f) const {
      for (Index row = 0; row < step_.size(); ++row) f(row, step_[row]);
    }
    Sequence<Real, in> gather(Index t, SequenceView<Real, in> x) const {
      Index count = 0;
      for_each([&](Index, Index step) { count += step == t; });
      Sequence<Real, in> some(count);
      count = 0;
      for_each([&](Index row, Index step) {
        if (step == t) copy(x.row(row).data(), some.row_data(count++));
      });
      return some;
    }
    void scatter(Index t, const Sequence<Real, in>& some, Sequence<Real, in>& y) const {
      Index count = 0;
      for_each([&](Index row, Index step) {
        if (step == t) copy(some.row(count++).data(), y.row_data(row));
      });
    }

   private:
    static void copy(const Real* from, Real* to) {
      std::memcpy(to, from, sizeof(Real) * std::size_t{in});
    }
    Buffer<Index> step_;
  };

  static bool within(const Batch<State>& batch, Index rows) {
    if constexpr (counts) {
      return fits_steps("TemporalBatchNorm", steps, batch, rows);
    } else {
      return true;
    }
  }

  void scale_rows(const Batch<State>& batch, Sequence<Real, in>& y) const {
    for_each_step_number(batch, y.rows(), [&](Index row, Index t) {
      for (Index c = 0; c < in; ++c) y(row, c) *= scale[t];
    });
  }
};

/// One Linear that computes norm(linear(x)) as in inference, at step t.
template <LinearConfig C, TemporalBatchNormConfig N, class Real>
Linear<detail::with_bias(C), Real> fold(const Linear<C, Real>& linear,
                                        const TemporalBatchNorm<N, Real>& norm, Index t) {
  const bool each = N.kind == TimeNorm::each;
  auto folded = fold(linear, norm.norms.at[static_cast<std::size_t>(each ? t : 0)]);
  if constexpr (N.kind == TimeNorm::scaled) {
    for (Real& w : folded.weight.flat()) w *= norm.scale[t];
    for (Real& b : folded.bias.flat()) b *= norm.scale[t];
  }
  return folded;
}

/// The same at every step, for tdBN.
template <LinearConfig C, TemporalBatchNormConfig N, class Real>
Linear<detail::with_bias(C), Real> fold(const Linear<C, Real>& linear,
                                        const TemporalBatchNorm<N, Real>& norm) {
  static_assert(N.kind == TimeNorm::together, "fold: this norm differs from step to step");
  return fold(linear, norm, 0);
}

}  // namespace limen::inline LIMEN_ABI
