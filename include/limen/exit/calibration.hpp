#pragma once
/// @file  Are confidences what they claim to be?
///
///   fit_temperature    T that makes mean -log softmax(z / T)[label] small; no prediction changes.
///                      Guo et al., arXiv:1706.04599
///   calibration_error  Σ_b (n_b / N) |accuracy_b - mean confidence_b|, bins of equal width or of
///                      equal counts
///   conformal_quantile q such that {c : p_c >= 1 - q} has the true class with probability 1 - α
///                      Vovk et al.; Angelopoulos & Bates, arXiv:2107.07511, section 1
///
///   z [N x C] logits, labels [N].  For data that was not trained on.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <limen/core/error.hpp>
#include <limen/exit/scores.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// Mean of -log softmax(b z)[label], and its slope in b = 1 / T:  Σ p z - z[label].  Rises with b.
struct NllAt {
  double value = 0, slope = 0;
};
template <class Real, Index C>
NllAt nll_at(SequenceView<Real, C> z, std::span<const int> labels, double b) {
  NllAt sum;
  for (Index t = 0; t < z.rows(); ++t) {
    const Real* row = z.row(t).data();
    const double most = static_cast<double>(*std::max_element(row, row + C));
    double s = 0, weighted = 0;
    for (Index c = 0; c < C; ++c) {
      const double a = static_cast<double>(row[c]), e = std::exp(b * (a - most));
      s += e;
      if (e > 0) weighted += e * a;
    }
    const double own = static_cast<double>(row[labels[static_cast<std::size_t>(t)]]);
    sum.value += std::log(s) + b * (most - own);
    sum.slope += weighted / s - own;
  }
  const double n = static_cast<double>(z.rows());
  return {sum.value / n, sum.slope / n};
}

inline Status check_some(const char* who, std::size_t rows) {
  if (rows > 0) return {};
  return Error{who, "one row or more", "none"};
}

}  // namespace detail

/// Between 1/1000 and 1000. Where predictions are no better than chance there is no best T, only
/// the upper end; where all are right, one so small that nothing is lost.
template <class Real, Index C>
Result<double> fit_temperature(SequenceView<Real, C> z, std::span<const int> labels) {
  if (detail::check_labels(labels, z.rows(), C, -1) != z.rows() || z.rows() == 0) {
    return Error{"fit_temperature: rows with a label", "all, and one or more",
                 std::to_string(labels.size())};
  }
  double low = std::log(1e-3), high = std::log(1e3);  // of b
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    const auto at = detail::nll_at(z, labels, std::exp(middle));
    if (std::isnan(at.slope)) {
      return Error{"fit_temperature: logits", "numbers", "NaN or infinity"};
    }
    (at.slope < 0 ? low : high) = middle;
  }
  return std::exp(-(low + high) / 2);
}

/// Mean -log softmax(z / T)[label].
template <class Real, Index C>
Result<double> nll_at_temperature(SequenceView<Real, C> z, std::span<const int> labels, double t) {
  if (!(t > 0)) return Error{"nll_at_temperature: T", "more than 0", std::to_string(t)};
  if (detail::check_labels(labels, z.rows(), C, -1) != z.rows() || z.rows() == 0) {
    return Error{"nll_at_temperature: rows with a label", "all, and one or more",
                 std::to_string(labels.size())};
  }
  return detail::nll_at(z, labels, 1 / t).value;
}

// ── Expected calibration error ───────────────────────────────────────────────────────────────────

enum class Bins {
  uniform,  ///< of equal width in 0..1
  quantile  ///< of (nearly) equal counts
};

/// confidence [N] in 0..1, correct [N] 0 or 1. A bin holds its upper edge, the first its lower too.
inline Result<double> calibration_error(std::span<const double> confidence,
                                        std::span<const char> correct, Bins bins = Bins::uniform,
                                        int count = 15) {
  const std::size_t n = confidence.size();
  if (const Status some = detail::check_some("calibration_error: confidence", n); !some) {
    return some.error();
  }
  if (correct.size() != n) {
    return Error{"calibration_error: correct", std::to_string(n), std::to_string(correct.size())};
  }
  if (count < 1) return Error{"calibration_error: bins", "1 or more", std::to_string(count)};
  std::vector<double> sorted(confidence.begin(), confidence.end());
  for (const double c : sorted) {
    if (!(c >= 0 && c <= 1)) {
      return Error{"calibration_error: confidence", "0 to 1", std::to_string(c)};
    }
  }
  std::sort(sorted.begin(), sorted.end());
  std::vector<double> upper;  // edges but the lowest
  for (int b = 1; b <= count; ++b) {
    const double share = static_cast<double>(b) / count;
    const double at = share * static_cast<double>(n - 1);
    const auto i = static_cast<std::size_t>(at);
    const double next = sorted[std::min(i + 1, n - 1)];
    upper.push_back(bins == Bins::uniform
                        ? share
                        : sorted[i] + (at - static_cast<double>(i)) * (next - sorted[i]));
  }
  upper.back() = std::max(upper.back(), sorted.back());  // rounding must not lose the largest
  std::vector<double> sum(upper.size()), right(upper.size());
  for (std::size_t t = 0; t < n; ++t) {
    const auto b = static_cast<std::size_t>(
        std::lower_bound(upper.begin(), upper.end(), confidence[t]) - upper.begin());
    sum[b] += confidence[t];
    right[b] += correct[t] != 0;
  }
  double error = 0;
  for (std::size_t b = 0; b < upper.size(); ++b) error += std::abs(right[b] - sum[b]);
  return error / static_cast<double>(n);
}

