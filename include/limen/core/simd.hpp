#pragma once
/// @file  Vectors of numbers, and the one place where compilers, instruction sets and versions of
/// xsimd differ.
///
///   simd::Vec<Real>        as many lanes as the machine has   batch<float, avx512> is 16 floats
///   simd::Sized<Real, N>   exactly N lanes                    for rows shorter than a full vector
///
/// Kernels are written once with the functions of simd/, called by their full name (simd::fma:
/// xsimd has namesakes that the compiler would find by itself), and `+ - * /`, `<`, `==`. Where the
/// machine has no vectors (or LIMEN_SCALAR is defined), Vec is one number and the same source still
/// runs.

#include <limen/core/simd/batch.hpp>
#include <limen/core/simd/instructions.hpp>
#include <limen/core/simd/scalar.hpp>
#include <limen/core/simd/shuffle.hpp>

namespace limen::inline LIMEN_ABI::simd {

/// Lanes of the widest vector, as a signed number.
template <class Real>
inline constexpr Index lanes = static_cast<Index>(Vec<Real>::size);

/// v, in a register: g++ would rather load it again at each use where that saves an instruction,
/// and an inner loop is then bound by loads.
template <class V>
LIMEN_INLINE V in_register(const V& v) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(LIMEN_SCALAR)
  using N = detail::Native<typename V::value_type, V::size>;
  if constexpr (std::is_convertible_v<V, N>) {
    N n = static_cast<N>(v);
    __asm__("" : "+v"(n));
    return V(n);
  }
#endif
  return v;
}

/// Asks for the cache line of p; free where it is already there.
LIMEN_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#else
  static_cast<void>(p);
#endif
}
/// The same for the cache lines of n numbers.
template <class T>
LIMEN_INLINE void prefetch(const T* p, Index n) {
  constexpr Index line = 64 / static_cast<Index>(sizeof(T));
  for (Index i = 0; i < n; i += line) prefetch(p + i);
}

/// f(i, load, store) over 0 <= i < count in steps of one vector; the last, ragged step is handed
/// its length, so that `load` and `store` touch only what is there:
///
///     simd::for_each<float>(n, [&](Index i, auto load, auto store) {
///       store(y + i, load(x + i) * a);
///     });
template <class Real, class F>
LIMEN_INLINE void for_each(Index count, F&& f) {
  using V = Vec<Real>;
  Index i = 0;
  for (; i + lanes<Real> <= count; i += lanes<Real>) {
    f(
        i, [](const Real* p) { return simd::load<V>(p); },
        [](Real* p, const V& v) { simd::store(p, v); });
  }
  if (i < count) {
    const Index n = count - i;
    f(
        i, [n](const Real* p) { return simd::load<V>(p, n); },
        [n](Real* p, const V& v) { simd::store(p, v, n); });
  }
}

/// f(v) -> v over an array: out[i] = f(in[i]). `in` may be `out`.
template <class Real, class F>
LIMEN_INLINE void transform(const Real* in, Real* out, Index count, F&& f) {
  // One call of f, for the ragged end too: g++ does not inline a large f that is called twice.
  for (Index i = 0; i < count; i += lanes<Real>) {
    const Index n = count - i;
    simd::store(out + i, f(simd::load<Vec<Real>>(in + i, n)), n);
  }
}

}  // namespace limen::inline LIMEN_ABI::simd
