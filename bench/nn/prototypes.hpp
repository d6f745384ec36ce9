#pragma once
// What a step can cost: the same small models by hand, for AVX-512 alone. One sample in, one out,
// in -> H units -> out; sizes fixed, weights random, every instruction chosen for latency.
//
//   - all gates of a unit in one row for each input, -log2 e (-2 log2 e under a tanh) in the
//   weights:
//     a gate is 1 / (1 + 2^v)
//   - the state is stored once and broadcast from memory; several chains of additions
//   - 2^v by a polynomial of degree 5 in Estrin's form

#if defined(__AVX512F__) && defined(__AVX512DQ__)

#include <immintrin.h>

#include <cmath>
#include <limen/core/config.hpp>
#include <limen/core/random.hpp>

namespace prototypes {

inline __m512 zero() { return _mm512_setzero_ps(); }
inline __m512 all(float x) { return _mm512_set1_ps(x); }

inline __m512 exp2(__m512 v) {
  v = _mm512_min_ps(v, all(126.f));
  const __m512 r = _mm512_reduce_ps(v, 0x09), r2 = _mm512_mul_ps(r, r);
  const __m512 a = _mm512_fmadd_ps(all(0.6931530833f), r, all(0.9999999404f));
  const __m512 b = _mm512_fmadd_ps(all(0.0558263175f), r, all(0.2401536107f));
  const __m512 c = _mm512_fmadd_ps(all(0.0018775767f), r, all(0.0089893397f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(c, r2, b), r2, a), v);
}
inline __m512 reciprocal(__m512 x) {
  const __m512 y = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(y, _mm512_fnmadd_ps(x, y, all(2.f)));
}
inline __m512 gate(__m512 v) { return reciprocal(_mm512_add_ps(all(1.f), exp2(v))); }
inline __m512 tanh(__m512 v) { return _mm512_fmsub_ps(all(2.f), gate(v), all(1.f)); }

constexpr float log2_e = 1.44269504f;

inline float sum8(__m512 v) {
  const __m256 x = _mm512_castps512_ps256(v);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
/// Not _mm512_reduce_add_ps, whose header makes g++ 12 warn.
inline float sum16(__m512 v) {
  const __m256 high = _mm512_extractf32x8_ps(v, 1);
  return sum8(_mm512_castps256_ps512(_mm256_add_ps(_mm512_castps512_ps256(v), high)));
}

/// Numbers of the size that weights have.
struct Weights {
  limen::Random random{1};
  template <std::size_t N>
  void fill(float (&to)[N], double scale) {
    for (float& v : to) v = static_cast<float>(random.uniform(-scale, scale));
  }
};

template <int H>
inline constexpr int padded = H < 16 ? 16 : H;

/// h = (1 - z) c + z h; z, r = gates; c = tanh(W x + b0 + r (U h + b1))
template <int H>
struct Gru {
  static constexpr int vectors = padded<H> / 16;
  static constexpr int G = H == 8 ? 2 : 3 * vectors;  // of a row; with 8 units z and r share one
  static constexpr int chains = H == 32 ? 2 : 4;
  alignas(64) float U[H][G * 16], W[G * 16], b0[G * 16], b1[G * 16], h[padded<H>], d[padded<H>];

  Gru() {
    Weights w;
    for (auto& row : U) w.fill(row, 0.7 / std::sqrt(double{H}));
    w.fill(W, 0.7), w.fill(b0, 0.1), w.fill(b1, 0.1), w.fill(d, 0.5);
    for (float& v : h) v = 0;
    for (int j = H; j < padded<H>; ++j) d[j] = 0;
  }

  float step(float input) {
    __m512 a[chains][G], x = all(input);
    LIMEN_UNROLL for (int g = 0; g < G; ++g) {
      const __m512 from_x =
          _mm512_fmadd_ps(x, _mm512_load_ps(W + 16 * g), _mm512_load_ps(b0 + 16 * g));
      const bool candidate = H == 8 ? g == 1 : g >= 2 * vectors;
      a[0][g] = candidate ? _mm512_load_ps(b1 + 16 * g) : from_x;
      LIMEN_UNROLL for (int c = 1; c < chains; ++c) a[c][g] = zero();
    }
    LIMEN_UNROLL for (int k = 0; k < H; ++k) {
      const __m512 h_k = all(h[k]);
      LIMEN_UNROLL for (int g = 0; g < G; ++g) {
        a[k % chains][g] = _mm512_fmadd_ps(h_k, _mm512_load_ps(&U[k][16 * g]), a[k % chains][g]);
      }
    }
    LIMEN_UNROLL for (int g = 0; g < G; ++g) {
      a[0][g] = _mm512_add_ps(a[0][g], a[1][g]);
      if constexpr (chains == 4) a[0][g] = _mm512_add_ps(a[0][g], _mm512_add_ps(a[2][g], a[3][g]));
    }
    if constexpr (H == 8) {
      const __m512 z = gate(a[0][0]), r = _mm512_shuffle_f32x4(z, z, 0xE);
      const __m512 from_x = _mm512_fmadd_ps(x, _mm512_load_ps(W + 16), _mm512_load_ps(b0 + 16));
      const __m512 c = tanh(_mm512_fmadd_ps(r, a[0][1], from_x));
      const __m512 now =
          _mm512_maskz_mov_ps(0xff, _mm512_fmadd_ps(z, _mm512_sub_ps(_mm512_load_ps(h), c), c));
      _mm512_store_ps(h, now);
      return 0.1f + sum8(_mm512_mul_ps(now, _mm512_load_ps(d)));
    } else {
      __m512 y = zero();
      LIMEN_UNROLL for (int v = 0; v < vectors; ++v) {
        const int g = 2 * vectors + v;
        const __m512 z = gate(a[0][v]), r = gate(a[0][vectors + v]);
        const __m512 from_x =
            _mm512_fmadd_ps(x, _mm512_load_ps(W + 16 * g), _mm512_load_ps(b0 + 16 * g));
        const __m512 c = tanh(_mm512_fmadd_ps(r, a[0][g], from_x));
        const __m512 now = _mm512_fmadd_ps(z, _mm512_sub_ps(_mm512_load_ps(h + 16 * v), c), c);
        _mm512_store_ps(h + 16 * v, now);
        y = _mm512_fmadd_ps(now, _mm512_load_ps(d + 16 * v), y);
      }
      return 0.1f + sum16(y);
    }
  }
};

/// c = f c + i g, h = o tanh(c)
template <int H>
struct Lstm {
  static constexpr int vectors = padded<H> / 16;
  static constexpr int G = H == 8 ? 2 : 4 * vectors;
  static constexpr int chains = H == 32 ? 2 : 4;
  alignas(64) float U[H][G * 16], W[G * 16], b[G * 16], h[padded<H>], c[padded<H>], d[padded<H>];

  Lstm() {
    Weights w;
    for (auto& row : U) w.fill(row, 0.7 / std::sqrt(double{H}));
    w.fill(W, 0.7), w.fill(b, 0.1), w.fill(d, 0.5);
    for (float& v : h) v = 0;
    for (float& v : c) v = 0;
    for (int j = H; j < padded<H>; ++j) d[j] = 0;
  }

  float step(float input) {
    __m512 a[chains][G], x = all(input);
    LIMEN_UNROLL for (int g = 0; g < G; ++g) {
      a[0][g] = _mm512_fmadd_ps(x, _mm512_load_ps(W + 16 * g), _mm512_load_ps(b + 16 * g));
      LIMEN_UNROLL for (int q = 1; q < chains; ++q) a[q][g] = zero();
    }
    LIMEN_UNROLL for (int k = 0; k < H; ++k) {
      const __m512 h_k = all(h[k]);
      LIMEN_UNROLL for (int g = 0; g < G; ++g) {
        a[k % chains][g] = _mm512_fmadd_ps(h_k, _mm512_load_ps(&U[k][16 * g]), a[k % chains][g]);
      }
    }
    LIMEN_UNROLL for (int g = 0; g < G; ++g) {
      a[0][g] = _mm512_add_ps(a[0][g], a[1][g]);
      if constexpr (chains == 4) a[0][g] = _mm512_add_ps(a[0][g], _mm512_add_ps(a[2][g], a[3][g]));
    }
    const __m512 fold = all(-2 * log2_e);
    if constexpr (H == 8) {
      const __m512 i = gate(a[0][0]), go = gate(a[0][1]);
      const __m512 f = _mm512_shuffle_f32x4(i, i, 0xE), o = _mm512_shuffle_f32x4(go, go, 0xE);
      const __m512 g = _mm512_fmsub_ps(all(2.f), go, all(1.f));
      const __m512 cell = _mm512_fmadd_ps(f, _mm512_load_ps(c), _mm512_mul_ps(i, g));
      const __m512 now = _mm512_maskz_mul_ps(0xff, o, tanh(_mm512_mul_ps(cell, fold)));
      _mm512_store_ps(c, cell);
      _mm512_store_ps(h, now);
      return 0.1f + sum8(_mm512_mul_ps(now, _mm512_load_ps(d)));
    } else {
      __m512 y = zero();
      LIMEN_UNROLL for (int v = 0; v < vectors; ++v) {
        const __m512 i = gate(a[0][v]), f = gate(a[0][vectors + v]);
        const __m512 g = tanh(a[0][2 * vectors + v]), o = gate(a[0][3 * vectors + v]);
        const __m512 cell = _mm512_fmadd_ps(f, _mm512_load_ps(c + 16 * v), _mm512_mul_ps(i, g));
        const __m512 now = _mm512_mul_ps(o, tanh(_mm512_mul_ps(cell, fold)));
        _mm512_store_ps(c + 16 * v, cell);
        _mm512_store_ps(h + 16 * v, now);
        y = _mm512_fmadd_ps(now, _mm512_load_ps(d + 16 * v), y);
      }
      return 0.1f + sum16(y);
    }
  }
};

/// 1 -> H, tanh, -> H, tanh, -> 1
template <int H>
struct Mlp {
  static constexpr int vectors = padded<H> / 16, chains = 4;
  alignas(64) float W[padded<H>], b[padded<H>], U[H][padded<H>], c[padded<H>], d[padded<H>],
      t[padded<H>];

  Mlp() {
    Weights w;
    for (auto& row : U) w.fill(row, 0.7 / std::sqrt(double{H}));
    w.fill(W, 0.7), w.fill(b, 0.1), w.fill(c, 0.1), w.fill(d, 0.5);
    for (int j = H; j < padded<H>; ++j) d[j] = 0;
  }

  float step(float input) {
    const __m512 x = all(input);
    LIMEN_UNROLL for (int v = 0; v < vectors; ++v) {
      _mm512_store_ps(t + 16 * v, tanh(_mm512_fmadd_ps(x, _mm512_load_ps(W + 16 * v),
                                                       _mm512_load_ps(b + 16 * v))));
    }
    __m512 a[chains][vectors];
    LIMEN_UNROLL for (int v = 0; v < vectors; ++v) {
      a[0][v] = _mm512_load_ps(c + 16 * v);
      LIMEN_UNROLL for (int q = 1; q < chains; ++q) a[q][v] = zero();
    }
    LIMEN_UNROLL for (int k = 0; k < H; ++k) {
      const __m512 t_k = all(t[k]);
      LIMEN_UNROLL for (int v = 0; v < vectors; ++v) {
        a[k % chains][v] = _mm512_fmadd_ps(t_k, _mm512_load_ps(&U[k][16 * v]), a[k % chains][v]);
      }
    }
    __m512 y = zero();
    LIMEN_UNROLL for (int v = 0; v < vectors; ++v) {
      const __m512 s =
          _mm512_add_ps(_mm512_add_ps(a[0][v], a[1][v]), _mm512_add_ps(a[2][v], a[3][v]));
      y = _mm512_fmadd_ps(tanh(s), _mm512_load_ps(d + 16 * v), y);
    }
    return 0.1f + sum16(y);
  }
};

}  // namespace prototypes

#endif
