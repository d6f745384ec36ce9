#pragma once
/// @file  Normalisation: of rows (RMS, layer and group norm) and of columns (batch norm).
///
///   rms_norm     y = (c + w) v r                   r = 1 / sqrt(mean v² + eps)
///   layer_norm   y = w v̂ + b,  v̂ = (v - m) s       s = 1 / sqrt(var + eps), per group of a row
///   batch norm   the same with m and var of a column: column_moments, normalize_columns
///
/// var is the mean of (v - m)². A row is read twice (RMS) or three times (layer norm) while it lies
/// in the first-level cache. Backward takes four rows at a time, so that dw and db are loaded and
/// stored once for four.

#include <cmath>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// f(sum, i, load, fill) -> sum over 0 <= i < n, a vector at a time, in four chains. fill(c) is c
/// in every lane that exists and 0 past the end, as `load` has it.
template <class Real, class F>
LIMEN_INLINE Real row_reduce(Index n, F&& f) {
  using V = simd::Vec<Real>;
  constexpr Index width = simd::lanes<Real>;
  V sum[4] = {V(Real(0)), V(Real(0)), V(Real(0)), V(Real(0))};
  const auto load = [](const Real* p) { return simd::load<V>(p); };
  const auto fill = [](Real c) { return V(c); };
  Index i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    LIMEN_UNROLL for (int k = 0; k < 4; ++k) sum[k] = f(sum[k], i + k * width, load, fill);
  }
  for (; i + width <= n; i += width) sum[0] = f(sum[0], i, load, fill);
  if (i < n) {
    const Index rest = n - i;
    sum[1] = f(
        sum[1], i, [rest](const Real* p) { return simd::load<V>(p, rest); },
        [rest](Real c) {
          alignas(64) Real lanes[width];
          simd::store(lanes, V(c));
          return simd::load<V>(lanes, rest);
        });
  }
  return simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/// run(t, integral_constant<int, R>) for rows t to t + R: four at a time, then one by one.
template <class F>
LIMEN_INLINE void by_four_rows(Index rows, F&& run) {
  Index t = 0;
  for (; t + 4 <= rows; t += 4) run(t, std::integral_constant<int, 4>{});
  for (; t < rows; ++t) run(t, std::integral_constant<int, 1>{});
}

}  // namespace detail

// ── Rows ─────────────────────────────────────────────────────────────────────────────────────────

/// y = (c + w) v r.  `r` [T] is kept for backward; null where it is not needed.
template <class Real>
void rms_norm(std::type_identity_t<MatrixView<const Real>> v, const Real* w, Real c, double eps,
              MatrixView<Real> y, std::type_identity_t<Real>* r = nullptr) noexcept {
  using V = simd::Vec<Real>;
  const Index n = v.cols;
  for (Index t = 0; t < v.rows; ++t) {
    const Real* row = v.row(t);
    Real* to = y.row(t);
    const Real square = detail::row_reduce<Real>(n, [row](V sum, Index i, auto load, auto) {
      const V a = load(row + i);
      return simd::fma(a, a, sum);
    });
    const Real scale = Real(1) / std::sqrt(square / static_cast<Real>(n) + static_cast<Real>(eps));
    if (r != nullptr) r[t] = scale;
    simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
      store(to + i, load(row + i) * V(scale) * (load(w + i) + V(c)));
    });
  }
}

/// With g = dy (c + w):  dv = r g - v r³ <g, v> / n,  dw += Σ_t dy v r
template <class Real>
void rms_norm_backward(std::type_identity_t<MatrixView<const Real>> dy,
                       std::type_identity_t<MatrixView<const Real>> v, const Real* w, Real c,
                       const Real* r, MatrixView<Real> dv, Real* dw) noexcept {
  using V = simd::Vec<Real>;
  const Index n = v.cols;
  detail::by_four_rows(v.rows, [&](Index t, auto count) {
    constexpr int rows = count;
    V dot[rows];
    LIMEN_UNROLL for (int j = 0; j < rows; ++j) dot[j] = V(Real(0));
    const Real *d = dy.row(t), *a = v.row(t);
    simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
      const V weight = load(w + i) + V(c);
      V sum = load(dw + i);
      LIMEN_UNROLL for (int j = 0; j < rows; ++j) {
        const V p = load(d + j * dy.stride + i) * load(a + j * v.stride + i);
        dot[j] = simd::fma(p, weight, dot[j]);
        sum = simd::fma(p, V(r[t + j]), sum);
      }
      store(dw + i, sum);
    });
    for (int j = 0; j < rows; ++j) {
      const Real scale = r[t + j];
      const V q(scale * scale * scale * simd::reduce_add(dot[j]) / static_cast<Real>(n));
      const Real *dj = dy.row(t + j), *vj = v.row(t + j);
      Real* to = dv.row(t + j);
      simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
        const V g = load(dj + i) * (load(w + i) + V(c));
        store(to + i, simd::fnma(q, load(vj + i), g * V(scale)));
      });
    }
  });
}

