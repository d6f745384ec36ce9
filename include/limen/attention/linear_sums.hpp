#pragma once
/// @file  What linear attention is, and the sums that it keeps and reads: linear_attention.hpp.
///
///   S_t = a_t S_{t-1} + k_t w_tᵀ,  s_t = S_tᵀ q_t          w = [v, 1], without .normalize v
///   o_t = s_t / (the last of s_t + ε)                      without .normalize s_t
///
///   q, k [T x H F]   v, o [T x H d]   w, s [T x H P]   S [H][F][P]   a [T][H]
///
/// The last column of S is z. a is 1, but for random features. Without .causal every row reads the
/// sum of all rows of its sequence.

#include <algorithm>
#include <array>

#include <limen/attention/feature_maps.hpp>
#include <limen/core/batch.hpp>
#include <limen/kernel/ssd.hpp>

namespace limen::inline LIMEN_ABI {

struct LinearAttentionConfig {
  Index d_model = 0;                          ///< D
  Index n_heads = 1;                          ///< H
  Index d_head = 0;                           ///< d; 0: D / H
  FeatureMap map = FeatureMap::elu_plus_one;  ///< φ
  bool normalize = true;                      ///< divide by z·q + ε
  bool causal = true;                         ///< false: no state, no step
  double eps = 1e-6;                          ///< ε
  double floor = 1e-3;                        ///< of relu
  Index features = 0;                         ///< r, of random; 0: d

  constexpr Index head_width() const { return d_head > 0 ? d_head : d_model / n_heads; }     ///< d
  constexpr Index feature_width() const { return features > 0 ? features : head_width(); }   ///< F
  constexpr Index sum_width() const { return normalize ? head_width() + 1 : head_width(); }  ///< P
};

template <class Real, Index H, Index F, Index P>
struct LinearAttentionState {
  Fixed<Real, H, F, P> s;  ///< S, and z as its last column
};
template <class Real, Index H, Index F, Index P>
struct RandomAttentionState : LinearAttentionState<Real, H, F, P> {
  Fixed<Real, H> most;  ///< c of the keys that are in S: feature_maps.hpp
};

namespace detail {

/// f(rows): rows(x) are those of a sequence that has any.
template <class State, class Do>
void for_each_sequence(const Batch<State>& batch, Index rows, Do f) {
  for (Index b = 0; b < batch.count(); ++b) {
    const Index first = batch.begin(b), count = batch.end(b, rows) - first;
    if (count > 0) f([&](const auto& x) { return x.middle_rows(first, count); });
  }
}

template <LinearAttentionConfig C, class Real>
struct LinearSums {
  static constexpr LinearAttentionConfig config = C;
  static constexpr Index H = C.n_heads, d = C.head_width(), F = C.feature_width(),
                         P = C.sum_width();

  MatrixView<const Real> q, k, w;
  const Real* decay = nullptr;  ///< a; null: 1

  /// s of one row, which goes into S first.
  void step(Real* S, Real* s) const noexcept { ssd_step(operands(), S, s); }

  /// s of all rows. The states move on; `kept` is for `back`, or null.
  template <class State>
  void read(const Batch<State>& batch, MatrixView<Real> s, KeptStates<Real>* kept) const {
    if constexpr (C.causal) {
      ssd(operands(), s_part(batch), s, kept);
    } else {
      for_each_head(batch, [&](auto keys, auto values, MatrixView<Real> S, MatrixView<Real>) {
        add_product_tn<Real>(keys(k), values(w), S);
        product_nn<Real>(keys(q), S, values(s));
      });
    }
  }

