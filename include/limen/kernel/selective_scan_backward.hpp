#pragma once
/// @file  Back through the selective scan (kernel/selective_scan.hpp).
///
/// Forward kept the state before every chunk. Chunk by chunk from the last, the states within it
/// and their decays are computed once more and kept in the first-level cache, then walked
/// backwards: memory is one state per chunk instead of one per row.
///
/// The gradients of B and C are sums over channels, that is, over lanes. They gather in vectors
/// over a group of channels and are folded once per group: a sum across lanes at every row would
/// cost more than all the rest. A tile of states takes all channels of its group before the next
/// tile starts, so that what gathers stays in the first-level cache; and a group takes all rows
/// before the next group starts, so that its A and the gradients of A and h stay near.

#include <limen/kernel/selective_scan.hpp>

namespace limen::inline LIMEN_ABI {

/// The gradients of what a scan runs over; those of rows are written, the others added to.
template <class Real>
struct SelectiveScanGradient {
  Real* a;  ///< of A (not of A log2 e), in blocks
  Real* d;
  MatrixView<Real> x, delta, z;
  MatrixView<Real> b, c;
};

namespace detail {

/// Backward keeps decays and states of a chunk, and has more to hold in registers.
inline constexpr int scan_back_tile = scan_tile / 2;

/// Vectors of channels that pass together: whole stretches of a row, which come from memory faster
/// than single lines, and one set of sums for all of them.
inline constexpr Index scan_back_vectors = 16;

/// A chunk of one vector of channels on the way back, [rows][lanes] each.
template <class Real>
struct ScanBack {
  // One row more than used: arrays a power of two apart would crowd into few sets of the cache.
  static constexpr Index size = (scan_chunk + 1) * simd::lanes<Real>;
  alignas(64) Real delta[size], dx[size], y[size];  ///< as in ScanStrip
  alignas(64) Real dy[size];                        ///< of y before the gate
  alignas(64) Real dz[size];                        ///< of z, but for the factor y
  alignas(64) Real slope[size];                     ///< of softplus
  alignas(64) Real s[size];                         ///< Σ_n λ B
  alignas(64) Real q[size];                         ///< Σ_n q A log2 e
};

/// What a tile of states leaves for its way back, and gathers; [scan_chunk][tile][lanes].
template <class Real>
struct ScanTile {
  static constexpr Index size = scan_back_tile * scan_chunk * simd::lanes<Real>;
  alignas(64) Real h[size];         ///< h_{t-1}
  alignas(64) Real w[size];         ///< exp(δ A)
  alignas(64) Real sums[2 * size];  ///< of dB and of dC, in turns: [scan_chunk][2][tile][lanes]
};

/// `Tile` states of a vector of channels through a chunk, once more: y goes on, decays and the
/// states before each row are kept, dC gathers dy h.
template <class Real, int Tile, class Ahead>
LIMEN_NOINLINE void scan_states_again(Index rows, const Real* a, const Real* h, const Real* b,
                                      Index b_row, const Real* c, Index c_row, ScanBack<Real>& at,
                                      const Ahead* ahead, ScanTile<Real>& tile) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Decay<V> exp2;
  V s[Tile];
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) s[n] = simd::load<V>(h + n * scan_block);
  for (Index t = 0; t < rows; ++t, b += b_row, c += c_row) {
    if (ahead != nullptr) ahead->fetch(t);
    const V delta = simd::load<V>(at.delta + t * lanes), dx = simd::load<V>(at.dx + t * lanes);
    const V dy = simd::load<V>(at.dy + t * lanes);
    V y[2] = {simd::load<V>(at.y + t * lanes), V(Real(0))};
    Real *const h_t = tile.h + t * Tile * lanes, *const w_t = tile.w + t * Tile * lanes;
    Real* const to_c = tile.sums + (2 * t + 1) * Tile * lanes;
    LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
      const V w = exp2(delta * simd::load<V>(a + n * scan_block));
      simd::store(h_t + n * lanes, s[n]);
      simd::store(w_t + n * lanes, w);
      s[n] = simd::fma(w, s[n], dx * V(b[n]));
      y[n % 2] = simd::fma(s[n], V(c[n]), y[n % 2]);
      simd::store(to_c + n * lanes, simd::fma(dy, s[n], simd::load<V>(to_c + n * lanes)));
    }
    simd::store(at.y + t * lanes, y[0] + y[1]);
  }
}

