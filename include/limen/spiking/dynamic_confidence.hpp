#pragma once
/// @file  Dynamic Confidence: a spiking network that stops when it is sure, each sample by itself.
///
///   O_t = O_{t-1} + o_t / c,   conf_t = max softmax(O_t)     stop where conf_t > τ, or at the end
///
///   o_t [C]: what the last layer gives before it fires;  c: a constant, about the steps it takes.
///   (Divided by t instead, early confidences would be as high as late ones.)
///
/// Li, Jones & Furber, Unleashing the potential of spiking neural networks with dynamic confidence,
/// ICCV 2023, arXiv:2303.10276. τ is chosen on data that was held out: `confidence_curve` draws
/// accuracy against mean steps, `pareto_front` keeps what nothing else beats, `choose_threshold`
/// takes the earliest that is right often enough. `oracle_curve` stops at the first right answer:
/// no rule can do better.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/compact.hpp>

namespace limen::inline LIMEN_ABI {

struct ConfidenceOptions {
  double threshold = 0.6;  ///< τ
  double smoothing = 30;   ///< c
  Index steps = 0;         ///< T, after which there is an answer in any case
};

/// What was answered, when, and how sure it was.
struct Decision {
  int label = -1;  ///< -1: the evidence is not a number
  Index steps = 0;
  double confidence = 0;
};

/// What has been said for each class so far.
template <class Real, Index C>
struct Evidence {
  Fixed<Real, C> sum;  ///< O
  std::int64_t t = 0;
};

/// Empty if the options make sense for so many classes.
inline Status check_options(const ConfidenceOptions& o, Index classes) {
  if (!(o.smoothing > 0) || o.smoothing - o.smoothing != 0) {
    return Error{"ConfidenceOptions.smoothing", "a positive number", std::to_string(o.smoothing)};
  }
  if (o.steps < 1) return Error{"ConfidenceOptions.steps", "1 or more", std::to_string(o.steps)};
  if (!(o.threshold * static_cast<double>(classes) > 1 && o.threshold < 1)) {
    return Error{"ConfidenceOptions.threshold",
                 "above 1/" + std::to_string(classes) + ", where nothing is known, and below 1",
                 std::to_string(o.threshold)};
  }
  return {};
}

namespace detail {
/// Adds o, and gives what would be answered now.
template <class Real, Index C>
Decision hear(const Real* o, double smoothing, Evidence<Real, C>& e) noexcept {
  const Real by = static_cast<Real>(smoothing);
  Index best = 0;
  for (Index c = 0; c < C; ++c) {
    e.sum[c] += o[c] / by;
    if (e.sum[c] > e.sum[best]) best = c;
  }
  ++e.t;
  double all = 0;
  for (Index c = 0; c < C; ++c) all += std::exp(static_cast<double>(e.sum[c] - e.sum[best]));
  return {all == all ? static_cast<int>(best) : -1, static_cast<Index>(e.t), 1 / all};
}
}  // namespace detail

/// One step of a stream: an answer, once there is one. Options that `check_options` refuses give
/// none before the last step.
template <class Real, Index C>
std::optional<Decision> decide(VectorView<Real, C> o, const ConfidenceOptions& options,
                               Evidence<Real, C>& evidence) noexcept {
  const Decision d = detail::hear(o.data(), options.smoothing, evidence);
  if (d.confidence > options.threshold || d.steps >= options.steps) return d;
  return std::nullopt;
}

struct DynamicRun {
  std::vector<Decision> decisions;  ///< [B]
  Index steps = 0;                  ///< rows that the model has run: what T B would be without it
};

/// Runs `model` step by step over x [B T x in], sequence b from row b T on. Who is sure leaves, and
/// the rows of the others close up: what is not needed is not computed. Each sample gets what it
/// would get alone.
template <Runs L>
DynamicRun run_until_sure(const L& model, SequenceView<typename L::Scalar, L::in> x,
                          const ConfidenceOptions& options) {
  using Real = typename L::Scalar;
  using State = typename L::State;
  constexpr Index C = L::out;
  DynamicRun run;
  if (const Status sound = check_options(options, C); !sound) {
    fail(sound.error());
    return run;
  }
  if (x.rows() % options.steps != 0) {
    fail({"run_until_sure: rows of x", "a multiple of " + std::to_string(options.steps) + " steps",
          std::to_string(x.rows())});
    return run;
  }
  const FlushDenormals guard;
  Index live = x.rows() / options.steps;
  run.decisions.resize(static_cast<std::size_t>(live));
  std::vector<State> states(static_cast<std::size_t>(live));
  std::vector<Evidence<Real, C>> evidence(static_cast<std::size_t>(live));
  std::vector<Index> id, kept, one_each;
  for (Index b = 0; b <= live; ++b) {
    one_each.push_back(b);
    if (b < live) id.push_back(b);
  }
  for (Index t = 0; t < options.steps && live > 0; ++t) {
    Sequence<Real, L::in> rows(live);
    for (Index i = 0; i < live; ++i) {
      std::memcpy(rows.row_data(i),
                  x.row(id[static_cast<std::size_t>(i)] * options.steps + t).data(),
                  sizeof(Real) * std::size_t{L::in});
    }
    const auto count = static_cast<std::size_t>(live);
    const auto o = model.forward(
        rows, Batch<State>(std::span(states.data(), count), std::span(one_each.data(), count + 1)));
    run.steps += live;
    kept.clear();
    for (Index i = 0; i < live; ++i) {
      const auto k = static_cast<std::size_t>(i);
      const auto d = decide(o.row(i), options, evidence[k]);
      if (d) {
        run.decisions[static_cast<std::size_t>(id[k])] = *d;
      } else {
        kept.push_back(i);
      }
    }
    live = static_cast<Index>(kept.size());
    compact_values(id.data(), kept.data(), live);
    compact_values(states.data(), kept.data(), live);
    compact_values(evidence.data(), kept.data(), live);
  }
  return run;
}

// ── Calibration ──────────────────────────────────────────────────────────────────────────────────

/// How a threshold, or a number of steps, does.
struct ConfidencePoint {
  double threshold = 0;  ///< τ; of the oracle: the steps that it may take
  double mean_steps = 0;
  double accuracy = 0;
};

namespace detail {
/// The answers that could be given at each step [B][T].
template <class Real, Index C>
std::vector<Decision> all_answers(SequenceView<Real, C> o, std::span<const int> labels, Index steps,
                                  double smoothing) {
  const ConfidenceOptions options{.threshold = 1 - 1e-9, .smoothing = smoothing, .steps = steps};
  if (const Status sound = check_options(options, C); !sound) {
    fail(sound.error());
    return {};
  }
  const auto sequences = static_cast<Index>(labels.size());
  if (sequences < 1 || o.rows() != sequences * steps) {
    fail({"rows of the evidence", std::to_string(steps) + " for each of the labels",
          std::to_string(o.rows()) + " and " + std::to_string(sequences) + " labels"});
    return {};
  }
  std::vector<Decision> answers;
  for (Index b = 0; b < sequences; ++b) {
    Evidence<Real, C> evidence;
    for (Index t = 0; t < steps; ++t) {
      answers.push_back(hear(o.row(b * steps + t).data(), smoothing, evidence));
    }
  }
  return answers;
}
}  // namespace detail

/// For each threshold: o [B T x C] of all samples at all steps, labels [B].
template <class Real, Index C>
std::vector<ConfidencePoint> confidence_curve(SequenceView<Real, C> o, std::span<const int> labels,
                                              Index steps, std::span<const double> thresholds,
                                              double smoothing = 30) {
  std::vector<ConfidencePoint> curve;
  for (const double tau : thresholds) {
    const ConfidenceOptions options{.threshold = tau, .smoothing = smoothing, .steps = steps};
    if (const Status sound = check_options(options, C); !sound) {
      fail(sound.error());
      return {};
    }
  }
  const auto answers = detail::all_answers(o, labels, steps, smoothing);
  if (answers.empty()) return {};
  for (const double tau : thresholds) {
    ConfidencePoint p{tau, 0, 0};
    for (std::size_t b = 0; b < labels.size(); ++b) {
      const Decision* d = answers.data() + static_cast<Index>(b) * steps;
      while (!(d->confidence > tau) && d->steps < steps) ++d;
      p.mean_steps += static_cast<double>(d->steps);
      p.accuracy += d->label == labels[b];
    }
    p.mean_steps /= static_cast<double>(labels.size());
    p.accuracy /= static_cast<double>(labels.size());
    curve.push_back(p);
  }
  return curve;
}

/// For each number of steps 1..T: stops at the first right answer, else at the last step.
template <class Real, Index C>
std::vector<ConfidencePoint> oracle_curve(SequenceView<Real, C> o, std::span<const int> labels,
                                          Index steps, double smoothing = 30) {
  const auto answers = detail::all_answers(o, labels, steps, smoothing);
  std::vector<ConfidencePoint> curve;
  for (Index most = 1; !answers.empty() && most <= steps; ++most) {
    ConfidencePoint p{static_cast<double>(most), 0, 0};
    for (std::size_t b = 0; b < labels.size(); ++b) {
      const Decision* d = answers.data() + static_cast<Index>(b) * steps;
      while (d->label != labels[b] && d->steps < most) ++d;
      p.mean_steps += static_cast<double>(d->steps);
      p.accuracy += d->label == labels[b];
    }
    p.mean_steps /= static_cast<double>(labels.size());
    p.accuracy /= static_cast<double>(labels.size());
    curve.push_back(p);
  }
  return curve;
}

/// The points that no other beats in both, by steps.
inline std::vector<ConfidencePoint> pareto_front(std::vector<ConfidencePoint> points) {
  std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) {
    return a.mean_steps != b.mean_steps ? a.mean_steps < b.mean_steps
           : a.accuracy != b.accuracy   ? a.accuracy > b.accuracy
                                        : a.threshold < b.threshold;
  });
  std::vector<ConfidencePoint> front;
  for (const ConfidencePoint& p : points) {
    if (front.empty() || p.accuracy > front.back().accuracy) front.push_back(p);
  }
  return front;
}

