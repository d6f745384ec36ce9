#pragma once
/// @file  A causal convolution over rows, one filter per channel, forward and back:
///
///   y_t = a(b + Σ_j w_j ⊙ x_{t-(W-1)+j})
///
/// Weights are [taps][channels] (taps_first of kernel/conv.hpp).

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// What a depthwise convolution runs over: row t is x.row(t), and for -(W - 1) <= t < 0 a row of
/// `before` [W - 1][C], oldest first; zeros if that is null.
template <class Real>
struct CausalRows {
  MatrixView<const Real> x;
  const Real* before;
  Index past;  ///< W - 1

  const Real* row(Index t) const {
    if (t >= 0) return x.row(t);
    return before == nullptr ? nullptr : before + (t + past) * x.cols;
  }
};

namespace detail {

/// Rows at a time: long enough to load weights and the first window seldom, short enough that the
/// rows a column of vectors runs through stay in the cache for the next one.
inline constexpr Index conv_rows = 16;

template <class Real, int W, bool Silu>
void depthwise_conv(const CausalRows<Real>& in, const Real* w, const Real* b,
                    MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols;
  for (Index t0 = 0; t0 < y.rows; t0 += conv_rows) {
    const Index t1 = t0 + conv_rows < y.rows ? t0 + conv_rows : y.rows;
    const Real* early[W];
    for (int j = 0; j + 1 < W; ++j) early[j] = in.row(t0 - (W - 1) + j);
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V weight[W], window[W];
      LIMEN_UNROLL for (int j = 0; j < W; ++j) weight[j] = load(w + j * C + i);
      LIMEN_UNROLL for (int j = 0; j + 1 < W; ++j) {
        window[j] = early[j] != nullptr ? load(early[j] + i) : V(Real(0));
      }
      const V bias = b != nullptr ? load(b + i) : V(Real(0));
      const Real* from = in.x.row(t0) + i;
      Real* to = y.row(t0) + i;
      for (Index t = t0; t < t1; ++t, from += in.x.stride, to += y.stride) {
        window[W - 1] = load(from);
        V sum = bias;
        LIMEN_UNROLL for (int j = 0; j < W; ++j) sum = simd::fma(weight[j], window[j], sum);
        if constexpr (Silu) sum = math::silu(sum);
        store(to, sum);
        LIMEN_UNROLL for (int j = 0; j + 1 < W; ++j) window[j] = window[j + 1];
      }
    });
  }
}

/// The same for any width.
template <class Real>
void depthwise_conv_any(Index W, bool silu, const CausalRows<Real>& in, const Real* w,
                        const Real* b, MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols;
  for (Index t = 0; t < y.rows; ++t) {
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V sum = b != nullptr ? load(b + i) : V(Real(0));
      for (Index j = 0; j < W; ++j) {
        const Real* row = in.row(t - (W - 1) + j);
        if (row != nullptr) sum = simd::fma(load(w + j * C + i), load(row + i), sum);
      }
      store(y.row(t) + i, silu ? math::silu(sum) : sum);
    });
  }
}

template <class Real, int W>
void depthwise_conv_backward(MatrixView<const Real> dy, const CausalRows<Real>& in, const Real* w,
                             MatrixView<Real> dx, Real* d_before, Real* dw, Real* db) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols, T = in.x.rows;
  const auto d_row = [&](Index t) { return t >= 0 && t < T ? dy.row(t) : nullptr; };
  for (Index t0 = 1 - W; t0 < T; t0 += conv_rows) {
    const Index t1 = t0 + conv_rows < T ? t0 + conv_rows : T;
    const Real* early[W];
    for (int k = 0; k + 1 < W; ++k) early[k] = d_row(t0 + k);
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V weight[W], d_weight[W], window[W];  // window[k] is dy of row t + k
      LIMEN_UNROLL for (int j = 0; j < W; ++j) {
        weight[j] = load(w + j * C + i);
        d_weight[j] = load(dw + j * C + i);
      }
      LIMEN_UNROLL for (int k = 0; k + 1 < W; ++k) {
        window[k] = early[k] != nullptr ? load(early[k] + i) : V(Real(0));
      }
      V d_bias = db != nullptr ? load(db + i) : V(Real(0));
      for (Index t = t0; t < t1; ++t) {
        const Real* ahead = t + W - 1 < T ? dy.row(t + W - 1) : nullptr;
        window[W - 1] = ahead != nullptr ? load(ahead + i) : V(Real(0));
        V sum(Real(0));
        LIMEN_UNROLL for (int k = 0; k < W; ++k) {
          sum = simd::fma(weight[W - 1 - k], window[k], sum);
        }
        if (const Real* row = in.row(t)) {
          const V x = load(row + i);
          LIMEN_UNROLL for (int k = 0; k < W; ++k) {
            d_weight[W - 1 - k] = simd::fma(x, window[k], d_weight[W - 1 - k]);
          }
        }
        if (t >= 0) {
          d_bias = d_bias + window[0];
          store(dx.row(t) + i, sum);
        } else if (d_before != nullptr) {
          store(d_before + (t + W - 1) * C + i, sum);
        }
        LIMEN_UNROLL for (int k = 0; k + 1 < W; ++k) window[k] = window[k + 1];
      }
      LIMEN_UNROLL for (int j = 0; j < W; ++j) store(dw + j * C + i, d_weight[j]);
      if (db != nullptr) store(db + i, d_bias);
    });
  }
}