/// With λ_t = C_t dy_t + w_{t+1} λ_{t+1} and q_t = w_t λ_t h_{t-1}, for `Tile` states of a vector
/// of channels, from the last row of the chunk to its first:
///   s_t = Σ_n λ B,  Σ_n q A,  dA += δ q,  dB += λ δ x
template <class Real, int Tile>
LIMEN_NOINLINE void scan_states_back(Index rows, const Real* a, Real* lambda, Real* da,
                                     const Real* b, Index b_row, const Real* c, Index c_row,
                                     ScanBack<Real>& at, ScanTile<Real>& tile) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  V l[Tile], d[Tile];
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
    l[n] = simd::load<V>(lambda + n * scan_block);
    d[n] = simd::load<V>(da + n * scan_block);
  }
  for (Index t = rows - 1; t >= 0; --t) {
    const Real *b_t = b + t * b_row, *c_t = c + t * c_row;
    const V dy = simd::load<V>(at.dy + t * lanes), dx = simd::load<V>(at.dx + t * lanes);
    const V delta = simd::load<V>(at.delta + t * lanes);
    V s = simd::load<V>(at.s + t * lanes), q_sum = simd::load<V>(at.q + t * lanes);
    Real* const to_b = tile.sums + 2 * t * Tile * lanes;
    const Real *h = tile.h + t * Tile * lanes, *w = tile.w + t * Tile * lanes;
    LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
      l[n] = simd::fma(dy, V(c_t[n]), l[n]);
      simd::store(to_b + n * lanes, simd::fma(l[n], dx, simd::load<V>(to_b + n * lanes)));
      s = simd::fma(l[n], V(b_t[n]), s);
      l[n] = l[n] * simd::load<V>(w + n * lanes);
      const V q = l[n] * simd::load<V>(h + n * lanes);
      q_sum = simd::fma(q, simd::load<V>(a + n * scan_block), q_sum);
      d[n] = simd::fma(q, delta, d[n]);
    }
    simd::store(at.s + t * lanes, s);
    simd::store(at.q + t * lanes, q_sum);
  }
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
    simd::store(lambda + n * scan_block, l[n]);
    simd::store(da + n * scan_block, d[n]);
  }
}

/// to[i] = the sum of the lanes of from[i], [count][lanes]
template <class Real>
void sum_lanes(const Real* from, Index count, Real* to) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  Index i = 0;
  for (; i + lanes <= count; i += lanes) {
    V v[lanes];
    LIMEN_UNROLL for (Index k = 0; k < lanes; ++k) v[k] = simd::load<V>(from + (i + k) * lanes);
    simd::store(to + i, simd::reduce_add_each<lanes>(v));
  }
  for (; i < count; ++i) to[i] = simd::reduce_add(simd::load<V>(from + i * lanes));
}

