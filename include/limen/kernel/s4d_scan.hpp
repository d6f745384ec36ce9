#pragma once
/// @file  The scan of complex diagonal systems that do not depend on the token, N for each channel,
/// and the way back.
///
///   h_t = a ⊙ h_{t-1} + u_t,  y_t = Re Σ_n c h_t + D ⊙ u_t        u, y [T x E]
///
/// a, c, h [E x N] complex, in blocks [E / 16][N][2][16], real parts first, then imaginary ones.
/// Lanes are channels: nothing is summed across lanes.

#include <cstring>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/selective_scan.hpp>

namespace limen::inline LIMEN_ABI {

/// Where the real part of state n of channel e lies; the imaginary part is scan_block behind.
constexpr Index s4d_at(Index e, Index n, Index N) {
  return (e / scan_block * N + n) * 2 * scan_block + e % scan_block;
}
constexpr Index s4d_state_size(Index E, Index N) { return scan_blocks(E) * N * 2 * scan_block; }

/// What an S4D scan runs over; rows are those of all sequences.
template <class Real>
struct S4dScan {
  Index N;                   ///< complex states per channel
  const Real *a, *c;         ///< in blocks
  const Real* d;             ///< D [E]
  MatrixView<const Real> u;  ///< [T x E]
};

template <class Real>
struct S4dGradient {
  Real *a, *c, *d;     ///< added to
  MatrixView<Real> u;  ///< written
};

namespace detail {

/// Complex states of a vector of channels that registers hold.
inline constexpr int s4d_tile = scan_tile / 4;

/// `Tile` states through `rows` rows; y is added to. With `Keep` the states before each row stay.
template <class Real, int Tile, bool Keep>
LIMEN_NOINLINE void s4d_states(Index rows, const Real* a, const Real* c, Real* h, const Real* u,
                               Real* y, [[maybe_unused]] Real* kept) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  V re[Tile], im[Tile];
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
    re[n] = simd::load<V>(h + 2 * n * scan_block);
    im[n] = simd::load<V>(h + (2 * n + 1) * scan_block);
  }
  for (Index t = 0; t < rows; ++t) {
    const V in = simd::load<V>(u + t * lanes);
    V sum = simd::load<V>(y + t * lanes), other(Real(0));
    LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
      if constexpr (Keep) {
        simd::store(kept + (t * Tile + n) * 2 * lanes, re[n]);
        simd::store(kept + ((t * Tile + n) * 2 + 1) * lanes, im[n]);
      }
      const V a_re = simd::load<V>(a + 2 * n * scan_block);
      const V a_im = simd::load<V>(a + (2 * n + 1) * scan_block);
      const V next = simd::fnma(a_im, im[n], simd::fma(a_re, re[n], in));
      im[n] = simd::fma(a_re, im[n], a_im * re[n]);
      re[n] = next;
      sum = simd::fma(simd::load<V>(c + 2 * n * scan_block), re[n], sum);
      other = simd::fma(simd::load<V>(c + (2 * n + 1) * scan_block), im[n], other);
    }
    simd::store(y + t * lanes, sum - other);
  }
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
    simd::store(h + 2 * n * scan_block, re[n]);
    simd::store(h + (2 * n + 1) * scan_block, im[n]);
  }
}

