#pragma once
/// @file  Feature maps of linear attention: what stands for q and k, so that a softmax becomes a
/// sum of products.
///
///   elu + 1     v + 1 above 0, e^v below               Katharopoulos et al., arXiv:2006.16236
///   relu        max(v, 0) + floor
///   softmax     q over the channels of a head, k over the rows of a sequence
///               Shen et al., "Efficient Attention", arXiv:1812.01243
///   random      φ(v)_i = r^(-1/2) exp(ω_i·v' - |v'|² / 2 - c),  v' = v / d^(1/4)
///               E φ(q)·φ(k) = exp(q·k / √d) for ω ~ N(0, I): FAVOR+, Choromanski et al.,
///               "Rethinking Attention with Performers", arXiv:2009.14794, section 2.3
///
/// c keeps the exponential in range: for q the largest ω·v' of the row, for k the largest seen so
/// far, or 0. What was summed with an older c is multiplied by e^(c_before - c): a decay.

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <limen/core/memory.hpp>
#include <limen/core/random.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/reduce.hpp>

namespace limen::inline LIMEN_ABI {

enum class FeatureMap {
  elu_plus_one,  ///< v + 1 above 0, e^v below
  relu,          ///< max(v, 0) + .floor
  identity,      ///< for sums that are not normalised: it changes its sign
  softmax,       ///< without .causal and .normalize: both are probabilities already
  random         ///< .features random exponentials: close to a softmax, the closer the more
};

/// ω [r x d]: normal rows, those of a block of d at right angles to each other. `random` decides.
template <class Real, Index r, Index d>
void draw_orthogonal_features(Tensor<Real, r, d>& omega, Random& random) {
  const auto row_of = [&](Index i) { return omega.data() + i * d; };
  for (Index i = 0; i < r; ++i) {
    Real* const row = row_of(i);
    double v[d], square = 0, length = 0;
    for (double& x : v) x = random.normal();
    for (Index before = i / d * d; before < i; ++before) {
      double along = 0, size = 0;
      for (Index c = 0; c < d; ++c) {
        along += v[c] * static_cast<double>(row_of(before)[c]);
        size += static_cast<double>(row_of(before)[c]) * static_cast<double>(row_of(before)[c]);
      }
      for (Index c = 0; c < d; ++c) v[c] -= along / size * static_cast<double>(row_of(before)[c]);
    }
    for (const double x : v) square += x * x;
    for (Index c = 0; c < d; ++c) {
      const double x = random.normal();
      length += x * x;
    }
    for (Index c = 0; c < d; ++c) row[c] = static_cast<Real>(v[c] * std::sqrt(length / square));
  }
}

namespace detail {

template <FeatureMap M, class V>
LIMEN_INLINE V feature(const V& v, double floor) {
  using Real = typename V::value_type;
  const V zero(Real(0));
  if constexpr (M == FeatureMap::elu_plus_one) {
    return simd::select(v > zero, v + V(Real(1)), math::exp(simd::min(zero, v)));
  } else if constexpr (M == FeatureMap::relu) {
    return simd::max(zero, v) + V(static_cast<Real>(floor));
  } else {
    return v;
  }
}
template <FeatureMap M, class V>
LIMEN_INLINE V feature_slope(const V& v) {
  using Real = typename V::value_type;
  const V zero(Real(0)), one(Real(1));
  if constexpr (M == FeatureMap::elu_plus_one) {
    return simd::select(v > zero, one, math::exp(simd::min(zero, v)));
  } else if constexpr (M == FeatureMap::relu) {
    return simd::select(v > zero, one, zero);
  } else {
    return one;
  }
}

// ── Random features ──────────────────────────────────────────────────────────────────────────────

template <class Real>
struct RandomFeatures {
  MatrixView<const Real> omega;  ///< [r x d]
  Index heads;

  Index d() const { return omega.cols; }
  Index r() const { return omega.rows; }

  /// ω·x' of all heads: x [T x H d] -> [T x H r]
  void project(MatrixView<const Real> x, MatrixView<Real> to) const noexcept {
    for (Index h = 0; h < heads; ++h) {
      product_nt<Real>(x.middle_cols(h * d(), d()), omega, to.middle_cols(h * r(), r()));
    }
    const simd::Vec<Real> by(static_cast<Real>(std::pow(static_cast<double>(d()), -0.25)));
    for (Index t = 0; t < to.rows; ++t) {
      simd::transform(to.row(t), to.row(t), to.cols, [&](const auto& v) { return v * by; });
    }
  }