/// Rows t0..t0 + count of channels e0..e1, scan_back_vectors at most; `state` is the one before
/// them, sums of dB and dC go to parts [count][2][N].
template <class Real>
void scan_chunk_back(const SelectiveScan<Real>& s, MatrixView<const Real> dout, Index t0,
                     Index count, Index e0, Index e1, const Real* state, Real* lambda, Real* parts,
                     ScanBack<Real>* group, ScanTile<Real>& tile,
                     const SelectiveScanGradient<Real>& g) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Index N = s.N, E = s.x.cols;
  const bool gated = s.z.data != nullptr;
  const V zero(Real(0)), one(Real(1));
  const Decay<V> exp2;
  for (Index t = 0; t < count; ++t) {
    const Index to = t * lanes;
    ScanBack<Real>* at = group;
    for (Index e = e0; e < e1; e += lanes, ++at) {
      const Index n = E - e;
      const V x = simd::load<V>(s.x.row(t0 + t) + e, n);
      const V raw = simd::load<V>(s.delta.row(t0 + t) + e, n);
      const V u = exp2(simd::abs(raw) * V(-math::detail::log2_e<Real>));
      const V delta = simd::max(zero, raw) + math::detail::log1p_unit(u);
      simd::store(at->slope + to, simd::select(raw < zero, u, one) * math::reciprocal(one + u));
      V dy = simd::load<V>(dout.row(t0 + t) + e, n);
      if (gated) {
        const V z = simd::load<V>(s.z.row(t0 + t) + e, n);
        const V v = exp2(simd::abs(z) * V(-math::detail::log2_e<Real>));
        const V open = simd::select(z < zero, v, one) * math::reciprocal(one + v);
        simd::store(at->dz + to, dy * (open * simd::fma(z, one - open, one)));
        dy = dy * (z * open);
      }
      simd::store(g.d + e, simd::fma(dy, x, simd::load<V>(g.d + e, n)), n);
      simd::store(at->delta + to, delta);
      simd::store(at->dx + to, delta * x);
      simd::store(at->y + to, simd::load<V>(s.d + e, n) * x);
      simd::store(at->dy + to, dy);
      simd::store(at->s + to, zero);
      simd::store(at->q + to, zero);
    }
  }

  // The chunk before this one comes while the first tile is computed.
  const MatrixView<const Real> z = gated ? s.z : s.x, dz = gated ? g.z : g.x;
  const Index before = t0 < scan_chunk ? t0 : scan_chunk;
  for_each_tile<scan_back_tile>(N, [&](Index i, auto Tile) {
    std::memset(tile.sums, 0, static_cast<std::size_t>(count * 2 * Tile * lanes) * sizeof(Real));
    ScanBack<Real>* at = group;
    for (Index e = e0; e < e1; e += lanes, ++at) {
      const Index from = e / scan_block * N * scan_block + e % scan_block + i * scan_block;
      const Index t = t0 - before;
      const ScanAhead<Real, 7> ahead{
          {s.x.row(t) + e, s.delta.row(t) + e, z.row(t) + e, dout.row(t) + e, g.x.row(t) + e,
           g.delta.row(t) + e, dz.row(t) + e},
          {s.x.stride, s.delta.stride, z.stride, dout.stride, g.x.stride, g.delta.stride,
           dz.stride}};
      const Real *b = s.b.row(t0) + i, *c = s.c.row(t0) + i;
      scan_states_again<Real, Tile>(count, s.a + from, state + from, b, s.b.stride, c, s.c.stride,
                                    *at, i == 0 ? &ahead : nullptr, tile);
      scan_states_back<Real, Tile>(count, s.a + from, lambda + from, g.a + from, b, s.b.stride, c,
                                   s.c.stride, *at, tile);
    }
    Real sums[2 * scan_back_tile * scan_chunk];
    sum_lanes(tile.sums, count * 2 * Tile, sums);
    for (Index r = 0; r < 2 * count; ++r) {
      std::memcpy(parts + r * N + i, sums + r * Tile, sizeof(Real) * std::size_t{Tile});
    }
  });

  constexpr Real ln2 = Real(0.6931471805599453094L);
  for (Index t = 0; t < count; ++t) {
    const Index from = t * lanes;
    const ScanBack<Real>* at = group;
    for (Index e = e0; e < e1; e += lanes, ++at) {
      const Index n = E - e;
      const V sum = simd::load<V>(at->s + from), x = simd::load<V>(s.x.row(t0 + t) + e, n);
      const V d_delta = simd::fma(x, sum, simd::load<V>(at->q + from) * V(ln2));
      simd::store(g.delta.row(t0 + t) + e, d_delta * simd::load<V>(at->slope + from), n);
      const V skipped = simd::load<V>(s.d + e, n) * simd::load<V>(at->dy + from);
      simd::store(g.x.row(t0 + t) + e, simd::fma(simd::load<V>(at->delta + from), sum, skipped), n);
      if (gated) {
        const V y = simd::load<V>(at->y + from);
        simd::store(g.z.row(t0 + t) + e, y * simd::load<V>(at->dz + from), n);
      }
    }
  }
}

}  // namespace detail

