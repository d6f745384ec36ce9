#pragma once
/// @file  Losses of networks that answer in spikes. s, v [T x D], offsets [B + 1], labels [B].
///
///   count_cross_entropy        cross entropy of the counts Σ_t s_t, or of the rates
///   count_squared_error        (count - target)², a share of the steps for the class and another
///                              for the rest
///   membrane_cross_entropy     cross entropy of v at every step, averaged
///   first_spike_cross_entropy  cross entropy of -t*, t* the step of the first spike, T if silent
///   rate_penalty               mean over sequences and neurons of max(0, rate - free)²
///
/// Each gives its gradient for s (v): spread over the steps for a count; at the first spike only,
/// and nothing where there was none, for a time. As the losses of train/loss.hpp, whose cross
/// entropy they use, an error gives a loss without rows. The two ways to count are those of
/// snnTorch (`ce_count_loss`, `mse_count_loss`); its `ce_rate_loss` is membrane_cross_entropy of s.

#include <span>
#include <string>
#include <vector>

#include <limen/spiking/decisions.hpp>
#include <limen/spiking/spike_readout.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

struct CountOptions {
  bool rate = false;   ///< counts / steps instead of counts
  double right = 0.6;  ///< of squared error: steps in which the class should fire
  double wrong = 0.2;  ///< and the others
};

namespace detail {

/// Σ_t s_t of each sequence, over its steps if `rate`.
template <class Real, Index D>
Sequence<Real, D> counts(SequenceView<Real, D> s, std::span<const Index> offsets, bool rate) {
  auto sum = Sequence<Real, D>::zeros(static_cast<Index>(offsets.size()) - 1);
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const auto row = static_cast<Index>(b);
    for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
      for (Index c = 0; c < D; ++c) sum(row, c) += s(t, c);
    }
    const Real by = rate ? static_cast<Real>(offsets[b + 1] - offsets[b]) : Real(1);
    for (Index c = 0; c < D; ++c) sum(row, c) /= by;
  }
  return sum;
}

/// The same gradient for each step of a sequence.
template <class Real, Index D>
void spread(Loss<Real, D>& loss, std::span<const Index> offsets, bool rate) {
  if (static_cast<Index>(offsets.size()) != loss.dy.rows() + 1) return;
  Sequence<Real, D> ds(offsets.back());
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const Real by = rate ? static_cast<Real>(offsets[b + 1] - offsets[b]) : Real(1);
    for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
      for (Index c = 0; c < D; ++c) ds(t, c) = loss.dy(static_cast<Index>(b), c) / by;
    }
  }
  loss.dy = std::move(ds);
}

}  // namespace detail

template <class Real, Index D>
Loss<Real, D> count_cross_entropy(SequenceView<Real, D> s, std::span<const Index> offsets,
                                  std::span<const int> labels, const CountOptions& options = {}) {
  if (!detail::has_rows(offsets, s.rows())) return {};
  auto loss = cross_entropy(detail::counts(s, offsets, options.rate), labels);
  detail::spread(loss, offsets, options.rate);
  return loss;
}

template <class Real, Index D>
Loss<Real, D> count_squared_error(SequenceView<Real, D> s, std::span<const Index> offsets,
                                  std::span<const int> labels, const CountOptions& options = {}) {
  if (!detail::has_rows(offsets, s.rows())) return {};
  const auto sequences = static_cast<Index>(offsets.size()) - 1;
  if (detail::check_labels(labels, sequences, D, -1) != sequences) return {};
  Sequence<Real, D> target(sequences);
  for (Index b = 0; b < sequences; ++b) {
    const auto i = static_cast<std::size_t>(b);
    const double full = options.rate ? 1 : static_cast<double>(offsets[i + 1] - offsets[i]);
    for (Index c = 0; c < D; ++c) {
      target(b, c) = static_cast<Real>(full * (labels[i] == c ? options.right : options.wrong));
    }
  }
  auto loss = mean_squared_error(detail::counts(s, offsets, options.rate), target);
  detail::spread(loss, offsets, options.rate);
  return loss;
}

/// Every row of a sequence is asked for its label; the mean is over all rows.
template <class Real, Index D>
Loss<Real, D> membrane_cross_entropy(SequenceView<Real, D> v, std::span<const Index> offsets,
                                     std::span<const int> labels) {
  if (!detail::has_rows(offsets, v.rows())) return {};
  if (detail::check_labels(labels, static_cast<Index>(offsets.size()) - 1, D, -1) < 0) return {};
  std::vector<int> of_row;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    of_row.insert(of_row.end(), static_cast<std::size_t>(offsets[b + 1] - offsets[b]), labels[b]);
  }
  return cross_entropy(v, of_row);
}