/// λ_t = c̄ dy_t + ā λ_{t+1},  da += h̄_{t-1} λ_t,  dc += h̄_t dy_t,  du_t += Re Σ λ_t
template <class Real, int Tile>
LIMEN_NOINLINE void s4d_states_back(Index rows, const Real* a, const Real* c, const Real* last,
                                    Real* lambda, Real* da, Real* dc, const Real* dy,
                                    const Real* kept, Real* du) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  for (int n = 0; n < Tile; ++n) {
    const Index re = 2 * n * scan_block, im = re + scan_block;
    const V a_re = simd::load<V>(a + re), a_im = simd::load<V>(a + im);
    const V c_re = simd::load<V>(c + re), c_im = simd::load<V>(c + im);
    V l_re = simd::load<V>(lambda + re), l_im = simd::load<V>(lambda + im);
    V da_re = simd::load<V>(da + re), da_im = simd::load<V>(da + im);
    V dc_re = simd::load<V>(dc + re), dc_im = simd::load<V>(dc + im);
    V h_re = simd::load<V>(last + re), h_im = simd::load<V>(last + im);
    for (Index t = rows - 1; t >= 0; --t) {
      const V d = simd::load<V>(dy + t * lanes);
      l_re = simd::fma(c_re, d, l_re);
      l_im = simd::fnma(c_im, d, l_im);
      dc_re = simd::fma(d, h_re, dc_re);
      dc_im = simd::fnma(d, h_im, dc_im);
      simd::store(du + t * lanes, simd::load<V>(du + t * lanes) + l_re);
      h_re = simd::load<V>(kept + (t * Tile + n) * 2 * lanes);
      h_im = simd::load<V>(kept + ((t * Tile + n) * 2 + 1) * lanes);
      da_re = simd::fma(l_im, h_im, simd::fma(l_re, h_re, da_re));
      da_im = simd::fma(l_im, h_re, simd::fnma(l_re, h_im, da_im));
      const V next = simd::fma(a_im, l_im, a_re * l_re);
      l_im = simd::fnma(a_im, l_re, a_re * l_im);
      l_re = next;
    }
    simd::store(lambda + re, l_re);
    simd::store(lambda + im, l_im);
    simd::store(da + re, da_re);
    simd::store(da + im, da_im);
    simd::store(dc + re, dc_re);
    simd::store(dc + im, dc_im);
  }
}

/// The chunk at hand for one vector of channels.
template <class Real>
struct S4dRows {
  static constexpr Index size = scan_chunk * simd::lanes<Real>;
  alignas(64) Real u[size], y[size], dy[size], du[size];
  alignas(64) Real h[2 * s4d_tile * size];
};

/// f(i, tile) over tiles of the N states.
template <class F>
LIMEN_INLINE void for_each_s4d_tile(Index N, F&& f) {
  Index n = 0;
  for (; n + s4d_tile <= N; n += s4d_tile) f(n, std::integral_constant<int, s4d_tile>{});
  for (; n < N; ++n) f(n, std::integral_constant<int, 1>{});
}

/// Loads rows t0.. of channels e.. and what their y starts with.
template <class Real>
void s4d_load(const S4dScan<Real>& s, Index t0, Index count, Index e, S4dRows<Real>& at) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const V skip = simd::load<V>(s.d + e, s.u.cols - e);
  for (Index t = 0; t < count; ++t) {
    const V u = simd::load<V>(s.u.row(t0 + t) + e, s.u.cols - e);
    simd::store(at.u + t * lanes, u);
    simd::store(at.y + t * lanes, skip * u);
  }
}

/// f(piece of blocks p0..p1), shared out by channels.
template <class Real, class F>
void share_blocks(Index blocks, double work_ns, F&& f) {
  const Index pieces = Threads::allowed() < blocks ? Threads::allowed() : blocks;
  parallel_for(pieces, work_ns,
               [&](Index i) { f(blocks * i / pieces, blocks * (i + 1) / pieces); });
}

}  // namespace detail