template <class Real>
void depthwise_conv_backward_any(Index W, MatrixView<const Real> dy, const CausalRows<Real>& in,
                                 const Real* w, MatrixView<Real> dx, Real* d_before, Real* dw,
                                 Real* db) noexcept {
  using V = simd::Vec<Real>;
  const Index C = in.x.cols, T = in.x.rows;
  for (Index t = 1 - W; t < T; ++t) {
    const Real* row = in.row(t);
    Real* to = t >= 0 ? dx.row(t) : d_before == nullptr ? nullptr : d_before + (t + W - 1) * C;
    simd::for_each<Real>(C, [&](Index i, auto load, auto store) {
      V sum(Real(0));
      for (Index k = t < 0 ? -t : 0; k < W && t + k < T; ++k) {
        const Index at = (W - 1 - k) * C + i;
        const V d = load(dy.row(t + k) + i);
        sum = simd::fma(load(w + at), d, sum);
        if (row != nullptr) store(dw + at, simd::fma(load(row + i), d, load(dw + at)));
      }
      if (t >= 0 && db != nullptr) store(db + i, load(db + i) + load(dy.row(t) + i));
      if (to != nullptr) store(to + i, sum);
    });
  }
}

}  // namespace detail

/// y_t = a(b + Σ_j w_j ⊙ x_{t-(W-1)+j})        w [W][C], b [C] or null, a: SiLU or nothing
template <class Real>
void depthwise_conv(Index width, bool silu, const CausalRows<Real>& in, const Real* w,
                    const Real* b, MatrixView<Real> y) noexcept {
  const auto run = [&](auto W) {
    if (silu) {
      detail::depthwise_conv<Real, W, true>(in, w, b, y);
    } else {
      detail::depthwise_conv<Real, W, false>(in, w, b, y);
    }
  };
  switch (width) {
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 3:
      return run(std::integral_constant<int, 3>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    default:
      return detail::depthwise_conv_any(width, silu, in, w, b, y);
  }
}

/// For a = identity, with dy = 0 outside of its rows:
///   dx_t = Σ_k w_{W-1-k} ⊙ dy_{t+k},  dw_{W-1-k} += Σ_t x_t ⊙ dy_{t+k},  db += Σ_t dy_t
/// Rows t < 0 of dx go to `d_before` [W - 1][C] (overwritten, null: dropped). db may be null.
template <class Real>
void depthwise_conv_backward(Index width, std::type_identity_t<MatrixView<const Real>> dy,
                             const CausalRows<Real>& in, const Real* w, MatrixView<Real> dx,
                             Real* d_before, Real* dw, Real* db) noexcept {
  const auto run = [&](auto W) {
    detail::depthwise_conv_backward<Real, W>(dy, in, w, dx, d_before, dw, db);
  };
  switch (width) {
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 3:
      return run(std::integral_constant<int, 3>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    default:
      return detail::depthwise_conv_backward_any<Real>(width, dy, in, w, dx, d_before, dw, db);
  }
}

/// dz = dy silu'(z), where z is overwritten:  silu' = s (1 + z (1 - s)),  s = sigma(z)
template <class Real>
void silu_backward(std::type_identity_t<MatrixView<const Real>> dy, MatrixView<Real> z) noexcept {
  for (Index t = 0; t < z.rows; ++t) {
    const Real* d = dy.row(t);
    Real* to = z.row(t);
    simd::for_each<Real>(z.cols, [&](Index i, auto load, auto store) {
      const auto v = load(to + i);
      using V = std::remove_const_t<decltype(v)>;
      const V s = math::sigmoid(v);
      store(to + i, load(d + i) * s * simd::fma(v, V(Real(1)) - s, V(Real(1))));
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
