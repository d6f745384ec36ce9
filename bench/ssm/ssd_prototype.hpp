#pragma once
/// @file  The chunked Mamba-2 scan in raw AVX-512 that kernel/ssd.hpp was measured against from the
/// start: heads of 64 channels, sizes fixed when it is compiled, inputs already scaled and packed.
///
///   S_t = a_t S_{t-1} + k_t v_tᵀ,  y_t = S_tᵀ q_t        S [H][N][64], lanes over the 64 channels

#if defined(__AVX512F__) && defined(__AVX512DQ__)

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace ssd_prototype {

inline constexpr int P = 64, vectors = P / 16, tall = 6;

/// 2^v
inline __m512 exp2(__m512 v) {
  const __m512 r = _mm512_reduce_ps(v, 0x09);
  __m512 p = _mm512_set1_ps(0.0018775767f);
  for (const float c :
       {0.0089893397f, 0.0558263175f, 0.2401536107f, 0.6931530833f, 0.9999999404f}) {
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  }
  return _mm512_scalef_ps(p, v);
}

/// y [Rows x 64] = s y + a b, or without s: a b.
template <int Rows>
inline void tile(const float* a, std::size_t a_row, std::size_t a_col, const float* b,
                 std::size_t b_row, int depth, float* y, std::size_t y_row, const float* s) {
  __m512 sum[Rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sum[i][v] = s != nullptr
                      ? _mm512_mul_ps(_mm512_set1_ps(s[i]), _mm512_loadu_ps(y + i * y_row + 16 * v))
                      : _mm512_setzero_ps();
    }
  }
  for (int k = 0; k < depth; ++k) {
    __m512 right[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) right[v] = _mm512_loadu_ps(b + k * b_row + 16 * v);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const __m512 left = _mm512_set1_ps(a[i * a_row + k * a_col]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[i][v] = _mm512_fmadd_ps(left, right[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(y + i * y_row + 16 * v, sum[i][v]);
  }
}

inline void tile_of(int rows, const float* a, std::size_t a_row, std::size_t a_col, const float* b,
                    std::size_t b_row, int depth, float* y, std::size_t y_row, const float* s) {
  switch (rows) {
    case 1:
      return tile<1>(a, a_row, a_col, b, b_row, depth, y, y_row, s);
    case 2:
      return tile<2>(a, a_row, a_col, b, b_row, depth, y, y_row, s);
    case 3:
      return tile<3>(a, a_row, a_col, b, b_row, depth, y, y_row, s);
    case 4:
      return tile<4>(a, a_row, a_col, b, b_row, depth, y, y_row, s);
    case 5:
      return tile<5>(a, a_row, a_col, b, b_row, depth, y, y_row, s);
    default:
      return tile<6>(a, a_row, a_col, b, b_row, depth, y, y_row, s);
  }
}

/// log_a [T][H], x [T][H][64] already multiplied with the step size, k and q [T][N] for all heads.
/// T and Q are multiples of 16; `work` holds 2 Q Q + Q N + 64 Q + 2 Q floats and a few.
inline void chunked(int T, int Q, int H, int N, const float* x, const float* log_a, const float* k,
                    const float* q, float* state, float* y, float* work) {
  float *scores = work, *masked = scores + Q * Q, *kt = masked + Q * Q + 16 * Q, *xw = kt + Q * N,
        *sum = xw + Q * P, *decay = sum + Q + 16;
  const std::size_t row = static_cast<std::size_t>(H) * P;
  for (int t0 = 0; t0 < T; t0 += Q) {
    const int n = std::min(Q, T - t0);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < N; ++j) kt[j * Q + i] = k[(t0 + i) * N + j];
    }
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j <= i; j += 16) {
        __m512 s = _mm512_setzero_ps();
        for (int m = 0; m < N; ++m) {
          s = _mm512_fmadd_ps(_mm512_set1_ps(q[(t0 + i) * N + m]), _mm512_loadu_ps(kt + m * Q + j),
                              s);
        }
        _mm512_storeu_ps(scores + i * Q + j, s);
      }
    }
    for (int h = 0; h < H; ++h) {
      const float* from = x + t0 * row + h * P;
      float *to = y + t0 * row + h * P, *S = state + static_cast<std::size_t>(h) * N * P;
      float total = 0;
      for (int i = 0; i < n; ++i) {
        total += log_a[(t0 + i) * H + h];
        sum[i] = total * 1.44269504f;
      }
      for (int i = 0; i < n; i += 16) {
        _mm512_storeu_ps(decay + i, exp2(_mm512_loadu_ps(sum + i)));
      }
      for (int i = 0; i < n; ++i) {
        const __m512 own = _mm512_set1_ps(sum[i]);
        for (int j = 0; j <= i; j += 16) {
          const __mmask16 m = i - j >= 15 ? 0xffff : static_cast<__mmask16>((2u << (i - j)) - 1);
          const __m512 g = exp2(_mm512_sub_ps(own, _mm512_loadu_ps(sum + j)));
          _mm512_storeu_ps(masked + i * Q + j,
                           _mm512_maskz_mul_ps(m, _mm512_loadu_ps(scores + i * Q + j), g));
        }
        for (int j = (i + 16) / 16 * 16; j < std::min(n, (i / tall + 1) * tall); ++j) {
          masked[i * Q + j] = 0;
        }
      }
      for (int i = 0; i < n; i += tall) {
        const int rows = std::min(tall, n - i);
        tile_of(rows, q + (t0 + i) * N, static_cast<std::size_t>(N), 1, S, P, N, to + i * row, row,
                nullptr);
        tile_of(rows, masked + i * Q, static_cast<std::size_t>(Q), 1, from, row, i + rows,
                to + i * row, row, decay + i);
      }
      float factor[tall];
      std::fill(factor, factor + tall, decay[n - 1]);
      for (int i = 0; i < n; ++i) {
        const __m512 w = _mm512_set1_ps(std::exp2(sum[n - 1] - sum[i]));
        for (int v = 0; v < vectors; ++v) {
          _mm512_storeu_ps(xw + i * P + 16 * v,
                           _mm512_mul_ps(w, _mm512_loadu_ps(from + i * row + 16 * v)));
        }
      }
      for (int m = 0; m < N; m += tall) {
        tile_of(std::min(tall, N - m), k + t0 * N + m, 1, static_cast<std::size_t>(N), xw, P, n,
                S + m * P, P, factor);
      }
    }
  }
}

}  // namespace ssd_prototype

#endif
