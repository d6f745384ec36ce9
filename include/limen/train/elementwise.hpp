#pragma once
/// @file  Loops over all numbers of a parameter, for optimizers and what stands around them.

#include <cmath>

#include <limen/core/config.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/parameters.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// f(first, count) over pieces of n numbers, on the threads allowed. Where it is cut does not
/// depend on their number.
template <class F>
void for_each_piece(Index n, F&& f) {
  constexpr Index piece = 16384;  // four arrays of it fit in a core's L2
  constexpr double ns = 0.1;      // AdamW, per number
  if (n <= piece) return f(Index{0}, n);
  parallel_for((n + piece - 1) / piece, ns * static_cast<double>(n),
               [&](Index i) { f(i * piece, n - i * piece < piece ? n - i * piece : piece); });
}

/// sum += a part
template <class Real>
void add_scaled(Real* sum, double a, const Real* part, Index n) {
  using V = simd::Vec<Real>;
  const V scale(static_cast<Real>(a));
  for_each_piece(n, [&](Index first, Index count) {
    simd::for_each<Real>(count,
                         [&, s = sum + first, p = part + first](Index i, auto load, auto store) {
                           store(s + i, simd::fma(scale, load(p + i), load(s + i)));
                         });
  });
}

/// x += a (to - x), which leaves x alone where it has arrived.
template <class Real>
void move_towards(Real* x, const Real* to, double a, Index n) {
  using V = simd::Vec<Real>;
  const V share(static_cast<Real>(a));
  for_each_piece(n, [&](Index first, Index count) {
    simd::for_each<Real>(count, [&, p = x + first, q = to + first](Index i, auto load, auto store) {
      const V now = load(p + i);
      store(p + i, simd::fma(share, load(q + i) - now, now));
    });
  });
}

/// x *= a
template <class Real>
void scale(Real* x, double a, Index n) {
  const simd::Vec<Real> by(static_cast<Real>(a));
  for_each_piece(n, [&](Index first, Index count) {
    simd::transform(x + first, x + first, count, [&](auto v) { return v * by; });
  });
}

/// Σ x². In float pieces, added in double.
template <class Real>
double squared_norm(const Real* x, Index n) {
  using V = simd::Vec<Real>;
  double total = 0;
  for (Index first = 0; first < n; first += 1024) {
    V sum(Real(0));
    simd::for_each<Real>(n - first < 1024 ? n - first : 1024, [&](Index i, auto load, auto) {
      const V v = load(x + first + i);
      sum = simd::fma(v, v, sum);
    });
    total += static_cast<double>(simd::reduce_add(sum));
  }
  return total;
}

/// f(tensors...) for each that is learned, with its number in the order of `visit`.
template <class F, class... M>
void for_each_learned(F&& f, M&... models) {
  std::size_t number = 0;
  for_each_tensor(
      [&](auto& first, auto&... rest) {
        if constexpr (!is_statistic<std::remove_cvref_t<decltype(first)>>) {
          f(number, first, rest...);
        }
        ++number;
      },
      models...);
}

}  // namespace limen::inline LIMEN_ABI::detail