  /// φ of one head in place: p = ω·x' becomes r^(-1/2) exp(p - |x'|² / 2 - c).
  void finish(const Real* x, Real c, Real* p) const noexcept {
    Real square = 0;
    for (Index i = 0; i < d(); ++i) square += x[i] * x[i];
    const Real root = std::sqrt(static_cast<Real>(d()));
    const simd::Vec<Real> shift(square / (2 * root) + c), by(1 / std::sqrt(static_cast<Real>(r())));
    simd::transform(p, p, r(), [&](const auto& v) { return math::exp(v - shift) * by; });
  }

  void queries(MatrixView<const Real> x, MatrixView<Real> to) const noexcept {
    project(x, to);
    for_each_head(to, [&](Index t, Index h, Real* p) {
      finish(x.row(t) + h * d(), *std::max_element(p, p + r()), p);
    });
  }
  /// The largest so far, c [H], moves on; `decay` [T][H] is e^(c_before - c).
  void keys(MatrixView<const Real> x, Real* c, Real* decay, MatrixView<Real> to) const noexcept {
    project(x, to);
    for_each_head(to, [&](Index t, Index h, Real* p) {
      const Real now = std::max(c[h], *std::max_element(p, p + r()));
      *decay++ = std::exp(c[h] - now);
      c[h] = now;
      finish(x.row(t) + h * d(), now, p);
    });
  }
  /// All rows with one c for each head, the largest of them or 0.
  void keys(MatrixView<const Real> x, Real* c, MatrixView<Real> to) const noexcept {
    project(x, to);
    for_each_head(to, [&](Index, Index h, const Real* p) {
      c[h] = std::max(c[h], *std::max_element(p, p + r()));
    });
    for_each_head(to, [&](Index t, Index h, Real* p) { finish(x.row(t) + h * d(), c[h], p); });
  }

  /// With a = dφ ⊙ φ and c constant:  dx = (ωᵀ a) / d^(1/4) - x Σ a / √d.  dφ becomes a.
  void backward(MatrixView<const Real> x, MatrixView<const Real> phi, MatrixView<Real> dphi,
                MatrixView<Real> dx) const {
    const Real root = std::sqrt(static_cast<Real>(d()));
    for (Index t = 0; t < phi.rows; ++t) {
      simd::for_each<Real>(phi.cols, [&](Index i, auto load, auto store) {
        store(dphi.row(t) + i, load(dphi.row(t) + i) * load(phi.row(t) + i));
      });
    }
    for (Index h = 0; h < heads; ++h) {
      product_nn<Real>(dphi.middle_cols(h * r(), r()), omega, dx.middle_cols(h * d(), d()));
    }
    for_each_head(dphi, [&](Index t, Index h, const Real* a) {
      const simd::Vec<Real> sum(row_sum(a, r()) / root), by(1 / std::sqrt(root));
      const Real* const from = x.row(t) + h * d();
      Real* const to = dx.row(t) + h * d();
      simd::for_each<Real>(d(), [&](Index i, auto load, auto store) {
        store(to + i, simd::fnma(load(from + i), sum, load(to + i) * by));
      });
    });
  }

 private:
  template <class F>
  void for_each_head(MatrixView<Real> p, F f) const {
    for (Index t = 0; t < p.rows; ++t) {
      for (Index h = 0; h < heads; ++h) f(t, h, p.row(t) + h * r());
    }
  }
};

// ── Softmax over rows of a sequence ──────────────────────────────────────────────────────────────

/// Every column becomes a softmax over the rows.
template <class Real>
void softmax_columns(MatrixView<Real> x) {
  using V = simd::Vec<Real>;
  if (x.rows == 0) return;
  simd::for_each<Real>(x.cols, [&](Index c, auto load, auto store) {
    V most = load(x.row(0) + c), sum(Real(0));
    for (Index t = 1; t < x.rows; ++t) most = simd::max(most, load(x.row(t) + c));
    for (Index t = 0; t < x.rows; ++t) {
      const V e = math::exp(load(x.row(t) + c) - most);
      sum = sum + e;
      store(x.row(t) + c, e);
    }
    const V by = V(Real(1)) / sum;
    for (Index t = 0; t < x.rows; ++t) store(x.row(t) + c, load(x.row(t) + c) * by);
  });
}

/// dx = p ⊙ (dy - Σ_t p dy), column by column.  In place of dy.
template <class Real>
void softmax_columns_backward(std::type_identity_t<MatrixView<const Real>> p, MatrixView<Real> dy) {
  using V = simd::Vec<Real>;
  simd::for_each<Real>(p.cols, [&](Index c, auto load, auto store) {
    V sum(Real(0));
    for (Index t = 0; t < p.rows; ++t) {
      sum = simd::fma(load(p.row(t) + c), load(dy.row(t) + c), sum);
    }
    for (Index t = 0; t < p.rows; ++t) {
      store(dy.row(t) + c, load(p.row(t) + c) * (load(dy.row(t) + c) - sum));
    }
  });
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
