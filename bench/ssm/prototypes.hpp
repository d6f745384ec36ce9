#pragma once
// The first sketches of the selective scan, in intrinsics (AVX-512) and in plain xsimd, kept as a
// bar: the kernel must not fall behind what was written for one machine and one size.
// N = 16, channels a multiple of the lanes, rows back to back; a and h are [E / lanes][16][lanes].

#include <xsimd/xsimd.hpp>

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#endif

namespace prototype {

inline constexpr int states = 16;
inline constexpr int chunk = 16;

struct Scan {
  const float *a, *d, *x, *delta, *z, *b, *c;
  float *h, *y;
};

#if defined(__AVX512F__) && defined(__AVX512DQ__)

inline constexpr int lanes = 16;

/// 2^v: the fraction by vreduce, a polynomial on [0, 1), the exponent by vscalef.
inline __m512 exp2(__m512 v) {
  const __m512 r = _mm512_reduce_ps(v, 0x09);
  __m512 p = _mm512_set1_ps(0.0018775767f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0089893397f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0558263175f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2401536107f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6931530833f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.9999999404f));
  return _mm512_scalef_ps(p, v);
}
/// 1 / v by the estimate and one Newton step.
inline __m512 reciprocal(__m512 v) {
  const __m512 y = _mm512_rcp14_ps(v);
  return _mm512_mul_ps(y, _mm512_fnmadd_ps(v, y, _mm512_set1_ps(2)));
}
inline __m512 silu(__m512 v) {
  const __m512 u = exp2(_mm512_mul_ps(v, _mm512_set1_ps(-1.44269504f)));
  return _mm512_mul_ps(v, reciprocal(_mm512_add_ps(_mm512_set1_ps(1), u)));
}
/// max(v, 0) + log(1 + u), u = e^-|v|, the logarithm as 2 atanh(u / (2 + u)).
inline __m512 softplus(__m512 v) {
  const __m512 u = exp2(_mm512_mul_ps(_mm512_abs_ps(v), _mm512_set1_ps(-1.44269504f)));
  const __m512 s = _mm512_mul_ps(u, reciprocal(_mm512_add_ps(u, _mm512_set1_ps(2))));
  const __m512 q = _mm512_mul_ps(s, s);
  __m512 p = _mm512_set1_ps(0.2222222f);
  p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(0.2857143f));
  p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(0.4f));
  p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(0.6666667f));
  p = _mm512_fmadd_ps(p, q, _mm512_set1_ps(2));
  return _mm512_fmadd_ps(p, s, _mm512_max_ps(v, _mm512_setzero_ps()));
}

template <bool Powers>
void rows(const Scan& s, int t0, int t1, int E) {
  for (int e = 0; e < E; e += lanes) {
    const float* const a = s.a + (Powers ? e : e * states);
    float* const h = s.h + e * states;
    const __m512 d = _mm512_loadu_ps(s.d + e);
    __m512 state[states];
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) state[n] = _mm512_loadu_ps(h + n * lanes);
    for (int t = t0; t < t1; ++t) {
      const std::ptrdiff_t at = std::ptrdiff_t{t} * E + e;
      const __m512 x = _mm512_loadu_ps(s.x + at);
      const __m512 delta = softplus(_mm512_loadu_ps(s.delta + at));
      const __m512 dx = _mm512_mul_ps(x, delta);
      __m512 y0 = _mm512_mul_ps(d, x), y1 = _mm512_setzero_ps(), w0, w1, square;
      if constexpr (Powers) {
        w0 = exp2(_mm512_mul_ps(delta, _mm512_loadu_ps(a)));
        w1 = square = _mm512_mul_ps(w0, w0);
      }
#pragma GCC unroll 16
      for (int n = 0; n < states; ++n) {
        __m512 w;
        if constexpr (Powers) {
          w = n % 2 == 0 ? w0 : w1;
          (n % 2 == 0 ? w0 : w1) = _mm512_mul_ps(w, square);
        } else {
          w = exp2(_mm512_mul_ps(delta, _mm512_loadu_ps(a + n * lanes)));
        }
        const __m512 in = _mm512_mul_ps(dx, _mm512_set1_ps(s.b[t * states + n]));
        state[n] = _mm512_fmadd_ps(w, state[n], in);
        __m512& y = n % 2 == 0 ? y0 : y1;
        y = _mm512_fmadd_ps(state[n], _mm512_set1_ps(s.c[t * states + n]), y);
      }
      const __m512 z = silu(_mm512_loadu_ps(s.z + at));
      _mm512_storeu_ps(s.y + at, _mm512_mul_ps(_mm512_add_ps(y0, y1), z));
    }
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) _mm512_storeu_ps(h + n * lanes, state[n]);
  }
}