template <class Real, Index D>
Loss<Real, D> first_spike_cross_entropy(SequenceView<Real, D> s, std::span<const Index> offsets,
                                        std::span<const int> labels) {
  if (!detail::has_rows(offsets, s.rows())) return {};
  const auto sequences = static_cast<Index>(offsets.size()) - 1;
  Sequence<Real, D> z(sequences);  // -t*
  for (Index b = 0; b < sequences; ++b) {
    const Index first = offsets[static_cast<std::size_t>(b)];
    const Index steps = offsets[static_cast<std::size_t>(b) + 1] - first;
    for (Index c = 0; c < D; ++c) {
      Index t = 0;
      while (t < steps && s(first + t, c) == Real(0)) ++t;
      z(b, c) = static_cast<Real>(-t);
    }
  }
  auto loss = cross_entropy(z, labels);
  if (loss.dy.rows() != sequences) return loss;
  auto ds = Sequence<Real, D>::zeros(s.rows());
  for (Index b = 0; b < sequences; ++b) {
    const Index first = offsets[static_cast<std::size_t>(b)];
    const Index end = offsets[static_cast<std::size_t>(b) + 1];
    for (Index c = 0; c < D; ++c) {
      const Index t = first - static_cast<Index>(z(b, c));
      if (t < end) ds(t, c) = loss.dy(b, c);  // ds = -dt*, and dt* = -dz
    }
  }
  loss.dy = std::move(ds);
  return loss;
}

/// `free`: a rate that costs nothing. Times `strength`.
template <class Real, Index D>
Loss<Real, D> rate_penalty(SequenceView<Real, D> s, std::span<const Index> offsets,
                           double strength = 1, double free = 0) {
  if (!detail::has_rows(offsets, s.rows())) return {};
  if (!(strength >= 0 && free >= 0)) {
    fail({"rate_penalty: strength and free", "0 or more",
          std::to_string(strength) + " and " + std::to_string(free)});
    return {};
  }
  const auto rates = detail::counts(s, offsets, true);
  Loss<Real, D> loss;
  loss.weight = static_cast<double>(rates.size());
  loss.dy = Sequence<Real, D>(rates.rows());
  for (Index i = 0; i < rates.size(); ++i) {
    const double over = static_cast<double>(rates.data()[i]) - free;
    const double above = over > 0 ? over : over == over ? 0 : over;
    loss.value += strength * above * above / loss.weight;
    loss.dy.data()[i] = static_cast<Real>(2 * strength * above / loss.weight);
  }
  detail::spread(loss, offsets, true);
  return loss;
}

// An owned matrix is looked at.
template <class Real, Index D>
Loss<Real, D> count_cross_entropy(const Sequence<Real, D>& s, std::span<const Index> offsets,
                                  std::span<const int> labels, const CountOptions& options = {}) {
  return count_cross_entropy(SequenceView<Real, D>(s), offsets, labels, options);
}
template <class Real, Index D>
Loss<Real, D> count_squared_error(const Sequence<Real, D>& s, std::span<const Index> offsets,
                                  std::span<const int> labels, const CountOptions& options = {}) {
  return count_squared_error(SequenceView<Real, D>(s), offsets, labels, options);
}
template <class Real, Index D>
Loss<Real, D> membrane_cross_entropy(const Sequence<Real, D>& v, std::span<const Index> offsets,
                                     std::span<const int> labels) {
  return membrane_cross_entropy(SequenceView<Real, D>(v), offsets, labels);
}
template <class Real, Index D>
Loss<Real, D> first_spike_cross_entropy(const Sequence<Real, D>& s, std::span<const Index> offsets,
                                        std::span<const int> labels) {
  return first_spike_cross_entropy(SequenceView<Real, D>(s), offsets, labels);
}
template <class Real, Index D>
Loss<Real, D> rate_penalty(const Sequence<Real, D>& s, std::span<const Index> offsets,
                           double strength = 1, double free = 0) {
  return rate_penalty(SequenceView<Real, D>(s), offsets, strength, free);
}

}  // namespace limen::inline LIMEN_ABI
