#pragma once
/// @file  Queries and keys turned by their position, halves of a head against each other.
///
///   (x_i, x_{i+K/2}) -> (x_i cos φ - x_{i+K/2} sin φ, x_{i+K/2} cos φ + x_i sin φ),  φ = p
///   base^(-2i/K)
///
/// A row's angles follow from those of the row before by one rotation, in double; every 64 rows
/// they are computed anew, so no error grows. Su et al., "RoFormer", arXiv:2104.09864, section 3.4.

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// Heads of `width` (even) columns; row t is at position `first` + t. `sign` -1 turns back, which
/// is the derivative. Up to 512 columns of a head.
template <class Real>
void rotate_halves(MatrixView<Real> x, Index width, std::int64_t first, double base,
                   double sign = 1) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index most = 256, fresh = 64;
  const Index half = width / 2;
  double c[most], s[most], c1[most], s1[most];
  alignas(64) Real cosine[most], sine[most];
  for (Index i = 0; x.rows > 1 && i < half; ++i) {
    const double w = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    c1[i] = std::cos(w);
    s1[i] = std::sin(w);
  }
  for (Index t = 0; t < x.rows; ++t) {
    if (t % fresh == 0) {
      const double p = static_cast<double>(first + t);
      for (Index i = 0; i < half; ++i) {
        const double phi =
            p * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(width));
        c[i] = std::cos(phi);
        s[i] = std::sin(phi);
      }
    } else {
      for (Index i = 0; i < half; ++i) {
        const double next = c[i] * c1[i] - s[i] * s1[i];
        s[i] = s[i] * c1[i] + c[i] * s1[i];
        c[i] = next;
      }
    }
    for (Index i = 0; i < half; ++i) {
      cosine[i] = static_cast<Real>(c[i]);
      sine[i] = static_cast<Real>(sign * s[i]);
    }
    for (Index h = 0; h < x.cols; h += width) {
      Real *low = x.row(t) + h, *high = low + half;
      simd::for_each<Real>(half, [&](Index i, auto load, auto store) {
        const V a = load(low + i), b = load(high + i), ci = load(cosine + i), si = load(sine + i);
        store(low + i, simd::fnma(b, si, a * ci));
        store(high + i, simd::fma(a, si, b * ci));
      });
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
