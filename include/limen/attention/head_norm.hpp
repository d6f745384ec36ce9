#pragma once
/// @file  Norms of queries and keys, head by head, which keep scores in bounds.
///
///   rms          y = w x r,  r = (mean x² + ε)^-½               Qwen3; rms_offset: (1 + w) x r
///   layer        y = w (x - m) s + b                            Dehghani et al., arXiv:2302.05442
///   l2           y = g x / (|x| + ε),  g a number for each head, of queries only; scores are not
///                divided by √d                                  Henry et al., arXiv:2010.04245
///
///   x, y: N heads of d in each row; w and b [d], one for all heads

#include <cmath>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/norm.hpp>

namespace limen::inline LIMEN_ABI {

enum class QkNorm {
  none,
  rms,         ///< q and k of each head ⊙ w / rms (Qwen3)
  rms_offset,  ///< ⊙ (1 + w) / rms: the weight is stored as its distance from 1 (Qwen3-Next, Gemma)
  layer,       ///< mean 0, variance 1, ⊙ w (+ b)
  l2           ///< length 1; q times a learned number for each head
};

namespace detail {

template <QkNorm kind, Index d, class Real>
struct HeadNorm {
  static constexpr Real offset = kind == QkNorm::rms_offset ? 1 : 0;
  static constexpr bool has_weight = kind != QkNorm::none && kind != QkNorm::l2;
  static constexpr Index kept = kind == QkNorm::layer ? 2 : 1;  ///< numbers of a head for backward

  double eps;
  const Real* w;    ///< [d]; of l2 [N] or null
  const Real* b{};  ///< [d], or null

  /// In place; r [rows N kept], or null.
  void forward(MatrixView<Real> x, Real* r) const noexcept {
    const auto heads = heads_of(x);
    if constexpr (kind == QkNorm::layer) {
      layer_norm<Real>(heads, 1, w, b, eps, heads, r);
    } else if constexpr (kind == QkNorm::l2) {
      const Index N = x.cols / d;
      for (Index i = 0; i < heads.rows; ++i) {
        Real* const row = heads.row(i);
        const Real n = std::sqrt(dot(row, row));
        if (r != nullptr) r[i] = n;
        const simd::Vec<Real> by(scale(i % N) / (n + static_cast<Real>(eps)));
        simd::transform(row, row, d, [&](const auto& v) { return v * by; });
      }
    } else {
      rms_norm<Real>(heads, w, offset, eps, heads, r);
    }
  }

  /// dy becomes dx; dw and db are added to.  l2, with n = |x| and e = g dy:
  /// dx = e / (n + ε) - x <e, x> / (n (n + ε)²),  dg += <dy, x> / (n + ε)
  void backward(MatrixView<Real> dy, MatrixView<const Real> x, const Real* r, Real* dw,
                Real* db) const noexcept {
    const auto down = heads_of(dy);
    const auto from = heads_of(x);
    if constexpr (kind == QkNorm::layer) {
      layer_norm_backward<Real>(down, from, 1, w, r, down, dw, db);
    } else if constexpr (kind == QkNorm::l2) {
      const Index N = x.cols / d;
      for (Index i = 0; i < down.rows; ++i) {
        Real* const to = down.row(i);
        const Real* const row = from.row(i);
        const Real all = r[i] + static_cast<Real>(eps), along = dot(to, row), g = scale(i % N);
        if (dw != nullptr) dw[i % N] += along / all;
        const simd::Vec<Real> by(g / all),
            back(r[i] > 0 ? g * along / (r[i] * all * all) : Real(0));
        simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
          store(to + c, simd::fnma(load(row + c), back, load(to + c) * by));
        });
      }
    } else {
      rms_norm_backward<Real>(down, from, w, offset, r, down, dw);
    }
  }

 private:
  template <class R>
  static MatrixView<R> heads_of(MatrixView<R> x) {
    return {x.data, x.rows * (x.cols / d), d, d};
  }
  Real scale(Index h) const { return w != nullptr ? w[h] : Real(1); }
  static Real dot(const Real* a, const Real* c) noexcept {
    simd::Vec<Real> sum(Real(0));
    simd::for_each<Real>(
        d, [&](Index i, auto load, auto) { sum = simd::fma(load(a + i), load(c + i), sum); });
    return simd::reduce_add(sum);
  }
};

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
