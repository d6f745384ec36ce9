#pragma once
/// @file  Sums of the rows of a matrix that a list names: what spikes do to the neurons behind
/// them.
///
///   FanOut                  weights with all that an input reaches side by side, w [I x O]
///   sum_listed(w, s, b, y)  y = b + Σ_{i in s} w_i           one list, w so or as a plain matrix
///   sum_listed(w, S, b, y)  y_t = b + Σ_{i in S_t} w_i       many
///   add_listed_outer(d, S)  dw_i += Σ_{t: i in S_t} d_t      the way back, for inputs that spiked
///
/// Each listed row is read once, and nothing else: time follows the spikes (how:
/// kernel/listed_sum.hpp). Every sum starts from y (or b) and adds its rows in the order of the
/// list, so its bits depend on nothing but the list.
///
/// HalfPairs hold weights as bfloat16, two to a word, in half the bytes: what leaves the caches is
/// bound by those.

#include <type_traits>
#include <utility>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/listed_sum.hpp>
#include <limen/kernel/spikes.hpp>
#include <limen/kernel/turn.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// Columns that many lists pass by: so many rows of 512 bytes stay in the second-level cache.
template <class Real>
inline constexpr Index batch_columns = 4 * pair_width<Real>;

}  // namespace detail

/// Weights of somebody else, turned to where their input reaches.
template <class Real, class Stored = Real>
struct FanOutView {
  const Stored* data = nullptr;
  Index in = 0, out = 0;
  Index stride = 0;  ///< of `Stored`
};

/// Weights w [O x I] as [I x O], each row filled up with zeros to whole pairs of vectors. Derived
/// data, as panels are: never saved.
template <class Real, class Stored = Real>
class FanOut {
  static_assert(std::is_same_v<Stored, Real> ||
                    (std::is_same_v<Stored, HalfPair> && std::is_same_v<Real, float>),
                "FanOut: stores its own kind of number, or pairs of halves of float");

 public:
  FanOut() = default;

  /// w [O x I], one row per output.
  static FanOut pack(MatrixView<const Real> w) {
    FanOut f(w.cols, w.rows);
    constexpr Index pair = detail::pair_width<Real>, lanes = simd::lanes<Real>;
    const Index width = (f.out_ + pair - 1) / pair * pair;
    if constexpr (std::is_same_v<Stored, Real>) {
      turn<Real>(w, {f.data_.data(), f.in_, width, f.stride_});
    } else {
      for (Index o = 0; o < width; o += pair) {
        const auto at = [&](Index row, Index i) { return row < f.out_ ? w(row, i) : Real(0); };
        for (Index i = 0; i < f.in_; ++i) {
          Stored* const to = f.data_.data() + i * f.stride_ + o / 2;
          for (Index k = 0; k < lanes; ++k) to[k] = {at(o + k, i), at(o + lanes + k, i)};
        }
      }
    }
    return f;
  }

  FanOut(const FanOut& other) : FanOut(other.in_, other.out_) {
    for (Index i = 0; i < data_.size(); ++i) data_[i] = other.data_[i];
  }
  FanOut(FanOut&& other) noexcept
      : data_(std::move(other.data_)),
        in_(std::exchange(other.in_, 0)),
        out_(std::exchange(other.out_, 0)),
        stride_(std::exchange(other.stride_, 0)) {}
  FanOut& operator=(FanOut other) noexcept {
    std::swap(data_, other.data_);
    std::swap(in_, other.in_);
    std::swap(out_, other.out_);
    std::swap(stride_, other.stride_);
    return *this;
  }
  ~FanOut() = default;

  Index in() const { return in_; }
  Index out() const { return out_; }
  FanOutView<Real, Stored> view() const { return {data_.data(), in_, out_, stride_}; }

 private:
  FanOut(Index in, Index out) : in_(in), out_(out) {
    constexpr Index line = 64 / static_cast<Index>(sizeof(Stored));
    constexpr Index pair = detail::pair_width<Real>;
    stride_ = (out + pair - 1) / pair * detail::stored_pair<Real, Stored>;
    // Rows a power of two apart would share a few sets of the cache.
    if (stride_ % (16 * line) == 0) stride_ += line;
    data_ = Buffer<Stored>(in * stride_);
  }

  Buffer<Stored> data_;
  Index in_ = 0, out_ = 0, stride_ = 0;
};

/// y = start + Σ_{i in s} w_i, start null: 0.   y [O], w [I x O].  `start` may be y.
template <class Real, class Stored>
void sum_listed(FanOutView<Real, Stored> w, const std::type_identity_t<SpikeList<Real>>& s,
                const std::type_identity_t<Real>* start, Real* y) noexcept {
  detail::sum_list<Real, Stored, true>({w.data, w.stride, s, start, y, 0}, 0, w.out);
}

/// The same of a matrix as it is.
template <class Real>
void sum_listed(MatrixView<const Real> w, const std::type_identity_t<SpikeList<Real>>& s,
                const std::type_identity_t<Real>* start, Real* y) noexcept {
  detail::sum_list<Real, Real, false>({w.data, w.stride, s, start, y, 0}, 0, w.cols);
}

/// y_t = bias + Σ_{i in S_t} w_i        S [T x I], y [T x O]
template <class Real, class Stored>
void sum_listed(FanOutView<Real, Stored> w, const SpikeRows<Real>& s,
                const std::type_identity_t<Real>* bias, MatrixView<Real> y) {
  const bool few = s.rows() < 4;
  const Index piece = few ? w.out : detail::batch_columns<Real>;
  const Index pieces = (w.out + piece - 1) / piece;
  const double work_ns = static_cast<double>(s.count() * w.out) /
                         static_cast<double>(simd::lanes<Real>) * (few ? 0.5 : 0.25);
  parallel_for(pieces, work_ns, [&](Index p) {
    const Index first = p * piece, last = first + piece < w.out ? first + piece : w.out;
    for (Index t = 0; t < s.rows(); ++t) {
      detail::sum_list<Real, Stored, true>({w.data, w.stride, s.row(t), bias, y.row(t), 0}, first,
                                           last);
    }
  });
}

/// dw_i += Σ_{t: i in S_t} s_ti d_t        d [T x O], S [T x I], dw [I x O], which is turned
template <class Real>
void add_listed_outer(MatrixView<const Real> d, const SpikeRows<Real>& s, MatrixView<Real> dw) {
  constexpr Index block = 512;  // rows of d that stay in the second-level cache
  for (Index t0 = 0; t0 < s.rows(); t0 += block) {
    const Index rows = s.rows() - t0 < block ? s.rows() - t0 : block;
    const SpikeRows<Real> turned = s.turned(t0, rows);
    const MatrixView<const Real> from = d.middle_rows(t0, rows);
    const Index piece = detail::batch_columns<Real>, pieces = (d.cols + piece - 1) / piece;
    const double work_ns = static_cast<double>((turned.count() + s.cols()) * d.cols) /
                           static_cast<double>(simd::lanes<Real>) * 0.25;
    parallel_for(pieces, work_ns, [&](Index p) {
      const Index first = p * piece, last = first + piece < d.cols ? first + piece : d.cols;
      for (Index i = 0; i < s.cols(); ++i) {
        const SpikeList<Real> list = turned.row(i);
        if (list.count == 0) continue;
        Real* const y = dw.row(i);
        detail::sum_list<Real, Real, false>({from.data, from.stride, list, y, y, 0}, first, last);
      }
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
