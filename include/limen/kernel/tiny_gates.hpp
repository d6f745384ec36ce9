#pragma once
/// @file  Steps of small gated recurrent units: sizes known at compile time, state in registers or
/// first-level cache, -log2 e in the weights (see kernel/recurrent.hpp, whose equations these are).

#include <limen/core/matrix.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/recurrent.hpp>
#include <limen/kernel/tiny.hpp>

namespace limen::inline LIMEN_ABI {

/// The weights of G gates of H units that see I inputs and their own H outputs. The first `Joint`
/// gates want the sum of both shares, the others each by itself.
///
/// In memory: blocks of units; in a block, row by row, the bias of the inputs, I inputs, the bias
/// of the state, H states; in a row, gate by gate, whole vectors of units. Where two gates fit into
/// one vector they share it.
template <class Real, Index G, Index Joint, Index I, Index H>
class TinyGates {
 public:
  static constexpr Index lanes = simd::lanes<Real>;
  static constexpr bool paired = 2 * H <= lanes && Joint % 2 == 0;
  static constexpr Index vectors = (H + lanes - 1) / lanes;  ///< of a gate
  static constexpr Index blocks =
      paired ? 1 : (vectors * G + detail::tiny_sums<Real> - 1) / detail::tiny_sums<Real>;
  static constexpr Index per_block = (vectors + blocks - 1) / blocks;  ///< vectors of a gate
  static constexpr Index units = per_block * lanes;                    ///< of a block
  static constexpr Index sums = paired ? (G + 1) / 2 : G * per_block;
  static constexpr Index joint = paired ? Joint / 2 : Joint * per_block;

  /// Weights [G H x I] and [G H x H], biases [G H] or null; rows are multiplied by the factor of
  /// their gate.
  void place(const Real* w_i, const Real* w_h, const Real* b_i, const Real* b_h,
             const Real (&factors)[G]) noexcept {
    for (Index g = 0; g < G; ++g) {
      for (Index j = 0; j < H; ++j) {
        const Index unit = g * H + j;
        const auto at = [&, g = g, j = j](Index r) -> Real& { return values_[place_of(r, g, j)]; };
        for (Index k = 0; k < I; ++k) at(1 + k) = factors[g] * w_i[unit * I + k];
        for (Index k = 0; k < H; ++k) at(I + 2 + k) = factors[g] * w_h[unit * H + k];
        if (b_i == nullptr) continue;
        at(0) = factors[g] * (g < Joint ? b_i[unit] + b_h[unit] : b_i[unit]);
        at(I + 1) = factors[g] * (g < Joint ? Real(0) : b_h[unit]);
      }
    }
  }

  /// Of a block: `sum` is what inputs and state give to the joint gates, and the state alone to the
  /// others; `input` what the inputs give to those.
  template <class V>
  LIMEN_INLINE void shares(Index block, const Real* x, const Real* h, V (&input)[sums],
                           V (&sum)[sums]) const noexcept {
    const Real* w = values_.data() + block * rows * row;
    LIMEN_UNROLL for (Index s = 0; s < sums; ++s) input[s] = simd::load<V>(w + s * lanes);
    detail::add_tiny<I, sums>(w + row, x, input);
    w += (I + 1) * row;
    LIMEN_UNROLL for (Index s = 0; s < sums; ++s) {
      sum[s] = s < joint ? input[s] : simd::load<V>(w + s * lanes);
    }
    detail::add_tiny<H, sums>(w + row, h, sum);
  }

 private:
  static constexpr Index row = sums * lanes, rows = 1 + I + 1 + H;

  static constexpr Index place_of(Index r, Index gate, Index j) {
    if (paired) return r * row + gate * (lanes / 2) + j;
    return (j / units * rows + r) * row + gate * units + j % units;
  }