  /// From ds: dq, dk and dw, which are written. Without .causal
  ///   dS = Σ q dsᵀ,  dq = S ds,  dk = dS w,  dw = dSᵀ k
  template <class State>
  void back(const Batch<State>& batch, const KeptStates<Real>& kept, MatrixView<const Real> ds,
            MatrixView<Real> dq, MatrixView<Real> dk, MatrixView<Real> dw) const {
    if constexpr (C.causal) {
      ssd_backward<Real>(operands(), s_part(batch), kept, ds, {dq, dk, dw, {}, {}});
    } else {
      for_each_head(batch, [&](auto keys, auto values, MatrixView<Real> S, MatrixView<Real> dS) {
        add_product_tn<Real>(keys(k), values(w), S);
        add_product_tn<Real>(keys(q), values(ds), dS);
        product_nt<Real>(values(ds), S, keys(dq));
        product_nt<Real>(values(w), dS, keys(dk));
        product_nn<Real>(keys(k), dS, values(dw));
      });
    }
  }

  // ── Values and their 1, sums and what divides them ─────────────────────────────────────────────

  /// w of v, without gaps as v is.
  static void widen(MatrixView<const Real> v, MatrixView<Real> w) noexcept {
    for (Index i = 0; i < v.rows * H; ++i) {
      std::copy_n(v.data + i * d, d, w.data + i * P);
      if constexpr (C.normalize) w.data[i * P + d] = 1;
    }
  }
  /// dv of dw: the 1 learns nothing.
  static void narrow(MatrixView<const Real> dw, MatrixView<Real> dv) noexcept {
    for (Index i = 0; i < dw.rows * H; ++i) std::copy_n(dw.data + i * P, d, dv.data + i * d);
  }
  static void divide(MatrixView<const Real> s, MatrixView<Real> o) noexcept {
    for (Index i = 0; i < s.rows * H; ++i) {
      const Real* const from = s.data + i * P;
      const Real by = factor(from);
      for (Index p = 0; p < d; ++p) o.data[i * d + p] = from[p] * by;
    }
  }
  /// With m = z·q + ε:  d(Sᵀq) = do / m,  d(z·q) = -(do·o) / m.
  static void divide_back(MatrixView<const Real> d_o, MatrixView<const Real> o,
                          MatrixView<const Real> s, MatrixView<Real> ds) noexcept {
    for (Index i = 0; i < d_o.rows * H; ++i) {
      const Real *const down = d_o.data + i * d, *const read = o.data + i * d;
      Real* const to = ds.data + i * P;
      const Real by = factor(s.data + i * P);
      Real along = 0;
      for (Index p = 0; p < d; ++p) {
        to[p] = down[p] * by;
        along += down[p] * read[p];
      }
      if constexpr (C.normalize) to[d] = -along * by;
    }
  }

 private:
  static constexpr auto ones = [] {
    std::array<Real, static_cast<std::size_t>(H)> all{};
    for (Real& one : all) one = 1;
    return all;
  }();

  static Real factor([[maybe_unused]] const Real* s) noexcept {
    if constexpr (C.normalize) return 1 / (s[d] + static_cast<Real>(config.eps));
    return 1;
  }

  template <class State>
  static auto s_part(const Batch<State>& batch) {
    return batch.part([](State& state) -> auto& { return state.s; });
  }
  StateInputs<Real> operands() const noexcept {
    const bool all_kept = decay == nullptr;
    const MatrixView<const Real> a{all_kept ? ones.data() : decay, w.rows, H, all_kept ? 0 : H};
    return {H, H, F, P, q, k, w, a, {}, Real(1)};
  }

  /// f(columns of head h in q and k, in w, S [F x P], another such) for the rows of each sequence.
  template <class State, class Do>
  void for_each_head(const Batch<State>& batch, Do f) const {
    Buffer<Real> space(2 * F * P);
    for_each_sequence(batch, q.rows, [&](auto of) {
      for (Index h = 0; h < H; ++h) {
        std::fill(space.begin(), space.end(), Real(0));
        f([&](const auto& x) { return of(x).middle_cols(h * F, F); },
          [&](const auto& x) { return of(x).middle_cols(h * P, P); },
          MatrixView<Real>{space.data(), F, P, P}, MatrixView<Real>{space.data() + F * P, F, P, P});
      }
    });
  }
};

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
