#pragma once
/// @file  The answer of a sequence: the last row of a readout (spiking/spike_readout.hpp), and the
/// class that it means.
///
///   last_rows          y [T x D] of sequences -> [B x D], and the way back
///   decisions          the class with the most spikes
///   decisions_by_time  the class that fired first
///
/// Ties of counts are frequent: they go to the higher membrane, if that is given, then to the lower
/// class. Where nothing fired there is no decision, -1.

#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <limen/core/layer.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
inline bool has_rows(std::span<const Index> offsets, Index rows) {
  std::string fault = offsets_fault(offsets);
  if (fault.empty() && offsets.back() != rows)
    fault = std::to_string(offsets.back()) + " at the end";
  for (std::size_t b = 1; fault.empty() && b < offsets.size(); ++b) {
    if (offsets[b] == offsets[b - 1]) fault = "sequence " + std::to_string(b - 1) + " without rows";
  }
  if (fault.empty()) return true;
  fail({"offsets of a readout", "sequences of one row or more, " + std::to_string(rows) + " in all",
        std::move(fault)});
  return false;
}
}  // namespace detail

/// y [T x D] -> [B x D], the last row of each sequence.
template <class Real, Index D>
Sequence<Real, D> last_rows(SequenceView<Real, D> y, std::span<const Index> offsets) {
  if (!detail::has_rows(offsets, y.rows())) return {};
  Sequence<Real, D> last(static_cast<Index>(offsets.size()) - 1);
  for (Index b = 0; b < last.rows(); ++b) {
    std::memcpy(last.row_data(b), y.row(offsets[static_cast<std::size_t>(b) + 1] - 1).data(),
                sizeof(Real) * std::size_t{D});
  }
  return last;
}

/// The way back: d_last [B x D] -> dy [T x D], zero but in the last rows.
template <class Real, Index D>
Sequence<Real, D> last_rows_backward(SequenceView<Real, D> d_last, std::span<const Index> offsets) {
  if (static_cast<Index>(offsets.size()) != d_last.rows() + 1) {
    fail({"rows of d_last", std::to_string(offsets.size() - 1), std::to_string(d_last.rows())});
    return {};
  }
  if (!detail::has_rows(offsets, offsets.back())) return {};
  auto dy = Sequence<Real, D>::zeros(offsets.back());
  for (Index b = 0; b < d_last.rows(); ++b) {
    std::memcpy(dy.row_data(offsets[static_cast<std::size_t>(b) + 1] - 1), d_last.row(b).data(),
                sizeof(Real) * std::size_t{D});
  }
  return dy;
}

namespace detail {
/// The class with the most; ties go to the higher membrane, then to the lower class. -1: silent.
template <class Real>
int decide(const Real* count, const Real* membrane, Index n, Real nothing, Real sign) {
  Index best = -1;
  for (Index c = 0; c < n; ++c) {
    if (count[c] != count[c]) return -1;  // NaN is no answer
    if (!(sign * count[c] > sign * nothing)) continue;
    const bool more = best < 0 || sign * count[c] > sign * count[best];
    const bool tie =
        best >= 0 && count[c] == count[best] && membrane != nullptr && membrane[c] > membrane[best];
    if (more || tie) best = c;
  }
  return static_cast<int>(best);
}
}  // namespace detail

/// Most spikes win. -1, no decision, where none of a row's classes fired. `membrane` breaks ties.
template <class Real, Index D>
std::vector<int> decisions(SequenceView<Real, D> count,
                           std::type_identity_t<SequenceView<Real, D>> membrane = {}) {
  std::vector<int> classes;
  if (membrane.rows() != 0 && !fits_cache(membrane.rows(), count.rows(), "rows of the membrane")) {
    return classes;
  }
  for (Index b = 0; b < count.rows(); ++b) {
    const Real* v = membrane.rows() == 0 ? nullptr : membrane.row(b).data();
    classes.push_back(detail::decide(count.row(b).data(), v, D, Real(0), Real(1)));
  }
  return classes;
}

/// The earliest spike wins: `times` [B x D] as `first_spike` gives them after `steps` rows.
template <class Real, Index D>
std::vector<int> decisions_by_time(SequenceView<Real, D> times, Index steps,
                                   std::type_identity_t<SequenceView<Real, D>> membrane = {}) {
  std::vector<int> classes;
  if (membrane.rows() != 0 && !fits_cache(membrane.rows(), times.rows(), "rows of the membrane")) {
    return classes;
  }
  for (Index b = 0; b < times.rows(); ++b) {
    const Real* v = membrane.rows() == 0 ? nullptr : membrane.row(b).data();
    classes.push_back(
        detail::decide(times.row(b).data(), v, D, static_cast<Real>(steps), Real(-1)));
  }
  return classes;
}

template <class Real, Index D>
Sequence<Real, D> last_rows(const Sequence<Real, D>& y, std::span<const Index> offsets) {
  return last_rows(SequenceView<Real, D>(y), offsets);
}
template <class Real, Index D>
Sequence<Real, D> last_rows_backward(const Sequence<Real, D>& d, std::span<const Index> offsets) {
  return last_rows_backward(SequenceView<Real, D>(d), offsets);
}
template <class Real, Index D>
std::vector<int> decisions(const Sequence<Real, D>& count,
                           std::type_identity_t<SequenceView<Real, D>> membrane = {}) {
  return decisions(SequenceView<Real, D>(count), membrane);
}
template <class Real, Index D>
std::vector<int> decisions_by_time(const Sequence<Real, D>& times, Index steps,
                                   std::type_identity_t<SequenceView<Real, D>> membrane = {}) {
  return decisions_by_time(SequenceView<Real, D>(times), steps, membrane);
}

}  // namespace limen::inline LIMEN_ABI
