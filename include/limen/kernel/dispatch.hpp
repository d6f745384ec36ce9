#pragma once
/// @file  Rows that go to several experts each, and come back as weighted sums.
///
///   Dispatch(ids, ...)     which rows go where: a stable counting sort
///   gather_weighted        d_p = w_p x_{row(p)}                    rows of one expert
///   combine                y_t = Σ_p w_p o_p                       over the places p of row t
///   pairwise_dots          dw_p = ⟨dy_t, o_p⟩
///
/// T rows, K slots of each (id -1: unused), E experts. Within an expert rows are in ascending
/// order; within a row sums run over ascending experts. Nothing depends on the number of threads.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/reduce.hpp>

namespace limen::inline LIMEN_ABI {

/// Who goes where. A place is one (row, slot) pair; the places of an expert lie together.
class Dispatch {
 public:
  Dispatch() = default;

  /// ids [T x K]. Sequence b of `sequences` is rows offsets[b] to offsets[b + 1]; null: one.
  Dispatch(const std::int32_t* ids, Index rows, Index slots, Index experts,
           const Index* offsets = nullptr, Index sequences = 1)
      : rows_(rows),
        slots_(slots),
        experts_(experts),
        sequences_(sequences),
        starts_(experts + 1),
        row_(rows * slots),
        slot_(rows * slots),
        places_(rows * slots),
        counts_(rows),
        offsets_(experts * (sequences + 1)) {
    for (Index e = 0; e <= experts; ++e) starts_[e] = 0;
    for (Index i = 0; i < rows * slots; ++i) {
      const Index e = ids[i];
      if (e < -1 || e >= experts) {
        fault_ = i;
        return;
      }
      if (e >= 0) ++starts_[e + 1];
    }
    for (Index e = 0; e < experts; ++e) starts_[e + 1] += starts_[e];
    Buffer<Index> next(experts);
    for (Index e = 0; e < experts; ++e) next[e] = starts_[e];
    for (Index b = 0, t = 0; b <= sequences; ++b) {
      for (Index e = 0; e < experts; ++e) {
        offsets_[e * (sequences + 1) + b] = next[e] - starts_[e];
      }
      if (b == sequences) break;
      for (const Index end = offsets == nullptr ? rows : offsets[b + 1]; t < end; ++t) {
        for (Index j = 0; j < slots; ++j) {
          const Index e = ids[t * slots + j];
          if (e < 0) continue;
          row_[next[e]] = t;
          slot_[next[e]++] = t * slots + j;
        }
      }
    }
    for (Index t = 0; t < rows; ++t) counts_[t] = 0;
    for (Index p = 0; p < starts_[experts]; ++p) {
      const Index t = row_[p];
      places_[t * slots + counts_[t]++] = p;
    }
  }

  /// The first (row, slot) whose id is none, as row * K + slot; -1 if all are sound.
  Index fault() const { return fault_; }

  Index rows() const { return rows_; }
  Index experts() const { return experts_; }
  Index places() const { return experts_ == 0 ? 0 : starts_[experts_]; }
  Index begin(Index e) const { return starts_[e]; }
  /// How many rows expert e has.
  Index count(Index e) const { return starts_[e + 1] - starts_[e]; }
  /// [count(e)] the rows of expert e.
  const Index* rows_of(Index e) const { return row_.data() + starts_[e]; }
  /// [places()] row * K + slot of each place.
  const Index* slots_of_places() const { return slot_.data(); }
  /// The places of row t, experts ascending.
  const Index* places_of(Index t) const { return places_.data() + t * slots_; }
  Index count_of(Index t) const { return counts_[t]; }
  /// [B + 1] where each sequence starts among the rows of expert e.
  const Index* offsets(Index e) const { return offsets_.data() + e * (sequences_ + 1); }
  /// Does expert e have every row once, in order?
  bool takes_all(Index e) const {
    if (count(e) != rows_) return false;
    for (Index i = 0; i < rows_; ++i) {
      if (row_[starts_[e] + i] != i) return false;
    }
    return true;
  }

 private:
  Index rows_ = 0, slots_ = 0, experts_ = 0, sequences_ = 0, fault_ = -1;
  Buffer<Index> starts_;   ///< [E + 1]
  Buffer<Index> row_;      ///< by place
  Buffer<Index> slot_;     ///< by place
  Buffer<Index> places_;   ///< [T x K]
  Buffer<Index> counts_;   ///< [T] places of each row
  Buffer<Index> offsets_;  ///< [E][B + 1]
};

namespace detail {

/// Rows that one thread takes at a time.
inline constexpr Index combine_block = 16;

template <class F>
void for_row_blocks(Index rows, Index work, F f) {
  const Index blocks = (rows + combine_block - 1) / combine_block;
  // A number that is read, scaled and added takes about 0.1 ns from the second-level cache.
  parallel_for(blocks, 0.1 * static_cast<double>(work), [&](Index b) {
    const Index end = std::min(rows, (b + 1) * combine_block);
    for (Index t = b * combine_block; t < end; ++t) f(t);
  });
}

}  // namespace detail

/// y_t = Σ w_p o_p, or y_t += with `add`. `from` [places] points to the o_p; weight [T x K] by
/// slot, null: all 1. A row without places gives 0.
template <class Real>
void combine(const Dispatch& plan, const Real* const* from, const Real* weight, MatrixView<Real> y,
             bool add = false) {
  const Index* slot = plan.slots_of_places();
  detail::for_row_blocks(y.rows, plan.places() * y.cols, [&](Index t) {
    using V = simd::Vec<Real>;
    const Index* const places = plan.places_of(t);
    const Index count = plan.count_of(t);
    Real* const to = y.row(t);
    simd::for_each<Real>(y.cols, [&](Index i, auto load, auto store) {
      V sum = add ? load(to + i) : V(Real(0));
      for (Index j = 0; j < count; ++j) {
        const Index p = places[j];
        const V o = load(from[p] + i);
        sum = weight == nullptr ? sum + o : simd::fma(V(weight[slot[p]]), o, sum);
      }
      store(to + i, sum);
    });
  });
}

/// dw[slot] = ⟨dy_t, o_p⟩ for every place; unused slots get 0.   dw [T x K]
template <class Real>
void pairwise_dots(const Dispatch& plan, const Real* const* from,
                   std::type_identity_t<MatrixView<const Real>> dy, MatrixView<Real> dw) {
  const Index* slot = plan.slots_of_places();
  detail::for_row_blocks(dy.rows, plan.places() * dy.cols, [&](Index t) {
    for (Index j = 0; j < dw.cols; ++j) dw(t, j) = Real(0);
    for (Index j = 0; j < plan.count_of(t); ++j) {
      const Index p = plan.places_of(t)[j];
      dw.data[slot[p]] = reduce_row<Real>(
          dy.cols, [&](Index i, auto load) { return load(dy.row(t) + i) * load(from[p] + i); });
    }
  });
}

/// d_i = w x_{row} for the rows of expert e.   weight [T x K] by slot
template <class Real>
void gather_weighted(const Dispatch& plan, Index e, std::type_identity_t<MatrixView<const Real>> x,
                     const Real* weight, MatrixView<Real> d) noexcept {
  for (Index i = 0; i < plan.count(e); ++i) {
    const Index p = plan.begin(e) + i;
    const simd::Vec<Real> w(weight[plan.slots_of_places()[p]]);
    const Real* const from = x.row(plan.rows_of(e)[i]);
    simd::for_each<Real>(
        x.cols, [&](Index c, auto load, auto store) { store(d.row(i) + c, w * load(from + c)); });
  }
}

}  // namespace limen::inline LIMEN_ABI
