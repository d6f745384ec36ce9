#pragma once
/// @file  The softmax over the edges to one node, for all its heads at once, and its gradient.
///
///   p_e = e^(s_e - m) / Σ e^(s - m),  m = max s        ds_e = p_e (dp_e - Σ p dp)
///
/// Numbers of edges are [edges][H]: heads lie side by side in the lanes of a vector, over and over.

#include <limits>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI::detail {

constexpr Index least(Index a, Index b) { return a < b ? a : b; }

/// Numbers that `softmax_edges` may touch for so many edges.
template <class Real>
constexpr Index edge_room(Index edges, Index heads) {
  return edges * heads + 2 * simd::lanes<Real>;
}

/// [edges][heads], a vector at a time: the lanes of the vector at q are heads `first`, `first` + 1,
/// ... over and over, `active` of them. Vectors are `stride` apart.
template <class Real>
struct HeadLanes {
  using V = simd::Vec<Real>;
  static constexpr Index width = simd::lanes<Real>;

  Index heads, count;  ///< numbers in all
  bool narrow = heads <= width;
  Index active = narrow ? width - width % heads : width;
  Index stride = narrow ? active : heads;

  HeadLanes(Index edges, Index h) : heads(h), count(edges * h) {}

  /// f(q, lanes) for the vectors of heads `first` and on.
  template <class F>
  LIMEN_INLINE void each(Index first, F&& f) const {
    const Index here = narrow ? active : least(width, heads - first);
    for (Index q = 0; q < count - first; q += stride) f(q, narrow ? least(here, count - q) : here);
  }
  template <class F>
  LIMEN_INLINE void each_group(F&& f) const {
    for (Index first = 0; first < heads; first += narrow ? heads : width) f(first);
  }

  /// Each lane becomes what all lanes of its head come to. The lanes past `active` do not count.
  template <class F>
  LIMEN_INLINE V over_edges(V v, F&& join) const {
    if (!narrow || heads == width) return v;
#if !defined(LIMEN_SCALAR)
    if ((heads & (heads - 1)) == 0) {
      if constexpr (width > 1) {
        if (heads <= 1) v = join(v, simd::detail::rotate<1>(v));
      }
      if constexpr (width > 2) {
        if (heads <= 2) v = join(v, simd::detail::rotate<2>(v));
      }
      if constexpr (width > 4) {
        if (heads <= 4) v = join(v, simd::detail::rotate<4>(v));
      }
      if constexpr (width > 8) v = join(v, simd::detail::rotate<8>(v));
      return v;
    }
#endif
    alignas(64) Real all[V::size];
    simd::store(all, v);
    for (Index l = active - 1; l >= heads; --l) {
      all[l - heads] = join(all[l - heads], all[l]);
    }
    for (Index l = heads; l < width; ++l) all[l] = all[l - heads];
    return simd::load<V>(all);
  }
};

template <class Real>
struct Sum {
  using V = simd::Vec<Real>;
  LIMEN_INLINE V operator()(const V& a, const V& b) const { return a + b; }
  LIMEN_INLINE Real operator()(Real a, Real b) const { return a + b; }
};
template <class Real>
struct Larger {  // NaN is passed over
  using V = simd::Vec<Real>;
  LIMEN_INLINE V operator()(const V& a, const V& b) const { return simd::max(b, a); }
  LIMEN_INLINE Real operator()(Real a, Real b) const { return b > a ? b : a; }
};

/// s [edges][H], with edge_room -> p [edges][H], which may be s. s is overwritten.
template <class Real>
LIMEN_INLINE void softmax_edges(Real* s, Index edges, Index heads, Real* p) {
  using V = simd::Vec<Real>;
  constexpr Real nothing = -std::numeric_limits<Real>::infinity();
  const HeadLanes<Real> lanes(edges, heads);
  simd::store(s + lanes.count, V(nothing));
  simd::store(s + lanes.count + lanes.width, V(nothing));
  lanes.each_group([&](Index first) {
    Real* const x = s + first;
    V most(nothing);
    lanes.each(first, [&](Index q, Index) { most = Larger<Real>()(most, simd::load<V>(x + q)); });
    most = lanes.over_edges(most, Larger<Real>());
    const V shift = simd::select(most == V(nothing), V(Real(0)), most);
    V sum(Real(0));
    lanes.each(first, [&](Index q, Index) {
      const V e = math::exp(simd::load<V>(x + q) - shift);
      simd::store(x + q, e, lanes.narrow ? lanes.active : least(lanes.width, heads - first));
      sum = sum + e;
    });
    sum = lanes.over_edges(sum, Sum<Real>());
    const V scale = simd::select(sum == V(Real(0)), V(Real(0)), V(Real(1)) / sum);
    lanes.each(first, [&](Index q, Index n) {
      simd::store(p + first + q, simd::load<V>(x + q) * scale, n);
    });
  });
}

/// ds = p ⊙ (dp - Σ p dp), all [edges][H].  `ds` may be `dp`.
template <class Real>
LIMEN_INLINE void softmax_edges_backward(const Real* p, const Real* dp, Index edges, Index heads,
                                         Real* ds) {
  using V = simd::Vec<Real>;
  const HeadLanes<Real> lanes(edges, heads);
  lanes.each_group([&](Index first) {
    V dot(Real(0));
    lanes.each(first, [&](Index q, Index n) {
      dot = simd::fma(simd::load<V>(p + first + q, n), simd::load<V>(dp + first + q, n), dot);
    });
    dot = lanes.over_edges(dot, Sum<Real>());
    lanes.each(first, [&](Index q, Index n) {
      const V d = simd::load<V>(p + first + q, n) * (simd::load<V>(dp + first + q, n) - dot);
      simd::store(ds + first + q, d, n);
    });
  });
}

}  // namespace limen::inline LIMEN_ABI::detail