#else

using V = xsimd::batch<float>;
inline constexpr int lanes = static_cast<int>(V::size);
#if XSIMD_VERSION_MAJOR < 9
using AsFloat = V;
using AsInt = xsimd::batch<std::int32_t>;
#else
using AsFloat = float;
using AsInt = std::int32_t;
#endif

/// 2^v for v in [-126, 126]: rounded by adding 1.5 2^23, whose low bits then are the exponent.
inline V exp2(V v) {
  v = xsimd::max(v, V(-126.f));
  const V magic(12582912.f), t = v + magic, r = v - (t - magic);
  V p = xsimd::fma(V(1.3276472e-3f), r, V(9.6755410e-3f));
  p = xsimd::fma(p, r, V(5.5507131e-2f));
  p = xsimd::fma(p, r, V(2.4022120e-1f));
  p = xsimd::fma(p, r, V(6.9314694e-1f));
  p = xsimd::fma(p, r, V(1.00000012f));
  return xsimd::bitwise_cast<AsFloat>(xsimd::bitwise_cast<AsInt>(p) +
                                      (xsimd::bitwise_cast<AsInt>(t) << 23));
}
inline V silu(V v) { return v / (V(1.f) + exp2(v * V(-1.44269504f))); }
inline V softplus(V v) {
  const V u = exp2(xsimd::abs(v) * V(-1.44269504f)), s = u / (u + V(2.f)), q = s * s;
  V p = xsimd::fma(V(0.2222222f), q, V(0.2857143f));
  p = xsimd::fma(p, q, V(0.4f));
  p = xsimd::fma(p, q, V(0.6666667f));
  p = xsimd::fma(p, q, V(2.f));
  return xsimd::fma(p, s, xsimd::max(v, V(0.f)));
}

template <bool Powers>
void rows(const Scan& s, int t0, int t1, int E) {
  for (int e = 0; e < E; e += lanes) {
    const float* const a = s.a + (Powers ? e : e * states);
    float* const h = s.h + e * states;
    const V d = V::load_unaligned(s.d + e);
    V state[states];
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) state[n] = V::load_unaligned(h + n * lanes);
    for (int t = t0; t < t1; ++t) {
      const std::ptrdiff_t at = std::ptrdiff_t{t} * E + e;
      const V x = V::load_unaligned(s.x + at), delta = softplus(V::load_unaligned(s.delta + at));
      const V dx = x * delta;
      V y[2] = {d * x, V(0.f)}, w[2], square;
      if constexpr (Powers) {
        w[0] = exp2(delta * V::load_unaligned(a));
        w[1] = square = w[0] * w[0];
      }
#pragma GCC unroll 16
      for (int n = 0; n < states; ++n) {
        V decay;
        if constexpr (Powers) {
          decay = w[n % 2];
          w[n % 2] = decay * square;
        } else {
          decay = exp2(delta * V::load_unaligned(a + n * lanes));
        }
        state[n] = xsimd::fma(decay, state[n], dx * V(s.b[t * states + n]));
        y[n % 2] = xsimd::fma(state[n], V(s.c[t * states + n]), y[n % 2]);
      }
      ((y[0] + y[1]) * silu(V::load_unaligned(s.z + at))).store_unaligned(s.y + at);
    }
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) state[n].store_unaligned(h + n * lanes);
  }
}

#endif

/// Rows 0..T in chunks.
template <bool Powers>
void scan(const Scan& s, int T, int E) {
  for (int t = 0; t < T; t += chunk) rows<Powers>(s, t, t + chunk < T ? t + chunk : T, E);
}

}  // namespace prototype