  Tensor<Real, blocks * rows * row> values_;
};

namespace detail {

/// The upper half of the lanes, in the lower.
template <class V>
LIMEN_INLINE V upper_half(const V& v) {
#if defined(LIMEN_SCALAR)
  return v;
#else
  return simd::detail::rotate<V::size / 2>(v);
#endif
}

/// f(v, j, units) for each vector v of a block: units j.., of which there are units().
template <class Gates, Index H, class F>
LIMEN_INLINE void tiny_units(Index block, F&& f) {
  constexpr Index lanes = Gates::lanes, ragged = H % lanes == 0 ? lanes : H % lanes;
  LIMEN_UNROLL for (Index v = 0; v < Gates::per_block; ++v) {
    const Index j = block * Gates::units + v * lanes;
    if (j + lanes <= H) {
      f(v, j, std::integral_constant<Index, lanes>{});
    } else if (j < H) {
      f(v, j, std::integral_constant<Index, ragged>{});
    }
  }
}

}  // namespace detail

template <class Real, Index I, Index H>
using TinyGru = TinyGates<Real, 3, 2, I, H>;

/// One step of a GRU: h [H] moves on, and once more as y [H].
template <bool Keep, Index I, Index H, class Real>
LIMEN_INLINE void tiny_gru(const TinyGru<Real, I, H>& gates, const Real* x, Real* h, Real* y,
                           [[maybe_unused]] Real* reset = nullptr,
                           [[maybe_unused]] Real* update = nullptr) noexcept {
  using Gates = TinyGru<Real, I, H>;
  using V = simd::Vec<Real>;
  constexpr Index n_of = Gates::joint, per = Gates::per_block;
  for (Index block = 0; block < Gates::blocks; ++block) {
    V input[Gates::sums], sum[Gates::sums];
    gates.shares(block, x, h, input, sum);
    detail::tiny_units<Gates, H>(
        block, [&](Index v, Index j, auto units) __attribute__((always_inline)) {
          const V r = math::gate2(sum[v]);
          const V z = Gates::paired ? detail::upper_half(r) : math::gate2(sum[per + v]);
          const V n = detail::squash<true>(simd::fma(r, sum[n_of + v], input[n_of + v]));
          const V now = simd::fma(z, detail::load_first<units(), V>(h + j) - n, n);
          detail::store_first<units()>(y + j, now);
          if constexpr (Keep) {
            detail::store_first<units()>(reset + j, r);
            detail::store_first<units()>(update + j, z);
          }
          if constexpr (Gates::blocks == 1) detail::store_first<units()>(h + j, now);
        });
  }
  if constexpr (Gates::blocks > 1) std::memcpy(h, y, sizeof(Real) * static_cast<std::size_t>(H));
}

template <class Real, Index I, Index H>
using TinyLstm = TinyGates<Real, 4, 4, I, H>;

/// One step of an LSTM: c and h move on, and h once more as y.
template <Index I, Index H, class Real>
LIMEN_INLINE void tiny_lstm(const TinyLstm<Real, I, H>& gates, const Real* x, Real* h, Real* c,
                            Real* y) noexcept {
  using Gates = TinyLstm<Real, I, H>;
  using V = simd::Vec<Real>;
  constexpr Index per = Gates::per_block;
  const V one(Real(1)), two(Real(2)), fold(-2 * math::detail::log2_e<Real>);
  for (Index block = 0; block < Gates::blocks; ++block) {
    V input[Gates::sums], sum[Gates::sums];
    gates.shares(block, x, h, input, sum);
    detail::tiny_units<Gates, H>(
        block, [&](Index v, Index j, auto units) __attribute__((always_inline)) {
          V i, f, g, o;
          if constexpr (Gates::paired) {
            i = math::gate2(sum[0]), f = detail::upper_half(i);
            g = math::gate2(sum[1]), o = detail::upper_half(g);
          } else {
            i = math::gate2(sum[v]), f = math::gate2(sum[per + v]);
            g = math::gate2(sum[2 * per + v]), o = math::gate2(sum[3 * per + v]);
          }
          const V now = simd::fma(f, detail::load_first<units(), V>(c + j), i * (two * g - one));
          const V shown = o * (two * math::gate2(now * fold) - one);
          detail::store_first<units()>(c + j, now);
          detail::store_first<units()>(y + j, shown);
          if constexpr (Gates::blocks == 1) detail::store_first<units()>(h + j, shown);
        });
  }
  if constexpr (Gates::blocks > 1) std::memcpy(h, y, sizeof(Real) * static_cast<std::size_t>(H));
}

}  // namespace limen::inline LIMEN_ABI
