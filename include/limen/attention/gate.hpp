#pragma once
/// @file  A gate on the heads of attention.
///
///   y = u ⊙ g,  g = l + (1 - l) a(z)        or y = u + g with .additive
///
///   u, y [T x H d].  z, one number for each of u (elementwise) or for each head (headwise). With
///   .shared all heads get the mean of g over the heads.
///
/// Where it stands decides what it does; behind the softmax (G1) it lets a head say nothing, so
/// that no token must serve as a sink. Qiu et al., "Gated Attention for Large Language Models",
/// arXiv:2505.06708, section 2.2 and table 1.

#include <limen/core/matrix.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/activation.hpp>

namespace limen::inline LIMEN_ABI {

enum class GatePosition {
  none,
  G1,  ///< on what the heads read, in front of o_proj
  G2,  ///< on the values: they are cached as gated
  G3,  ///< on the keys, in front of norm and rotation
  G4,  ///< on the queries, in front of norm and rotation
  G5   ///< on the output, behind o_proj
};

struct Gate {
  GatePosition position = GatePosition::none;
  bool headwise = false;                        ///< one number for each head
  bool shared = false;                          ///< one for all heads, the mean over them
  bool additive = false;                        ///< y = u + g
  bool from_input = true;                       ///< false: z is learned, the same for all rows
  bool bias = false;                            ///< z = x W + b
  Activation activation = Activation::sigmoid;  ///< a
  double least = 0;                             ///< l; ½ with sigmoid cannot close ("NS-sigmoid")

  constexpr bool on() const { return position != GatePosition::none; }
  constexpr bool at(GatePosition p) const { return position == p; }
};

namespace detail {

template <Gate G, class V>
LIMEN_INLINE V gate_value(const V& z) {
  using Real = typename V::value_type;
  const V a = activate<G.activation>(z);
  if constexpr (G.least == 0) return a;
  return simd::fma(a, V(Real(1 - G.least)), V(Real(G.least)));
}
template <Gate G, class V>
LIMEN_INLINE V gate_slope(const V& z) {
  using Real = typename V::value_type;
  return activation_derivative<G.activation>(z) * V(Real(1 - G.least));
}

/// The same gate, given g instead of z.
constexpr Gate given(Gate g) {
  g.activation = Activation::identity;
  g.least = 0;
  return g;
}

}  // namespace detail

/// g itself, before it is shared.  g may be z.
template <Gate G, class Real>
void gate_scores(const Real* z, Real* g, Index n) noexcept {
  simd::transform(z, g, n, [](const auto& v) { return detail::gate_value<G>(v); });
}

/// y = u ⊙ g or u + g, row by row; rows of z are `z_row` apart.  y may be u.
template <Gate G, class Real>
void head_gate(const Real* z, Index z_row, Index heads,
               std::type_identity_t<MatrixView<const Real>> u, MatrixView<Real> y) noexcept {
  using V = simd::Vec<Real>;
  const Index d = u.cols / heads;
  const auto put = [](const V& value, const V& g) {
    if constexpr (G.additive) return value + g;
    return value * g;
  };
  for (Index t = 0; t < u.rows; ++t, z += z_row) {
    const Real* const from = u.row(t);
    Real* const to = y.row(t);
    if constexpr (G.headwise) {
      for (Index h = 0; h < heads; ++h) {
        const V g = detail::gate_value<G>(V(z[h]));
        simd::transform(from + h * d, to + h * d, d, [&](const V& v) { return put(v, g); });
      }
    } else if constexpr (G.shared) {
      simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
        V g(Real(0));
        for (Index h = 0; h < heads; ++h) g = g + detail::gate_value<G>(load(z + h * d + c));
        g = g * V(Real(1) / static_cast<Real>(heads));
        for (Index h = 0; h < heads; ++h) store(to + h * d + c, put(load(from + h * d + c), g));
      });
    } else {
      simd::for_each<Real>(u.cols, [&](Index c, auto load, auto store) {
        store(to + c, put(load(from + c), detail::gate_value<G>(load(z + c))));
      });
    }
  }
}

/// du = dy ⊙ g,  dz = dy ⊙ u ⊙ g'        additive: du = dy,  dz = dy ⊙ g'
/// Headwise dz sums over the channels of a head; shared, over the heads, and divides by their
/// number.  du may be dy; dz has the shape of z, one row for each of u.
template <Gate G, class Real>
void head_gate_backward(const Real* z, Index z_row, Index heads,
                        std::type_identity_t<MatrixView<const Real>> u,
                        std::type_identity_t<MatrixView<const Real>> dy, MatrixView<Real> du,
                        Real* dz) noexcept {
  using V = simd::Vec<Real>;
  const Index d = u.cols / heads;
  for (Index t = 0; t < u.rows; ++t, z += z_row) {
    const Real *const from = u.row(t), *const down = dy.row(t);
    Real* const back = du.row(t);
    if constexpr (G.headwise) {
      for (Index h = 0; h < heads; ++h) {
        const V g = detail::gate_value<G>(V(z[h]));
        V sum(Real(0));
        simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
          const V a = load(down + h * d + c);
          sum = G.additive ? sum + a : simd::fma(a, load(from + h * d + c), sum);
          store(back + h * d + c, G.additive ? a : a * g);
        });
        alignas(64) Real slope[simd::lanes<Real>];
        simd::store(slope, detail::gate_slope<G>(V(z[h])));
        dz[h] = simd::reduce_add(sum) * slope[0];
      }
      dz += heads;
    } else if constexpr (G.shared) {
      const V share(Real(1) / static_cast<Real>(heads));
      simd::for_each<Real>(d, [&](Index c, auto load, auto store) {
        V g(Real(0)), dg(Real(0));
        for (Index h = 0; h < heads; ++h) {
          const V a = load(down + h * d + c);
          g = g + detail::gate_value<G>(load(z + h * d + c));
          dg = G.additive ? dg + a : simd::fma(a, load(from + h * d + c), dg);
        }
        g = g * share;
        dg = dg * share;
        for (Index h = 0; h < heads; ++h) {
          const V a = load(down + h * d + c);
          store(back + h * d + c, G.additive ? a : a * g);
          store(dz + h * d + c, dg * detail::gate_slope<G>(load(z + h * d + c)));
        }
      });
      dz += u.cols;
    } else {
      simd::for_each<Real>(u.cols, [&](Index c, auto load, auto store) {
        const V a = load(down + c), zc = load(z + c), slope = detail::gate_slope<G>(zc);
        store(dz + c, G.additive ? a * slope : a * load(from + c) * slope);
        store(back + c, G.additive ? a : a * detail::gate_value<G>(zc));
      });
      dz += u.cols;
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
