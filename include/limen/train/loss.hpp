#pragma once
/// @file  Losses: how wrong the output is, and in which direction.
///
///   cross_entropy(x, labels)       -log softmax(x)[label]                      one label per row
///   kl_divergence(x, q)            Σ q (log q - log softmax(x))                q: probabilities
///   mean_squared_error(y, t)       (y - t)²
///   binary_cross_entropy(x, t)     -t log σ(x) - (1 - t) log(1 - σ(x))         t in 0..1
///
/// x are logits: softmax and logarithm are one, so that no probability is ever rounded to 0 or 1.
/// Each gives the loss and its gradient: dx = softmax(x) - q, 2 (y - t), σ(x) - t. The mean is over
/// rows in the first two and over numbers in the last two.

#include <limits>
#include <span>
#include <string>

#include <limen/core/config.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/error.hpp>
#include <limen/core/sequence.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/softmax.hpp>

namespace limen::inline LIMEN_ABI {

enum class Reduction { mean, sum };

template <class Real, Index D>
struct Loss {
  double value = 0;   ///< sum or mean
  double weight = 1;  ///< how many rows or numbers were counted
  Reduction reduction = Reduction::mean;
  Sequence<Real, D> dy;  ///< [T x D], gradient of `value`; without rows after an error
};

struct CrossEntropyOptions {
  double smoothing = 0;  ///< the share of the target that is spread over all classes
  int ignore = -1;       ///< rows with this label do not count
  Reduction reduction = Reduction::mean;
};

namespace detail {

template <class Real>
void scale_scores(Real* x, Index n, double factor) {
  const simd::Vec<Real> by(static_cast<Real>(factor));
  simd::transform(x, x, n, [&](auto v) { return v * by; });
}

/// How many rows count; -1 after an error.
inline Index check_labels(std::span<const int> labels, Index rows, Index classes, int ignore) {
  if (static_cast<Index>(labels.size()) != rows) {
    fail({"labels", std::to_string(rows) + ", one for each row", std::to_string(labels.size())});
    return -1;
  }
  Index count = 0;
  for (std::size_t t = 0; t < labels.size(); ++t) {
    if (labels[t] == ignore) continue;
    if (labels[t] < 0 || labels[t] >= classes) {
      fail({"label of row " + std::to_string(t),
            "0 to " + std::to_string(classes - 1) + " (or " + std::to_string(ignore) +
                ": not counted)",
            std::to_string(labels[t])});
      return -1;
    }
    ++count;
  }
  return count;
}

inline bool is_share(double smoothing) {
  if (smoothing >= 0 && smoothing <= 1) return true;
  fail({"CrossEntropyOptions.smoothing", "a share from 0 to 1", std::to_string(smoothing)});
  return false;
}

/// With q = (1 - s) [label] + s / D:  loss = log Σ exp(x) - Σ q x,  dx = softmax(x) - q
template <class Real>
double cross_entropy(MatrixView<const Real> x, std::span<const int> labels, MatrixView<Real> dx,
                     const CrossEntropyOptions& options, double scale) {
  const double s = options.smoothing, spread = s / static_cast<double>(x.cols);
  double loss = 0;
  for (Index t = 0; t < x.rows; ++t) {
    Real* d = dx.row(t);
    const int label = labels[static_cast<std::size_t>(t)];
    if (label == options.ignore) {
      std::memset(d, 0, static_cast<std::size_t>(x.cols) * sizeof(Real));
      continue;
    }
    loss += softmax_row(x.row(t), d, x.cols) - (1 - s) * static_cast<double>(x(t, label));
    if (s != 0) {
      const Real* row = x.row(t);
      loss -= spread * static_cast<double>(reduce_row<Real>(
                           x.cols, [&](Index i, auto load) { return load(row + i); }));
      const simd::Vec<Real> less(static_cast<Real>(spread));
      simd::transform(d, d, x.cols, [&](auto v) { return v - less; });
    }
    d[label] -= static_cast<Real>(1 - s);
    if (scale != 1) scale_scores(d, x.cols, scale);
  }
  return loss;
}

/// loss = Σ q log q - Σ q x + Σ q log Σ exp(x),  dx = softmax(x) Σ q - q.  0 log 0 = 0.
template <class Real>
double kl_divergence(MatrixView<const Real> x, MatrixView<const Real> q, MatrixView<Real> dx,
                     double scale) {
  using V = simd::Vec<Real>;
  double loss = 0;
  for (Index t = 0; t < x.rows; ++t) {
    const Real *a = x.row(t), *b = q.row(t);
    Real* d = dx.row(t);
    const double log_sum = softmax_row(a, d, x.cols);
    const Real total = reduce_row<Real>(x.cols, [&](Index i, auto load) { return load(b + i); });
    loss += log_sum * static_cast<double>(total);
    loss += static_cast<double>(reduce_row<Real>(x.cols, [&](Index i, auto load) {
      const V p = load(b + i), nothing(Real(0));
      return simd::select(p == nothing, nothing, p * (math::log(p) - load(a + i)));
    }));
    simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) {
      store(d + i, (load(d + i) * V(total) - load(b + i)) * V(static_cast<Real>(scale)));
    });
  }
  return loss;
}

