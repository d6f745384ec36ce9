#pragma once
/// @file  Sums of the rows of a matrix that a list names: what spikes do to the neurons behind
/// them.
///
///   FanOut                  weights with all that an input reaches side by side, w [I x O]
///   sum_listed(w, s, b, y)  y = b + Σ_{i in s} w_i           one list, w so or as a plain matrix
///   sum_listed(w, S, b, y)  y_t = b + Σ_{i in S_t} w_i       many
///   add_listed_outer(d, S)  dw_i += Σ_{t: i in S_t} d_t      the way back, for inputs that spiked
///
/// 16 vectors of outputs stay in registers while a list passes; each listed row is read once, and
/// nothing else: time follows the spikes. Every sum starts from y (or b) and adds its rows in the
/// order of the list, so its bits depend on nothing but the list.
///
/// HalfPairs hold weights as bfloat16, two to a word, in half the bytes: what leaves the caches is
/// bound by those.

#include <cstdint>
#include <type_traits>
#include <utility>

#include <limen/core/bfloat16.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/spikes.hpp>
#include <limen/kernel/turn.hpp>

namespace limen::inline LIMEN_ABI {

/// Two weights as bfloat16: of the same lane in two vectors that lie side by side.
struct HalfPair {
  std::uint32_t bits = 0;

  HalfPair() = default;
  HalfPair(float low, float high)
      : bits(std::uint32_t{bfloat16(high).bits} << 16 | bfloat16(low).bits) {}
};

namespace detail {

/// Columns that are read together: two vectors.
template <class Real>
inline constexpr Index pair_width = 2 * simd::lanes<Real>;

/// Numbers of a row of `Stored` that hold two vectors.
template <class Real, class Stored>
inline constexpr Index stored_pair =
    std::is_same_v<Stored, HalfPair> ? simd::lanes<Real> : pair_width<Real>;

template <class V>
LIMEN_INLINE void load_pair(const typename V::value_type* p, V& low, V& high) {
  low = simd::load<V>(p);
  high = simd::load<V>(p + V::size);
}

/// A bfloat16 is the upper half of a float: one shift and one mask.
template <class V>
LIMEN_INLINE void load_pair(const HalfPair* p, V& low, V& high) {
#if defined(__GNUC__) && !defined(LIMEN_SCALAR)
  using N = simd::detail::Native<float, V::size>;
  if constexpr (std::is_convertible_v<V, N>) {
    simd::detail::Native<std::uint32_t, V::size> words;
    std::memcpy(&words, p, sizeof words);
    low = V(std::bit_cast<N>(words << 16));
    high = V(std::bit_cast<N>(words & 0xFFFF0000u));
    return;
  }
#endif
  alignas(64) float wide[2 * V::size];
  for (std::size_t i = 0; i < V::size; ++i) {
    wide[i] = std::bit_cast<float>(p[i].bits << 16);
    wide[V::size + i] = std::bit_cast<float>(p[i].bits & 0xFFFF0000u);
  }
  load_pair<V>(wide, low, high);
}

template <class Real, class Stored>
struct ListedSum {
  const Stored* w;  ///< row i at w[i stride]
  Index stride;
  SpikeList<Real> list;
  const Real* start;  ///< what the sums start from; null: 0
  Real* y;
  Index columns;  ///< that y has, from here on
};

/// 2 Pairs vectors of y. Ragged: w, y have `columns` columns and not one more; else w is whole.
template <class Real, class Stored, int Pairs, bool Graded, bool Ragged>
LIMEN_NOINLINE void sum_columns(const ListedSum<Real, Stored>& job) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, step = stored_pair<Real, Stored>;
  const Stored* const w = job.w;
  const Index stride = job.stride, count = job.list.count;
  const SpikeIndex* const ids = job.list.ids;
  [[maybe_unused]] const Real* const values = job.list.values;
  const auto left = [columns = job.columns](int k) __attribute__((always_inline)) {
    return columns > k * lanes ? columns - k * lanes : 0;
  };
  V sum[2 * Pairs];
  LIMEN_UNROLL for (int k = 0; k < 2 * Pairs; ++k) {
    sum[k] = job.start != nullptr ? simd::load<V>(job.start + k * lanes, left(k)) : V(Real(0));
  }
  for (Index j = 0; j < count; ++j) {
    const Stored* const row = w + static_cast<Index>(ids[j]) * stride;
    LIMEN_UNROLL for (int k = 0; k < Pairs; ++k) {
      V low, high;
      if constexpr (Ragged) {
        low = simd::load<V>(row + k * step, left(2 * k));
        high = simd::load<V>(row + k * step + lanes, left(2 * k + 1));
      } else {
        load_pair<V>(row + k * step, low, high);
      }
      if constexpr (Graded) {
        sum[2 * k] = simd::fma(V(values[j]), low, sum[2 * k]);
        sum[2 * k + 1] = simd::fma(V(values[j]), high, sum[2 * k + 1]);
      } else {
        sum[2 * k] = sum[2 * k] + low;
        sum[2 * k + 1] = sum[2 * k + 1] + high;
      }
    }
  }
  LIMEN_UNROLL for (int k = 0; k < 2 * Pairs; ++k) {
    simd::store(job.y + k * lanes, sum[k], left(k));
  }
}

/// Pairs of vectors in the widest pass: all registers but those that load.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int widest_pairs = 8;
#else
inline constexpr int widest_pairs = 4;
#endif

/// Columns first..last of all sums of a list. `Whole`: the rows of w go on to a whole pair.
template <class Real, class Stored, bool Graded, bool Whole>
LIMEN_INLINE void sum_range(ListedSum<Real, Stored> job, Index first, Index last) noexcept {
  constexpr Index pair = pair_width<Real>, step = stored_pair<Real, Stored>;
  job.w += first / pair * step;
  if (job.start != nullptr) job.start += first;
  job.y += first;
  job.columns = last - first;
  const auto pass = [&](auto pairs) __attribute__((always_inline)) {
    constexpr int n = decltype(pairs)::value;
    sum_columns<Real, Stored, n, Graded, false>(job);
    job.w += n * step;
    if (job.start != nullptr) job.start += n * pair;
    job.y += n * pair;
    job.columns -= n * pair;
  };
  constexpr Index spare = Whole ? pair - 1 : 0;  // columns that need not be there
  while (job.columns + spare >= widest_pairs * pair) {
    pass(std::integral_constant<int, widest_pairs>());
  }
  if (widest_pairs > 4 && job.columns + spare >= 4 * pair) pass(std::integral_constant<int, 4>());
  if (job.columns + spare >= 2 * pair) pass(std::integral_constant<int, 2>());
  if (job.columns + spare >= pair) pass(std::integral_constant<int, 1>());
  if constexpr (!Whole) {
    if (job.columns > 0) sum_columns<Real, Stored, 1, Graded, true>(job);
  }
}

template <class Real, class Stored, bool Whole>
LIMEN_INLINE void sum_list(const ListedSum<Real, Stored>& job, Index first, Index last) noexcept {
  if (job.list.values == nullptr) {
    sum_range<Real, Stored, false, Whole>(job, first, last);
  } else {
    sum_range<Real, Stored, true, Whole>(job, first, last);
  }
}

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