/// y = scan(u). `sequence(i)` as for selective_scan.
template <class Real, class F>
void s4d_scan(const S4dScan<Real>& s, Index count, F&& sequence, MatrixView<Real> y) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Index E = s.u.cols, N = s.N, block = 2 * N * scan_block, size = s4d_state_size(E, N);
  Buffer<Real> resting;
  for (Index i = 0; i < count && resting.size() == 0; ++i) {
    if (sequence(i).state == nullptr) resting = Buffer<Real>(size);
  }
  const double work_ns = 0.1 * static_cast<double>(s.u.rows * E * N);
  detail::share_blocks<Real>(scan_blocks(E), work_ns, [&](Index p0, Index p1) {
    detail::S4dRows<Real> at;
    const std::size_t bytes = static_cast<std::size_t>((p1 - p0) * block) * sizeof(Real);
    for (Index i = 0; i < count; ++i) {
      const ScanSequence<Real> q = sequence(i);
      Real *state = q.state, *kept = q.kept;
      if (state == nullptr) {
        state = resting.data();
        std::memset(state + p0 * block, 0, bytes);
      }
      for (Index t0 = q.first; t0 < q.first + q.rows; t0 += scan_chunk) {
        const Index rows = q.first + q.rows - t0 < scan_chunk ? q.first + q.rows - t0 : scan_chunk;
        if (kept != nullptr) {
          std::memcpy(kept + p0 * block, state + p0 * block, bytes);
          kept += size;
        }
        for (Index e = p0 * scan_block; e < p1 * scan_block && e < E; e += lanes) {
          detail::s4d_load(s, t0, rows, e, at);
          const Index first = e / scan_block * block + e % scan_block;
          detail::for_each_s4d_tile(N, [&](Index n, auto Tile) {
            const Index to = first + 2 * n * scan_block;
            detail::s4d_states<Real, Tile, false>(rows, s.a + to, s.c + to, state + to, at.u, at.y,
                                                  nullptr);
          });
          for (Index t = 0; t < rows; ++t) {
            simd::store(y.row(t0 + t) + e, simd::load<V>(at.y + t * lanes), E - e);
          }
        }
      }
    }
  });
}

/// The way back: `.kept` as forward left it, `.state` the gradient of the last state, which becomes
/// that of the first; null: no such gradients.
template <class Real, class F>
void s4d_scan_backward(const S4dScan<Real>& s, std::type_identity_t<MatrixView<const Real>> dy,
                       Index count, F&& sequence, const S4dGradient<Real>& g) {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Index E = s.u.cols, N = s.N, block = 2 * N * scan_block, size = s4d_state_size(E, N);
  Buffer<Real> resting(size);
  const double work_ns = 0.3 * static_cast<double>(s.u.rows * E * N);
  detail::share_blocks<Real>(scan_blocks(E), work_ns, [&](Index p0, Index p1) {
    detail::S4dRows<Real> at;
    for (Index i = 0; i < count; ++i) {
      const ScanSequence<Real, const Real> q = sequence(i);
      Real* lambda = q.state;
      if (lambda == nullptr) {
        lambda = resting.data();
        std::memset(lambda + p0 * block, 0,
                    static_cast<std::size_t>((p1 - p0) * block) * sizeof(Real));
      }
      for (Index k = (q.rows + scan_chunk - 1) / scan_chunk - 1; k >= 0; --k) {
        const Index from = k * scan_chunk, t0 = q.first + from;
        const Index rows = q.rows - from < scan_chunk ? q.rows - from : scan_chunk;
        for (Index e = p0 * scan_block; e < p1 * scan_block && e < E; e += lanes) {
          detail::s4d_load(s, t0, rows, e, at);
          const V skip = simd::load<V>(s.d + e, E - e);
          V d_skip = simd::load<V>(g.d + e, E - e);
          for (Index t = 0; t < rows; ++t) {
            const V d = simd::load<V>(dy.row(t0 + t) + e, E - e);
            simd::store(at.dy + t * lanes, d);
            simd::store(at.du + t * lanes, skip * d);
            d_skip = simd::fma(d, simd::load<V>(at.u + t * lanes), d_skip);
          }
          simd::store(g.d + e, d_skip, E - e);
          const Index first = e / scan_block * block + e % scan_block;
          detail::for_each_s4d_tile(N, [&](Index n, auto Tile) {
            const Index to = first + 2 * n * scan_block;
            alignas(64) Real h[2 * Tile * scan_block];
            for (int j = 0; j < 2 * Tile; ++j) {
              simd::store(h + j * scan_block,
                          simd::load<V>(q.kept + k * size + to + j * scan_block));
            }
            detail::s4d_states<Real, Tile, true>(rows, s.a + to, s.c + to, h, at.u, at.y, at.h);
            detail::s4d_states_back<Real, Tile>(rows, s.a + to, s.c + to, h, lambda + to, g.a + to,
                                                g.c + to, at.dy, at.h, at.du);
          });
          for (Index t = 0; t < rows; ++t) {
            simd::store(g.u.row(t0 + t) + e, simd::load<V>(at.du + t * lanes), E - e);
          }
        }
      }
    }
  });
}

}  // namespace limen::inline LIMEN_ABI