template <class Real>
double mean_squared_error(MatrixView<const Real> y, MatrixView<const Real> target,
                          MatrixView<Real> dy, double scale) {
  using V = simd::Vec<Real>;
  const V twice(static_cast<Real>(2 * scale));
  double loss = 0;
  for (Index t = 0; t < y.rows; ++t) {
    V sum(Real(0));
    simd::for_each<Real>(y.cols, [&](Index i, auto load, auto store) {
      const V e = load(y.row(t) + i) - load(target.row(t) + i);
      sum = simd::fma(e, e, sum);
      store(dy.row(t) + i, e * twice);
    });
    loss += static_cast<double>(simd::reduce_add(sum));
  }
  return loss;
}

/// loss = max(x, 0) - x t + log(1 + exp(-|x|)) = softplus(x) - x t
template <class Real>
double binary_cross_entropy(MatrixView<const Real> x, MatrixView<const Real> target,
                            MatrixView<Real> dx, double scale) {
  using V = simd::Vec<Real>;
  const V by(static_cast<Real>(scale));
  double loss = 0;
  for (Index t = 0; t < x.rows; ++t) {
    simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) {
      const V a = load(x.row(t) + i), q = load(target.row(t) + i);
      store(dx.row(t) + i, math::softplus(a) - a * q);
    });
    const Real* d = dx.row(t);
    loss += static_cast<double>(
        reduce_row<Real>(x.cols, [&](Index i, auto load) { return load(d + i); }));
    simd::for_each<Real>(x.cols, [&](Index i, auto load, auto store) {
      const V a = load(x.row(t) + i);
      store(dx.row(t) + i, (math::sigmoid(a) - load(target.row(t) + i)) * by);
    });
  }
  return loss;
}

/// Runs one of the above over all rows: f(dy, scale) gives the sum.
template <class Real, Index D, class F>
Loss<Real, D> reduced(Index rows, double weight, Reduction reduction, F f) {
  const FlushDenormals guard;
  Loss<Real, D> loss;
  loss.dy = Sequence<Real, D>(rows);
  loss.weight = weight;
  loss.reduction = reduction;
  const double scale = reduction == Reduction::mean && weight > 0 ? 1 / weight : 1;
  loss.value = f(loss.dy.matrix(), scale) * scale;
  return loss;
}

inline bool same_rows(Index wanted, Index found) {
  if (wanted == found) return true;
  fail({"rows of the target", std::to_string(wanted), std::to_string(found)});
  return false;
}

}  // namespace detail

/// x [T x D], labels [T]
template <class Real, Index D>
Loss<Real, D> cross_entropy(SequenceView<Real, D> x, std::span<const int> labels,
                            const CrossEntropyOptions& options = {}) {
  const Index count = detail::check_labels(labels, x.rows(), D, options.ignore);
  if (count < 0 || !detail::is_share(options.smoothing)) return {};
  return detail::reduced<Real, D>(
      x.rows(), static_cast<double>(count), options.reduction, [&](MatrixView<Real> dx, double s) {
        return detail::cross_entropy<Real>(x.matrix(), labels, dx, options, s);
      });
}