/// y = w v̂ + b for each of `groups` equal pieces of a row; w and b [groups n], or null.
/// `moments` [T][groups][2] keeps m and s for backward; null where they are not needed.
template <class Real>
void layer_norm(std::type_identity_t<MatrixView<const Real>> v, Index groups, const Real* w,
                const Real* b, double eps, MatrixView<Real> y,
                std::type_identity_t<Real>* moments = nullptr) noexcept {
  using V = simd::Vec<Real>;
  const Index n = v.cols / groups;
  const Real share = Real(1) / static_cast<Real>(n);
  for (Index t = 0; t < v.rows; ++t) {
    for (Index q = 0; q < groups; ++q) {
      const Real* row = v.row(t) + q * n;
      Real* to = y.row(t) + q * n;
      const Real m = share * detail::row_reduce<Real>(n, [row](V sum, Index i, auto load, auto) {
                       return sum + load(row + i);
                     });
      const Real var =
          share * detail::row_reduce<Real>(n, [row, m](V sum, Index i, auto load, auto fill) {
            const V a = load(row + i) - fill(m);
            return simd::fma(a, a, sum);
          });
      const Real s = Real(1) / std::sqrt(var + static_cast<Real>(eps));
      if (moments != nullptr) {
        moments[2 * (t * groups + q)] = m;
        moments[2 * (t * groups + q) + 1] = s;
      }
      simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
        V a = (load(row + i) - V(m)) * V(s);
        if (w != nullptr) a = a * load(w + q * n + i);
        if (b != nullptr) a = a + load(b + q * n + i);
        store(to + i, a);
      });
    }
  }
}

/// With g = dy w:  dv = s (g - mean g - v̂ mean(g v̂)),  dw += Σ_t dy v̂,  db += Σ_t dy
/// w, dw and db may be null.
template <class Real>
void layer_norm_backward(std::type_identity_t<MatrixView<const Real>> dy,
                         std::type_identity_t<MatrixView<const Real>> v, Index groups,
                         const Real* w, const Real* moments, MatrixView<Real> dv, Real* dw,
                         Real* db) noexcept {
  using V = simd::Vec<Real>;
  const Index n = v.cols / groups;
  const Real share = Real(1) / static_cast<Real>(n);
  detail::by_four_rows(v.rows, [&](Index t, auto count) {
    constexpr int rows = count;
    for (Index q = 0; q < groups; ++q) {
      const Index first = q * n;
      const Real *d = dy.row(t) + first, *a = v.row(t) + first;
      const Real* moment = moments + 2 * (t * groups + q);
      V sum_g[rows], sum_gv[rows];
      LIMEN_UNROLL for (int j = 0; j < rows; ++j) sum_g[j] = sum_gv[j] = V(Real(0));
      simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
        const V weight = w != nullptr ? load(w + first + i) : V(Real(1));
        V sum_w(Real(0)), sum_b(Real(0));
        LIMEN_UNROLL for (int j = 0; j < rows; ++j) {
          const Real* ms = moment + 2 * j * groups;
          const V dj = load(d + j * dy.stride + i);
          const V hat = (load(a + j * v.stride + i) - V(ms[0])) * V(ms[1]);
          sum_b = sum_b + dj;
          sum_w = simd::fma(dj, hat, sum_w);
          const V g = dj * weight;
          sum_g[j] = sum_g[j] + g;
          sum_gv[j] = simd::fma(g, hat, sum_gv[j]);
        }
        if (dw != nullptr) store(dw + first + i, load(dw + first + i) + sum_w);
        if (db != nullptr) store(db + first + i, load(db + first + i) + sum_b);
      });
      for (int j = 0; j < rows; ++j) {
        const V m(moment[2 * j * groups]), s(moment[2 * j * groups + 1]);
        const V mean_g(share * simd::reduce_add(sum_g[j]));
        const V mean_gv(share * simd::reduce_add(sum_gv[j]));
        const Real *dj = dy.row(t + j) + first, *vj = v.row(t + j) + first;
        Real* to = dv.row(t + j) + first;
        simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
          V g = load(dj + i);
          if (w != nullptr) g = g * load(w + first + i);
          const V hat = (load(vj + i) - m) * s;
          store(to + i, s * simd::fnma(hat, mean_gv, g - mean_g));
        });
      }
    }
  });
}

// ── Columns ──────────────────────────────────────────────────────────────────────────────────────

