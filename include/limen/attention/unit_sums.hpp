#pragma once
/// @file  What a gated attention unit is, and what it keeps of chunks that are over:
/// gated_attention_unit.hpp.
///
///   o_g += p_g S_g,  S_g = Σ_{h < g} l_hᵀ v_h / C        without .causal  o += p lᵀ v / T
///
///   o, v [T x E]   p, l [T x S]   the rows of chunk g have positions g C to (g + 1) C - 1

#include <algorithm>
#include <cstdint>
#include <span>

#include <limen/attention/attend.hpp>
#include <limen/attention/kv_cache.hpp>
#include <limen/attention/rope.hpp>
#include <limen/core/batch.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/squared_attention.hpp>

namespace limen::inline LIMEN_ABI {

struct GatedAttentionUnitConfig {
  Index d_model = 0;    ///< D
  Index d_value = 0;    ///< E; 0: 2 D
  Index d_key = 128;    ///< S
  bool causal = true;   ///< false: no state, no step
  Index capacity = 0;   ///< tokens that a state has room for, if .causal and without .chunk
  Index chunk = 0;      ///< C; 0: every row sees all rows before it one by one
  Index length = 0;     ///< n, the same for all rows; 0: the keys that a row sees
  Index distances = 0;  ///< R: b_0 .. b_{R-1}, the last also for what is further away; 0: no b
  RopeConfig rope{};    ///< rotation of q and k, and of p and l
  bool bias = false;    ///< of u_proj, v_proj and z_proj

  constexpr Index value_width() const { return d_value > 0 ? d_value : 2 * d_model; }  ///< E
  constexpr KvCacheConfig cache() const { return {1, d_key, value_width(), capacity}; }
};

/// What a stream remembers with .chunk.
template <class Real, Index S, Index E, Index C>
struct ChunkedUnitState {
  static constexpr bool ring = true;

  std::int64_t seen = 0;
  Fixed<Real, S, E> before;  ///< S_g of the chunk under way
  Fixed<Real, S, E> now;     ///< the same with what has been seen of it
  Fixed<Real, C, S> keys;
  Fixed<Real, C, E> values;

  static bool has_room(std::int64_t) { return true; }
  Index held() const { return static_cast<Index>(seen % C); }
  bool append(const Real* k, const Real* v) noexcept {
    std::copy_n(k, S, keys.data() + held() * S);
    std::copy_n(v, E, values.data() + held() * E);
    ++seen;
    return true;
  }
  void append(MatrixView<const Real> k, MatrixView<const Real> v) noexcept {
    for (Index t = 0; t < k.rows; ++t) append(k.row(t), v.row(t));
  }
  void gather(MatrixView<Real> k, MatrixView<Real> v) const noexcept {
    std::copy_n(keys.data(), held() * S, k.data);
    std::copy_n(values.data(), held() * E, v.data);
  }
};

namespace detail {

/// Only the one that is asked for is looked at: the others may not exist.
template <GatedAttentionUnitConfig C, class Real>
struct UnitState {
  using type = NoState;
};
template <GatedAttentionUnitConfig C, class Real>
  requires(C.causal && C.chunk > 0)
struct UnitState<C, Real> {
  using type = ChunkedUnitState<Real, C.d_key, C.value_width(), C.chunk>;
};
template <GatedAttentionUnitConfig C, class Real>
  requires(C.causal && C.chunk == 0)
struct UnitState<C, Real> {
  using type = KvCache<C.cache(), Real>;
};

template <class Real, Index S, Index E, Index C, bool causal>
struct UnitSums {
  using Sequences = std::span<const SequenceRows>;

  /// Adds to o. The states move on; gives S of all chunks, or of all sequences.
  template <bool Keep, class State>
  static Buffer<Real> read(const Batch<State>& batch, Sequences sequences,
                           const Sequence<Real, S>& p, const Sequence<Real, S>& l,
                           const Sequence<Real, E>& v, Sequence<Real, E>& o) {
    Index count = 0;
    for (const auto& s : sequences) count += chunks_of(s);
    Buffer<Real> sums(Keep || !causal ? count * size : 0), resting(causal ? 2 * size : 0);
    Real* kept = sums.data();
    for (Index b = 0; b < batch.count(); ++b) {
      const auto& s = sequences[static_cast<std::size_t>(b)];
      if (s.rows == 0) continue;
      const auto rows = [&](auto& x) { return x.matrix().middle_rows(s.row, s.rows); };
      if constexpr (causal) {
        Real *before = resting.data(), *now = before + size;
        if (batch.carries()) {
          before = batch[b].before.data();
          now = batch[b].now.data();
        } else {
          std::fill(resting.begin(), resting.end(), Real(0));
        }
        chunk_sums<Real>(C, place(s), rows(p), rows(l), rows(v), rows(o), before, now,
                         Keep ? kept : nullptr);
      } else {
        const MatrixView<Real> all = zeros(kept);
        add_product_tn<Real>(rows(l), rows(v), all);
        divide(all, s.rows);
        product_nn<Real>(rows(p), all, rows(o), {.accumulate = true});
      }
      if (Keep || !causal) kept += chunks_of(s) * size;
    }
    return sums;
  }

  /// From do: dp and dl are written, dv is added to.
  static void back(Sequences sequences, const Sequence<Real, S>& p, const Sequence<Real, S>& l,
                   const Sequence<Real, E>& v, const Sequence<Real, E>& d_o,
                   const Buffer<Real>& sums, Sequence<Real, S>& dp, Sequence<Real, S>& dl,
                   Sequence<Real, E>& dv) {
    const Real* kept = sums.data();
    Buffer<Real> space(causal ? 0 : size);
    for (const auto& s : sequences) {
      if (s.rows == 0) continue;
      const auto rows = [&](auto& x) { return x.matrix().middle_rows(s.row, s.rows); };
      if constexpr (causal) {
        chunk_sums_backward<Real>(C, place(s), rows(p), rows(l), rows(v), rows(d_o), kept, rows(dp),
                                  rows(dl), rows(dv));
      } else {
        const MatrixView<Real> d_all = zeros(space.data());
        add_product_tn<Real>(rows(p), rows(d_o), d_all);
        divide(d_all, s.rows);
        product_nt<Real>(rows(d_o), MatrixView<const Real>{kept, S, E, E}, rows(dp));
        product_nt<Real>(rows(v), MatrixView<const Real>(d_all), rows(dl));
        product_nn<Real>(rows(l), d_all, rows(dv), {.accumulate = true});
      }
      kept += chunks_of(s) * size;
    }
  }

 private:
  static constexpr Index size = S * E;

  /// Of the first row, in its chunk.
  static Index place(const SequenceRows& s) { return static_cast<Index>(s.seen % C); }
  static Index chunks_of(const SequenceRows& s) {
    if (s.rows == 0) return 0;
    return causal ? (place(s) + s.rows - 1) / C + 1 : 1;
  }
  static MatrixView<Real> zeros(Real* at) {
    std::fill_n(at, size, Real(0));
    return {at, S, E, E};
  }
  static void divide(MatrixView<Real> x, Index by) {
    const simd::Vec<Real> factor(Real(1) / static_cast<Real>(by));
    simd::transform(x.data, x.data, size, [&](const auto& v) { return v * factor; });
  }
};

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