/// Back through selective_scan, which must have had no `powers`. g.x may be written over dout.
/// `sequence(i).kept` are the states it kept, `.state` holds the gradient of the last state and
/// receives that of the first; null: no such gradients. All sums over channels are made in one
/// order, whatever the number of threads.
template <class Real, class F>
void selective_scan_backward(const SelectiveScan<Real>& s,
                             std::type_identity_t<MatrixView<const Real>> dout, Index count,
                             F&& sequence, const SelectiveScanGradient<Real>& g) {
  const Index E = s.x.cols, N = s.N, T = s.x.rows;
  const Index blocks = scan_blocks(E), size = scan_state_size(E, N), block = N * scan_block;
  // Groups of channels, each with sums of its own, whoever computes them; a thread takes
  // neighbours.
  constexpr Index most = detail::scan_back_vectors * simd::lanes<Real> / scan_block;
  const Index groups = blocks < 8 ? blocks : 8 * ((blocks + 8 * most - 1) / (8 * most));
  const Index threads = Threads::allowed() < groups ? Threads::allowed() : groups;
  Buffer<Real> parts(groups * T * 2 * N), resting(size);
  Buffer<detail::ScanBack<Real>> all_vectors(threads * detail::scan_back_vectors);
  Buffer<detail::ScanTile<Real>> tiles(threads);
  const double work_ns = 0.3 * static_cast<double>(T * E * N);
  parallel_for(threads, work_ns, [&](Index thread) {
    const Index g0 = groups * thread / threads, g1 = groups * (thread + 1) / threads;
    for (Index group = g0; group < g1; ++group) {
      const Index p0 = blocks * group / groups, p1 = blocks * (group + 1) / groups;
      const Index e1 = p1 * scan_block < E ? p1 * scan_block : E;
      for (Index i = 0; i < count; ++i) {
        const ScanSequence<Real, const Real> q = sequence(i);
        Real* lambda = q.state;
        if (lambda == nullptr) {
          lambda = resting.data();
          std::memset(lambda + p0 * block, 0,
                      static_cast<std::size_t>((p1 - p0) * block) * sizeof(Real));
        }
        for (Index k = (q.rows + scan_chunk - 1) / scan_chunk - 1; k >= 0; --k) {
          const Index first = k * scan_chunk, t0 = q.first + first;
          const Index rows = q.rows - first < scan_chunk ? q.rows - first : scan_chunk;
          detail::scan_chunk_back(s, dout, t0, rows, p0 * scan_block, e1, q.kept + k * size, lambda,
                                  parts.data() + (group * T + t0) * 2 * N,
                                  all_vectors.data() + thread * detail::scan_back_vectors,
                                  tiles[thread], g);
        }
      }
    }
  });
  for (Index t = 0; t < T; ++t) {
    for (Index half = 0; half < 2; ++half) {
      Real* const to = half == 0 ? g.b.row(t) : g.c.row(t);
      simd::for_each<Real>(N, [&](Index n, auto load, auto store) {
        auto sum = load(parts.data() + (t * 2 + half) * N + n);
        for (Index group = 1; group < groups; ++group) {
          sum = sum + load(parts.data() + ((group * T + t) * 2 + half) * N + n);
        }
        store(to + n, sum);
      });
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