namespace detail {

/// sums[i] += Σ_r f(r, i, load), in pieces of 32 rows: rounding errors grow with the number of
/// pieces, and a piece of a row is read while its neighbours are in the cache.
template <class Real, class F>
void add_columns(Index rows, Index cols, Real* sums, F&& f) {
  using V = simd::Vec<Real>;
  for (Index r0 = 0; r0 < rows; r0 += 32) {
    const Index r1 = r0 + 32 < rows ? r0 + 32 : rows;
    simd::for_each<Real>(cols, [&](Index i, auto load, auto store) {
      V even(Real(0)), odd(Real(0));
      Index r = r0;
      for (; r + 2 <= r1; r += 2) {
        even = even + f(r, i, load);
        odd = odd + f(r + 1, i, load);
      }
      if (r < r1) even = even + f(r, i, load);
      store(sums + i, load(sums + i) + (even + odd));
    });
  }
}

template <class Real>
void scale_all(Real* x, Index n, Real factor) {
  simd::transform(x, x, n, [factor](auto v) { return v * decltype(v)(factor); });
}

}  // namespace detail

/// The mean and the variance (the mean of squared distances) of each column. v has rows.
template <class Real>
void column_moments(std::type_identity_t<MatrixView<const Real>> v, Real* mean,
                    Real* var) noexcept {
  using V = simd::Vec<Real>;
  const Real share = Real(1) / static_cast<Real>(v.rows);
  for (Index i = 0; i < v.cols; ++i) mean[i] = var[i] = 0;
  detail::add_columns(v.rows, v.cols, mean,
                      [&](Index r, Index i, auto load) -> V { return load(v.row(r) + i); });
  detail::scale_all(mean, v.cols, share);
  detail::add_columns(v.rows, v.cols, var, [&](Index r, Index i, auto load) -> V {
    const V a = load(v.row(r) + i) - load(mean + i);
    return a * a;
  });
  detail::scale_all(var, v.cols, share);
}

/// y = (v - m) w / sqrt(var + eps) + b, column by column; w and b may be null.
template <class Real>
void normalize_columns(std::type_identity_t<MatrixView<const Real>> v, const Real* mean,
                       const Real* var, const Real* w, const Real* b, double eps,
                       MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index block = 256;  // columns whose scales are kept on the stack
  alignas(64) Real scale[block];
  for (Index c0 = 0; c0 < v.cols; c0 += block) {
    const Index cols = c0 + block < v.cols ? block : v.cols - c0;
    simd::for_each<Real>(cols, [&](Index i, auto load, auto store) {
      const V s = V(Real(1)) / simd::sqrt(load(var + c0 + i) + V(static_cast<Real>(eps)));
      store(scale + i, w != nullptr ? s * load(w + c0 + i) : s);
    });
    for (Index r = 0; r < v.rows; ++r) {
      const Real* from = v.row(r) + c0;
      Real* to = y.row(r) + c0;
      simd::for_each<Real>(cols, [&](Index i, auto load, auto store) {
        const V a = (load(from + i) - load(mean + c0 + i)) * load(scale + i);
        store(to + i, b != nullptr ? a + load(b + c0 + i) : a);
      });
    }
  }
}

/// The sums that backward of a batch norm needs:  sum += Σ dy,  sum_hat += Σ dy v̂
template <class Real>
void add_column_products(std::type_identity_t<MatrixView<const Real>> dy,
                         std::type_identity_t<MatrixView<const Real>> v, const Real* mean,
                         const Real* s, Real* sum, Real* sum_hat) noexcept {
  using V = simd::Vec<Real>;
  detail::add_columns(dy.rows, dy.cols, sum,
                      [&](Index r, Index i, auto load) -> V { return load(dy.row(r) + i); });
  detail::add_columns(dy.rows, dy.cols, sum_hat, [&](Index r, Index i, auto load) -> V {
    return load(dy.row(r) + i) * ((load(v.row(r) + i) - load(mean + i)) * load(s + i));
  });
}

/// dv = w s (dy - sum / n - v̂ sum_hat / n)        w may be null
template <class Real>
void normalize_columns_backward(std::type_identity_t<MatrixView<const Real>> dy,
                                std::type_identity_t<MatrixView<const Real>> v, const Real* mean,
                                const Real* s, const Real* w, const Real* sum, const Real* sum_hat,
                                Index n, MatrixView<Real> dv) noexcept {
  using V = simd::Vec<Real>;
  const V share(Real(1) / static_cast<Real>(n));
  for (Index r = 0; r < v.rows; ++r) {
    const Real *d = dy.row(r), *a = v.row(r);
    Real* to = dv.row(r);
    simd::for_each<Real>(v.cols, [&](Index i, auto load, auto store) {
      const V si = load(s + i), hat = (load(a + i) - load(mean + i)) * si;
      const V g = simd::fnma(hat, load(sum_hat + i) * share, load(d + i) - load(sum + i) * share);
      store(to + i, w != nullptr ? g * si * load(w + i) : g * si);
    });
  }
}

}  // namespace limen::inline LIMEN_ABI
