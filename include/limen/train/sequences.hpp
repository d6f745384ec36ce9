#pragma once
/// @file  Sequences<Real, D>: the inputs of a data set. All rows back to back, and where each
/// sequence begins; lengths may differ.

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real, Index D>
class Sequences {
 public:
  Sequences() = default;

  /// Rows cut into sequences of one length; what is left at the end is dropped.
  Sequences(SequenceView<Real, D> rows, Index length) {
    if (length < 1) {
      fail({"length of the sequences", "1 or more", std::to_string(length)});
      return;
    }
    for (Index t = 0; t + length <= rows.rows(); t += length) add(rows.middle_rows(t, length));
  }

  void add(SequenceView<Real, D> rows) {
    for (Index t = 0; t < rows.rows(); ++t) {
      values_.insert(values_.end(), rows.row(t).data(), rows.row(t).data() + D);
    }
    offsets_.push_back(offsets_.back() + rows.rows());
  }

  Index size() const { return static_cast<Index>(offsets_.size()) - 1; }
  Index rows() const { return offsets_.back(); }
  /// Sequence i is rows offsets()[i] to offsets()[i + 1].
  std::span<const Index> offsets() const { return offsets_; }

  SequenceView<Real, D> operator[](Index i) const {
    const auto k = static_cast<std::size_t>(i);
    return {values_.data() + offsets_[k] * D, offsets_[k + 1] - offsets_[k]};
  }

 private:
  std::vector<Real> values_;
  std::vector<Index> offsets_{0};
};

/// What a loss is asked about: the rows of some sequences, or of a piece of each.
struct Shard {
  std::span<const Index> items;    ///< their numbers in the data set
  std::span<const Index> offsets;  ///< rows offsets[k] to offsets[k + 1] belong to items[k]
  Index first_row = 0;             ///< of each sequence; not 0 when long ones are cut in chunks

  Index rows() const { return offsets.back(); }

  // What there is no label or target for is an error; the result then has no rows, and no loss
  // accepts it.

  /// For one label per sequence: at its last row; all other rows are ignored.
  Buffer<int> at_last_row(std::span<const int> labels, int ignore = -1) const {
    Buffer<int> result(rows());
    for (int& label : result) label = ignore;
    for (std::size_t k = 0; k < items.size(); ++k) {
      if (lacks("labels", items[k], labels.size())) return {};
      if (offsets[k + 1] == offsets[k]) continue;
      result[offsets[k + 1] - 1] = labels[static_cast<std::size_t>(items[k])];
    }
    return result;
  }

  /// For one label per sequence: at all its rows.
  Buffer<int> at_every_row(std::span<const int> labels) const {
    Buffer<int> result(rows());
    for (std::size_t k = 0; k < items.size(); ++k) {
      if (lacks("labels", items[k], labels.size())) return {};
      for (Index t = offsets[k]; t < offsets[k + 1]; ++t) {
        result[t] = labels[static_cast<std::size_t>(items[k])];
      }
    }
    return result;
  }

  /// For one label per row of the data set, whose offsets are `of_data`.
  Buffer<int> of_rows(std::span<const int> labels, std::span<const Index> of_data) const {
    Buffer<int> result(rows());
    for (std::size_t k = 0; k < items.size(); ++k) {
      if (lacks("offsets of the data", items[k], of_data.size())) return {};
      const Index from = of_data[static_cast<std::size_t>(items[k])] + first_row - offsets[k];
      if (lacks("labels", from + offsets[k + 1] - 1, labels.size())) return {};
      for (Index t = offsets[k]; t < offsets[k + 1]; ++t) {
        result[t] = labels[static_cast<std::size_t>(from + t)];
      }
    }
    return result;
  }

  /// The same for targets that are rows of numbers.
  template <class Real, Index D>
  Sequence<Real, D> of_rows(const Sequences<Real, D>& targets) const {
    Sequence<Real, D> result(rows());
    for (std::size_t k = 0; k < items.size(); ++k) {
      if (lacks("targets", items[k], static_cast<std::size_t>(targets.size()))) return {};
      const auto from = targets[items[k]];
      const Index end = first_row + offsets[k + 1] - offsets[k];
      if (lacks("rows of a target", end - 1, static_cast<std::size_t>(from.rows()))) return {};
      for (Index t = offsets[k]; t < offsets[k + 1]; ++t) {
        std::memcpy(result.row_data(t), from.row(first_row + t - offsets[k]).data(),
                    static_cast<std::size_t>(D) * sizeof(Real));
      }
    }
    return result;
  }

 private:
  /// Reports and says yes if there are no more than i of them.
  static bool lacks(const char* who, Index i, std::size_t count) {
    if (i < static_cast<Index>(count)) return false;
    fail({who, "more than " + std::to_string(i), std::to_string(count)});
    return true;
  }
};

}  // namespace limen::inline LIMEN_ABI
