#pragma once
/// @file  Products of one short row with sizes known at compile time, for steps of small models.
///
/// A step of a model with 8 or 32 units takes about 50 ns, and most of that is waiting: for the
/// sums, then for the gates made of them. So all gates of a unit stand side by side in one row for
/// each input, every sum has a register, several chains of additions run at once, and the loops are
/// unrolled.

#include <cstring>
#include <type_traits>
#include <utility>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>
#include <limen/core/tensor.hpp>

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

#if !defined(LIMEN_SCALAR)
/// Lanes First.. of v to p + First, in the parts that N is made of: Part, Part / 2, ..., 1.
template <Index N, Index First, Index Part, class Real, class Native>
LIMEN_INLINE void store_parts(Real* p, const Native& v) noexcept {
  if constexpr ((N & Part) != 0) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      if constexpr (Part == 1) {
        p[First] = v[First];
      } else {
        const auto part = __builtin_shufflevector(v, v, (int{First} + I)...);
        std::memcpy(p + First, &part, sizeof part);
      }
    }(std::make_integer_sequence<int, static_cast<int>(Part)>{});
    if constexpr (Part > 1) store_parts<N, First + Part, Part / 2>(p, v);
  } else if constexpr (Part > 1) {
    store_parts<N, First, Part / 2>(p, v);
  }
}
#endif

/// The first N lanes to memory in halves, quarters, ...: what a masked store wrote is not forwarded
/// to the loads of the next step, which then wait until it has reached the cache.
template <Index N, class V, class Real>
LIMEN_INLINE void store_first(Real* p, const V& v) noexcept {
  constexpr Index lanes = simd::lanes<Real>;
  if constexpr (N >= lanes) {
    simd::store(p, v);
  } else {
#if defined(LIMEN_SCALAR)
    static_cast<void>(p), static_cast<void>(v);
#else
    constexpr std::size_t n = V::size;
    if constexpr (std::is_convertible_v<V, simd::detail::Native<Real, n>>) {
      store_parts<N, 0, lanes / 2>(p, static_cast<simd::detail::Native<Real, n>>(v));
    } else {
      simd::store(p, v, N);
    }
#endif
  }
}
template <Index N, class V, class Real>
LIMEN_INLINE V load_first(const Real* p) noexcept {
  constexpr Index lanes = simd::lanes<Real>;
  if constexpr (N >= lanes) {
    return simd::load<V>(p);
  } else {
#if !defined(LIMEN_SCALAR)
    constexpr std::size_t n = V::size;
    if constexpr (2 * N == lanes && std::is_convertible_v<V, simd::detail::Native<Real, n>>) {
      simd::detail::Native<Real, n / 2> half;
      std::memcpy(&half, p, sizeof half);
      return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        return V(__builtin_shufflevector(half, decltype(half){}, I...));
      }(std::make_integer_sequence<int, static_cast<int>(n)>{});
    }
#endif
    return simd::load<V>(p, N);
  }
}

}  // namespace detail

/// out[i] = f(in[i]) for i < N.  `in` may be `out`.
template <Index N, class Real, class F>
LIMEN_INLINE void tiny_transform(const Real* in, Real* out, F&& f) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>, rest = N % lanes;
  LIMEN_UNROLL for (Index i = 0; i + lanes <= N; i += lanes) {
    simd::store(out + i, f(simd::load<V>(in + i)));
  }
  if constexpr (rest > 0) {
    detail::store_first<rest>(out + N - rest, f(detail::load_first<rest, V>(in + N - rest)));
  }
}

/// A small weight [O x I] for single rows: y = x wᵀ + b. Few outputs are sums along the inputs;
/// more stand side by side.
template <class Real, Index O, Index I>
class TinyWeight {
 public:
  void place(const Real* w) noexcept {
    for (Index o = 0; o < O; ++o) {
      for (Index i = 0; i < I; ++i) values_[along ? o * row + i : i * row + o] = w[o * I + i];
    }
  }

  /// b [O] or null. y may not be x.
  LIMEN_INLINE void product(const Real* x, const Real* b, Real* y) const noexcept {
    using V = simd::Vec<Real>;
    const Real* w = values_.data();
    if constexpr (along) {
      LIMEN_UNROLL for (Index o = 0; o < O; ++o, w += row) {
        V sum = simd::load<V>(x, I) * simd::load<V>(w);
        LIMEN_UNROLL for (Index i = lanes; i < I; i += lanes) {
          sum = simd::fma(simd::load<V>(x + i, I - i), simd::load<V>(w + i), sum);
        }
        y[o] = simd::reduce_add(sum) + (b != nullptr ? b[o] : Real(0));
      }
    } else {
      V sum[vectors];
      LIMEN_UNROLL for (Index v = 0; v < vectors; ++v) {
        sum[v] = b != nullptr ? simd::load<V>(b + v * lanes, O - v * lanes) : V(Real(0));
      }
      detail::add_tiny<I, vectors>(w, x, sum);
      LIMEN_UNROLL for (Index v = 0; v + 1 < vectors; ++v) simd::store(y + v * lanes, sum[v]);
      detail::store_first<O - (vectors - 1) * lanes>(y + (vectors - 1) * lanes, sum[vectors - 1]);
    }
  }

 private:
  static constexpr Index lanes = simd::lanes<Real>, vectors = (O + lanes - 1) / lanes;
  static constexpr bool along = O < 4 && I > 4;
  static constexpr Index row = along ? (I + lanes - 1) / lanes * lanes : vectors * lanes;

  Tensor<Real, along ? O : I, row> values_;
};

}  // namespace limen::inline LIMEN_ABI
