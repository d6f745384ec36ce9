#pragma once
/// @file  Products of one short row with sizes known at compile time, for steps of small models.
///
/// A step of a model with 8 or 32 units takes about 50 ns, and most of that is waiting: for the
/// sums, then for the gates made of them. So all gates of a unit stand side by side in one row for
/// each input, every sum has a register, several chains of additions run at once, and the loops are
/// unrolled.

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// Widths up to here are worth code of their own.
inline constexpr Index tiny_width = 64;

namespace detail {

/// Sums that fit into the registers beside a weight and an input: 32 registers, or 16.
template <class Real>
inline constexpr Index tiny_sums = sizeof(simd::Vec<Real>) == 64 ? 16 : 12;

/// Chains of additions for so many sums, each `length` long.
template <class Real>
constexpr Index tiny_chains(Index sums, Index length) {
  for (Index chains = 4; chains > 1; chains /= 2) {
    if (chains * sums <= tiny_sums<Real> && length >= 2 * chains) return chains;
  }
  return 1;
}

/// sum += Σ_k x_k w_k,  w [N][Sums vectors]
template <Index N, Index Sums, class V, class Real>
LIMEN_INLINE void add_tiny(const Real* w, const Real* x, V (&sum)[Sums]) noexcept {
  constexpr Index lanes = simd::lanes<Real>, chains = tiny_chains<Real>(Sums, N);
  constexpr Index at_once = N * Sums <= 128 ? N : 8;  // more would not fit the decoded instructions
  V part[chains][Sums];
  LIMEN_UNROLL for (Index s = 0; s < Sums; ++s) {
    part[0][s] = sum[s];
    LIMEN_UNROLL for (Index c = 1; c < chains; ++c) part[c][s] = V(Real(0));
  }
  Index k = 0;
  for (; k + at_once <= N; k += at_once) {
    LIMEN_UNROLL for (Index i = 0; i < at_once; ++i) {
      const V x_k(x[k + i]);
      LIMEN_UNROLL for (Index s = 0; s < Sums; ++s) {
        part[i % chains][s] =
            simd::fma(x_k, simd::load<V>(w + ((k + i) * Sums + s) * lanes), part[i % chains][s]);
      }
    }
  }
  if constexpr (N % at_once != 0) {
    LIMEN_UNROLL for (Index i = 0; i < N % at_once; ++i) {
      const V x_k(x[k + i]);
      LIMEN_UNROLL for (Index s = 0; s < Sums; ++s) {
        part[i % chains][s] =
            simd::fma(x_k, simd::load<V>(w + ((k + i) * Sums + s) * lanes), part[i % chains][s]);
      }
    }
  }
  LIMEN_UNROLL for (Index s = 0; s < Sums; ++s) {
    if constexpr (chains == 4) {
      sum[s] = (part[0][s] + part[1][s]) + (part[2][s] + part[3][s]);
    } else if constexpr (chains == 2) {
      sum[s] = part[0][s] + part[1][s];
    } else {
      sum[s] = part[0][s];
    }
  }
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