// ── Conformal sets ───────────────────────────────────────────────────────────────────────────────

/// 1 - p[label] of each row.
template <class Real, Index C>
std::vector<double> conformal_scores(SequenceView<Real, C> z, std::span<const int> labels) {
  if (detail::check_labels(labels, z.rows(), C, -1) != z.rows()) return {};
  std::vector<double> scores;
  Vector<Real, C> p;
  for (Index t = 0; t < z.rows(); ++t) {
    softmax_row(z.row(t).data(), p.data(), C);
    scores.push_back(1 - static_cast<double>(p[labels[static_cast<std::size_t>(t)]]));
  }
  return scores;
}

enum class ConformalRank {
  exact,        ///< the ⌈(n + 1)(1 - α)⌉-th smallest, which the proof asks for
  interpolated  ///< index ⌈level (n - 1)⌉ from 0, level = ⌈(n + 1)(1 - α)⌉ / n, as numpy's "higher"
};

/// 1 where n is too small for α: then every class is in the set.
inline Result<double> conformal_quantile(std::span<const double> scores, double alpha,
                                         ConformalRank rule = ConformalRank::exact) {
  if (const Status some = detail::check_some("conformal_quantile: scores", scores.size()); !some) {
    return some.error();
  }
  if (!(alpha > 0 && alpha < 1)) {
    return Error{"conformal_quantile: alpha", "between 0 and 1", std::to_string(alpha)};
  }
  std::vector<double> sorted(scores.begin(), scores.end());
  for (const double s : sorted) {
    if (std::isnan(s)) return Error{"conformal_quantile: scores", "numbers", "NaN"};
  }
  std::sort(sorted.begin(), sorted.end());
  const double n = static_cast<double>(scores.size());
  const double rank = std::ceil((n + 1) * (1 - alpha) - 1e-9);  // 10 * (1 - 0.2) is 8
  if (rank > n) return 1.0;
  const double at = rule == ConformalRank::exact ? rank - 1 : std::ceil(rank / n * (n - 1) - 1e-9);
  return sorted[static_cast<std::size_t>(at)];
}

/// The classes with p_c >= 1 - q, ascending.
template <class Real>
std::vector<Index> conformal_set(std::span<const Real> z, double q) {
  std::vector<Real> p(z.size());
  softmax_row(z.data(), p.data(), static_cast<Index>(z.size()));
  std::vector<Index> set;
  for (std::size_t c = 0; c < p.size(); ++c) {
    if (static_cast<double>(p[c]) >= 1 - q) set.push_back(static_cast<Index>(c));
  }
  return set;
}

/// A quantile for each exit, from the rows that left there; from all rows of that head where no
/// more than 20 did. scores [K][N] by head, exit [N].
inline Result<std::vector<double>> conformal_quantiles(
    const std::vector<std::vector<double>>& scores, std::span<const Index> exit, double alpha) {
  std::vector<double> q;
  for (std::size_t k = 0; k < scores.size(); ++k) {
    if (scores[k].size() != exit.size()) {
      return Error{"conformal_quantiles: scores of exit " + std::to_string(k),
                   std::to_string(exit.size()), std::to_string(scores[k].size())};
    }
    std::vector<double> own;
    for (std::size_t t = 0; t < exit.size(); ++t) {
      if (exit[t] == static_cast<Index>(k)) own.push_back(scores[k][t]);
    }
    auto one = conformal_quantile(own.size() > 20 ? own : scores[k], alpha);
    if (!one) return one.error();
    q.push_back(*one);
  }
  return q;
}

}  // namespace limen::inline LIMEN_ABI
