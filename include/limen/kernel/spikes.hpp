#pragma once
/// @file  Spikes as lists: which elements of a row are not zero, in ascending order.
///
///   list_spikes(x, n, ids)      ids of the x_i != 0, and whether all of them are 1
///   fire_and_list(...)          a step of neurons that writes the list of those that fired
///   SpikeRows                   the lists of all rows of a matrix, and turned: those of its
///   columns
///
/// A list costs the reading of the row; no branch depends on where the spikes are. What is done
/// with it: kernel/spike_sums.hpp.

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd/bits.hpp>
#include <limen/kernel/neurons.hpp>

namespace limen::inline LIMEN_ABI {

using SpikeIndex = std::int32_t;

/// Room for a list of at most n.
constexpr Index spike_room(Index n) { return n + simd::list_slack; }

struct SpikeCount {
  Index count = 0;
  bool binary = true;  ///< all that are not 0 are 1
};

/// Spikes of one row: ids ascend. Values are null where all are 1.
template <class Real>
struct SpikeList {
  const SpikeIndex* ids = nullptr;
  Index count = 0;
  const Real* values = nullptr;
};

/// `ids` has spike_room(n). NaN is listed, and not 1.
template <class Real>
SpikeCount list_spikes(const Real* x, Index n, SpikeIndex* ids) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr std::uint32_t every = (std::uint32_t{1} << lanes) - 1;
  const V zero(Real(0)), one(Real(1));
  std::uint32_t other = 0;
  SpikeIndex* to = ids;
  for (Index i = 0; i < n; i += lanes) {
    const V v = simd::load<V>(x + i, n - i);
    const std::uint32_t spikes = simd::lane_bits(v == zero) ^ every;
    other |= spikes ^ simd::lane_bits(v == one);
    to += simd::list_bits<static_cast<int>(lanes)>(spikes, static_cast<SpikeIndex>(i), to);
  }
  return {to - ids, other == 0};
}

/// The first element that is neither 0 nor 1; n if there is none.
template <class Real>
Index first_not_binary(const Real* x, Index n) noexcept {
  Index i = 0;
  while (i < n && (x[i] == Real(0) || x[i] == Real(1))) ++i;
  return i;
}

/// Empty if `ids` ascend strictly and are below n: no input twice, none that is not there.
inline std::string spike_list_fault(std::span<const SpikeIndex> ids, Index n) {
  for (std::size_t k = 0; k < ids.size(); ++k) {
    if (ids[k] < 0 || ids[k] >= n) {
      return std::to_string(ids[k]) + " at position " + std::to_string(k);
    }
    if (k > 0 && ids[k] <= ids[k - 1]) {
      return std::to_string(ids[k]) + " after " + std::to_string(ids[k - 1]) + " at position " +
             std::to_string(k);
    }
  }
  return {};
}

/// A step of D neurons as step_neurons (kernel/neurons.hpp), but instead of a row of spikes it
/// writes who fired. `ids` has spike_room(D). Gives their number.
template <class Unit, class Real>
Index fire_and_list(const Unit& unit, Index D, const Real* x,
                    const NeuronArrays<Real, Unit::states>& state, SpikeIndex* ids) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  constexpr std::uint32_t every = (std::uint32_t{1} << lanes) - 1;
  const V zero(Real(0));
  SpikeIndex* to = ids;
  simd::for_each<Real>(D, [&](Index c, auto load, auto store) __attribute__((always_inline)) {
    const auto at = [load, c](const Real* p) __attribute__((always_inline)) { return load(p + c); };
    std::array<V, Unit::states> now;
    std::array<V, Unit::keeps> kept;
    for (std::size_t k = 0; k < now.size(); ++k) now[k] = at(state[k]);
    const V spikes = unit.forward(at, at(x), now, kept);
    for (std::size_t k = 0; k < now.size(); ++k) store(state[k] + c, now[k]);
    std::uint32_t fired = simd::lane_bits(spikes == zero) ^ every;
    if (c + lanes > D) fired &= every >> (c + lanes - D);  // lanes behind the last neuron
    to += simd::list_bits<static_cast<int>(lanes)>(fired, static_cast<SpikeIndex>(c), to);
  });
  return to - ids;
}

/// The spikes of each row of a matrix: those of row t are ids[begin[t]] to ids[begin[t + 1]].
template <class Real>
class SpikeRows {
 public:
  SpikeRows() = default;

  /// Lists x [T x I]. Values are kept where one of them is not 1.
  static SpikeRows of(MatrixView<const Real> x) {
    SpikeRows s(x.rows, x.cols, x.rows * x.cols);
    Index n = 0;
    s.begin_[0] = 0;
    for (Index t = 0; t < x.rows; ++t) {
      const SpikeCount row = list_spikes(x.row(t), x.cols, s.ids_.data() + n);
      s.binary_ = s.binary_ && row.binary;
      n += row.count;
      s.begin_[t + 1] = n;
    }
    if (!s.binary_) {
      s.values_ = Buffer<Real>(n);
      for (Index t = 0; t < x.rows; ++t) {
        for (Index k = s.begin_[t]; k < s.begin_[t + 1]; ++k) s.values_[k] = x(t, s.ids_[k]);
      }
    }
    return s;
  }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index count() const { return begin_.size() > 0 ? begin_[rows_] : 0; }
  bool binary() const { return binary_; }
  SpikeList<Real> row(Index t) const {
    const Index b = begin_[t];
    return {ids_.data() + b, begin_[t + 1] - b, binary_ ? nullptr : values_.data() + b};
  }

  /// Rows first..first + rows turned: for each column the rows, from 0, in which it spikes.
  SpikeRows turned(Index first, Index rows) const {
    const Index from = begin_[first], to = begin_[first + rows];
    SpikeRows s(cols_, rows, to - from);
    s.binary_ = binary_;
    if (!binary_) s.values_ = Buffer<Real>(to - from);
    Index* begin = s.begin_.data();
    for (Index c = 0; c <= cols_; ++c) begin[c] = 0;
    for (Index k = from; k < to; ++k) ++begin[ids_[k] + 1];
    for (Index c = 0; c < cols_; ++c) begin[c + 1] += begin[c];
    for (Index t = 0; t < rows; ++t) {  // begin[c] walks to where column c ends
      for (Index k = begin_[first + t]; k < begin_[first + t + 1]; ++k) {
        const Index at = begin[ids_[k]]++;
        s.ids_[at] = static_cast<SpikeIndex>(t);
        if (!binary_) s.values_[at] = values_[k];
      }
    }
    for (Index c = cols_; c > 0; --c) begin[c] = begin[c - 1];
    begin[0] = 0;
    return s;
  }

 private:
  SpikeRows(Index rows, Index cols, Index most)
      : ids_(spike_room(most)), begin_(rows + 1), rows_(rows), cols_(cols) {}

  Buffer<SpikeIndex> ids_;
  Buffer<Index> begin_;
  Buffer<Real> values_;
  Index rows_ = 0, cols_ = 0;
  bool binary_ = true;
};

}  // namespace limen::inline LIMEN_ABI
