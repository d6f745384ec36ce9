#pragma once
/// @file  Pairs of channels turned by an angle proportional to the position of their row.
///
///   (a, b) -> m (a cos φ - b sin φ, b cos φ + a sin φ),   φ = p f_i     i < R / 2
///
///   a, b are channels i and i + R/2 of a head, or 2i and 2i + 1; from channel R on nothing turns.
///
/// Angles and frequencies are double. The angles of a row follow from those of the row before by
/// one rotation; every 64 rows they are computed anew, so no error grows.

#include <algorithm>
#include <cstdint>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/sin.hpp>

namespace limen::inline LIMEN_ABI {

inline constexpr Index most_rope_pairs = 512;

struct RopeRule {
  const double* frequencies = nullptr;  ///< f [R / 2]
  Index width = 0;                      ///< R, at most 2 most_rope_pairs
  Index head = 0;                       ///< channels of a head
  bool neighbours = false;              ///< pairs are 2i and 2i + 1
  double scale = 1;                     ///< m
};

namespace detail {

/// cosine and sine of the angles p f, times `scale`.
inline void rope_angles(const RopeRule& rule, double p, double* c, double* s) noexcept {
  using V = simd::Vec<double>;
  simd::for_each<double>(rule.width / 2, [&](Index i, auto load, auto store) {
    const V phi = load(rule.frequencies + i) * V(p);
    store(c + i, math::cos(phi));
    store(s + i, math::sin(phi));
  });
}

template <class Real>
void rope_row(const RopeRule& rule, const Real* c, const Real* s, Real* x, Index cols) noexcept {
  using V = simd::Vec<Real>;
  const Index half = rule.width / 2;
  for (Real* head = x; head < x + cols; head += rule.head) {
    if (rule.neighbours) {
      for (Index i = 0; i < half; ++i) {
        const Real a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * c[i] - b * s[i];
        head[2 * i + 1] = b * c[i] + a * s[i];
      }
    } else {
      simd::for_each<Real>(half, [&](Index i, auto load, auto store) {
        const V a = load(head + i), b = load(head + half + i), ci = load(c + i), si = load(s + i);
        store(head + i, simd::fnma(b, si, a * ci));
        store(head + half + i, simd::fma(a, si, b * ci));
      });
    }
  }
}

}  // namespace detail

/// Row t of x, and of `also`, turns to position `first` + t `step`. `sign` -1 turns back, which is
/// the derivative. Both hold whole heads in each row; `also` may have none.
template <class Real>
void rope(const RopeRule& rule, std::int64_t first, Index step, double sign, MatrixView<Real> x,
          std::type_identity_t<MatrixView<Real>> also = {}) noexcept {
  constexpr Index fresh = 64;
  const Index half = rule.width / 2;
  double c[most_rope_pairs], s[most_rope_pairs], c1[most_rope_pairs], s1[most_rope_pairs];
  alignas(64) Real cosine[most_rope_pairs], sine[most_rope_pairs];
  if (x.rows > 1) detail::rope_angles(rule, static_cast<double>(step), c1, s1);
  for (Index t = 0; t < x.rows; ++t) {
    if (t % fresh == 0) {
      detail::rope_angles(rule, static_cast<double>(first + t * step), c, s);
    } else {
      using V = simd::Vec<double>;
      simd::for_each<double>(half, [&](Index i, auto load, auto store) {
        const V ci = load(c + i), si = load(s + i), cn = load(c1 + i), sn = load(s1 + i);
        store(c + i, simd::fnma(si, sn, ci * cn));
        store(s + i, simd::fma(si, cn, ci * sn));
      });
    }
    for (Index i = 0; i < half; ++i) {
      cosine[i] = static_cast<Real>(rule.scale * c[i]);
      sine[i] = static_cast<Real>(rule.scale * sign * s[i]);
    }
    detail::rope_row(rule, cosine, sine, x.row(t), x.cols);
    if (also.cols > 0) detail::rope_row(rule, cosine, sine, also.row(t), also.cols);
  }
}

}  // namespace limen::inline LIMEN_ABI
