#pragma once
/// @file  Softmax over a window of neighbours, by scores that each neighbour has once and for all.
///
///   w_io = exp(s_j + r_o - m) / Σ,  j = p_i - behind + o       0 <= o <= behind + ahead, j there
///   y_i  = Σ_o w_io v_j                                          for each head, p_i = i + Tk - Tq
///
///   s [Tk x H], v [Tk x H d], r [H][kw], kw = behind + 1 + ahead  ->  y [Tq x H d], w [Tq][H][kw]
///
/// m is the largest of the window, not of the sequence: scores may be as far apart as they like.

#include <algorithm>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
struct LocalRule {
  Index heads, behind, ahead;
  const Real* by_place;  ///< r

  Index width() const { return behind + 1 + ahead; }
};

namespace detail {

struct LocalWindow {
  Index first, from, to;  ///< first neighbour, if it were there; places that are there

  template <class Real>
  LocalWindow(const LocalRule<Real>& rule, Index p, Index keys)
      : first(p - rule.behind),
        from(std::max(-first, Index{0})),
        to(std::min(rule.width(), keys - first)) {}
};

/// w [H][kw] of the row at position p; 0 where nobody is.
template <class Real>
void local_weights(const LocalRule<Real>& rule, MatrixView<const Real> s, Index p,
                   Real* w) noexcept {
  const Index width = rule.width();
  const LocalWindow at(rule, p, s.rows);
  for (Index h = 0; h < rule.heads; ++h) {
    Real* const to = w + h * width;
    Real most = s(at.first + at.from, h) + rule.by_place[h * width + at.from];
    for (Index o = 0; o < width; ++o) {
      const bool there = o >= at.from && o < at.to;
      to[o] = there ? s(at.first + o, h) + rule.by_place[h * width + o] : Real(0);
      if (there) most = std::max(most, to[o]);
    }
    for (Index o = 0; o < width; ++o) to[o] -= most;
  }
  simd::transform(w, w, rule.heads * width, [](const auto& v) { return math::exp(v); });
  for (Index h = 0; h < rule.heads; ++h) {
    Real* const to = w + h * width;
    Real sum = 0;
    for (Index o = at.from; o < at.to; ++o) sum += to[o];
    for (Index o = 0; o < width; ++o) to[o] = o >= at.from && o < at.to ? to[o] / sum : Real(0);
  }
}

/// y [H d] of the row at position p.
template <class Real>
void read_window(const LocalRule<Real>& rule, MatrixView<const Real> v, Index p, const Real* w,
                 Real* y) noexcept {
  const Index width = rule.width(), d = v.cols / rule.heads;
  const LocalWindow at(rule, p, v.rows);
  for (Index h = 0; h < rule.heads; ++h) {
    const Real *const share = w + h * width, *const from = v.data + h * d;
    simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
      simd::Vec<Real> sum(Real(0));
      for (Index o = at.from; o < at.to; ++o) {
        const auto value = load(from + (at.first + o) * v.stride + c);
        sum = simd::fma(simd::Vec<Real>(share[o]), value, sum);
      }
      store(y + h * d + c, sum);
    });
  }
}

}  // namespace detail

/// `w` is kept for backward.
template <class Real>
void local_attention(const LocalRule<Real>& rule, std::type_identity_t<MatrixView<const Real>> s,
                     std::type_identity_t<MatrixView<const Real>> v, MatrixView<Real> y, Real* w) {
  const Index row = rule.heads * rule.width(), offset = v.rows - y.rows;
  const double ns = static_cast<double>(y.rows * rule.width() * v.cols) /
                        (2 * static_cast<double>(simd::lanes<Real>)) +
                    static_cast<double>(y.rows * row);
  constexpr Index block = 64;
  parallel_for((y.rows + block - 1) / block, ns, [&](Index b) {
    for (Index i = b * block; i < std::min(y.rows, (b + 1) * block); ++i) {
      detail::local_weights<Real>(rule, s, i + offset, w + i * row);
      detail::read_window<Real>(rule, v, i + offset, w + i * row, y.row(i));
    }
  });
}

/// de_io = w_io dy_i·(v_j - y_i):  ds_j += de,  dr_o += de,  dv_j += w_io dy_i.
template <class Real>
void local_attention_backward(const LocalRule<Real>& rule,
                              std::type_identity_t<MatrixView<const Real>> v,
                              std::type_identity_t<MatrixView<const Real>> y, const Real* w,
                              std::type_identity_t<MatrixView<const Real>> dy, MatrixView<Real> ds,
                              MatrixView<Real> dv, Real* d_by_place) noexcept {
  using V = simd::Vec<Real>;
  const Index width = rule.width(), d = v.cols / rule.heads, offset = v.rows - y.rows;
  for (Index i = 0; i < y.rows; ++i) {
    const detail::LocalWindow at(rule, i + offset, v.rows);
    for (Index h = 0; h < rule.heads; ++h, w += width) {
      const Real *const down = dy.row(i) + h * d, *const read = y.row(i) + h * d;
      for (Index o = at.from; o < at.to; ++o) {
        const Index j = at.first + o;
        const Real* const value = v.row(j) + h * d;
        Real* const back = dv.row(j) + h * d;
        const V share(w[o]);
        V along(Real(0));
        simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
          const V g = load(down + c);
          along = simd::fma(g, load(value + c) - load(read + c), along);
          store(back + c, simd::fma(share, g, load(back + c)));
        });
        const Real de = w[o] * simd::reduce_add(along);
        ds(j, h) += de;
        d_by_place[h * width + o] += de;
      }
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