/// The point with the fewest steps that is at most `loss` less accurate than the best.
inline std::optional<ConfidencePoint> choose_threshold(std::span<const ConfidencePoint> points,
                                                       double loss = 0) {
  double best = 0;
  for (const ConfidencePoint& p : points) best = std::max(best, p.accuracy);
  std::optional<ConfidencePoint> chosen;
  for (const ConfidencePoint& p : points) {
    if (p.accuracy + loss < best - 1e-12) continue;
    if (!chosen || p.mean_steps < chosen->mean_steps ||
        (p.mean_steps == chosen->mean_steps && p.threshold < chosen->threshold)) {
      chosen = p;
    }
  }
  return chosen;
}

// An owned matrix is looked at.
template <class Real, Index C>
std::vector<ConfidencePoint> confidence_curve(const Sequence<Real, C>& o,
                                              std::span<const int> labels, Index steps,
                                              std::span<const double> thresholds,
                                              double smoothing = 30) {
  return confidence_curve(SequenceView<Real, C>(o), labels, steps, thresholds, smoothing);
}
template <class Real, Index C>
std::vector<ConfidencePoint> oracle_curve(const Sequence<Real, C>& o, std::span<const int> labels,
                                          Index steps, double smoothing = 30) {
  return oracle_curve(SequenceView<Real, C>(o), labels, steps, smoothing);
}

}  // namespace limen::inline LIMEN_ABI