/// x [T x D], q [T x D]
template <class Real, Index D>
Loss<Real, D> kl_divergence(SequenceView<Real, D> x, std::type_identity_t<SequenceView<Real, D>> q,
                            Reduction reduction = Reduction::mean) {
  if (!detail::same_rows(x.rows(), q.rows())) return {};
  return detail::reduced<Real, D>(
      x.rows(), static_cast<double>(x.rows()), reduction, [&](MatrixView<Real> dx, double s) {
        return detail::kl_divergence<Real>(x.matrix(), q.matrix(), dx, s);
      });
}

/// y [T x D], target [T x D]
template <class Real, Index D>
Loss<Real, D> mean_squared_error(SequenceView<Real, D> y,
                                 std::type_identity_t<SequenceView<Real, D>> target,
                                 Reduction reduction = Reduction::mean) {
  if (!detail::same_rows(y.rows(), target.rows())) return {};
  return detail::reduced<Real, D>(
      y.rows(), static_cast<double>(y.rows() * D), reduction, [&](MatrixView<Real> dy, double s) {
        return detail::mean_squared_error<Real>(y.matrix(), target.matrix(), dy, s);
      });
}

/// x [T x D], target [T x D] in 0..1
template <class Real, Index D>
Loss<Real, D> binary_cross_entropy(SequenceView<Real, D> x,
                                   std::type_identity_t<SequenceView<Real, D>> target,
                                   Reduction reduction = Reduction::mean) {
  if (!detail::same_rows(x.rows(), target.rows())) return {};
  return detail::reduced<Real, D>(
      x.rows(), static_cast<double>(x.rows() * D), reduction, [&](MatrixView<Real> dx, double s) {
        return detail::binary_cross_entropy<Real>(x.matrix(), target.matrix(), dx, s);
      });
}

template <class Real, Index D>
Loss<Real, D> cross_entropy(const Sequence<Real, D>& x, std::span<const int> labels,
                            const CrossEntropyOptions& options = {}) {
  return cross_entropy(SequenceView<Real, D>(x), labels, options);
}
template <class Real, Index D>
Loss<Real, D> kl_divergence(const Sequence<Real, D>& x,
                            std::type_identity_t<SequenceView<Real, D>> q,
                            Reduction reduction = Reduction::mean) {
  return kl_divergence(SequenceView<Real, D>(x), q, reduction);
}
template <class Real, Index D>
Loss<Real, D> mean_squared_error(const Sequence<Real, D>& y,
                                 std::type_identity_t<SequenceView<Real, D>> target,
                                 Reduction reduction = Reduction::mean) {
  return mean_squared_error(SequenceView<Real, D>(y), target, reduction);
}
template <class Real, Index D>
Loss<Real, D> binary_cross_entropy(const Sequence<Real, D>& x,
                                   std::type_identity_t<SequenceView<Real, D>> target,
                                   Reduction reduction = Reduction::mean) {
  return binary_cross_entropy(SequenceView<Real, D>(x), target, reduction);
}

/// How many rows have their largest number at the label; rows labelled `ignore` are not looked at.
template <class Real, Index D>
Index count_correct(SequenceView<Real, D> x, std::span<const int> labels, int ignore = -1) {
  Index count = 0;
  if (detail::check_labels(labels, x.rows(), D, ignore) < 0) return 0;
  for (Index t = 0; t < x.rows(); ++t) {
    const int label = labels[static_cast<std::size_t>(t)];
    if (label == ignore) continue;
    Index best = 0;
    bool answers = true;  // NaN is no answer
    for (Index d = 0; d < D; ++d) {
      best = x(t, d) > x(t, best) ? d : best;
      answers = answers && x(t, d) == x(t, d);
    }
    count += answers && best == label;
  }
  return count;
}
template <class Real, Index D>
Index count_correct(const Sequence<Real, D>& x, std::span<const int> labels, int ignore = -1) {
  return count_correct(SequenceView<Real, D>(x), labels, ignore);
}

}  // namespace limen::inline LIMEN_ABI
