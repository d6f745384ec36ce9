#pragma once
/// @file  Back through the selective scan (kernel/selective_scan.hpp).
///
/// Forward kept the state before every chunk. Chunk by chunk from the last, the states within it
/// and their decays are computed once more and kept in the first-level cache, then walked
/// backwards: memory is one state per chunk instead of one per row.
///
/// The gradients of B and C are sums over channels, that is, over lanes. They gather in vectors
/// over a group of channels and are folded once per group: a sum across lanes at every row would
/// cost more than all the rest.

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

/// Vectors of channels whose rows are loaded and stored together: whole stretches of a row, which
/// come from memory faster than single lines of many rows.
inline constexpr Index scan_back_strip = 4;

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

/// What a tile of states leaves for its way back, [scan_chunk][tile][lanes].
template <class Real>
struct ScanKept {
  static constexpr Index size = scan_back_tile * scan_chunk * simd::lanes<Real>;
  alignas(64) Real h[size];  ///< h_{t-1}
  alignas(64) Real w[size];  ///< exp(δ A)
};

/// With λ_t = C_t dy_t + w_{t+1} λ_{t+1} and q_t = w_t λ_t h_{t-1}, for `Tile` states of a vector
/// of channels, from the last row of the chunk to its first:
///   s_t = Σ_n λ B,  Σ_n q A,  dA += δ q,  sums[t] += λ δ x,  sums[t][N + .] += dy h
template <class Real, int Tile>
LIMEN_NOINLINE void scan_states_back(Index rows, const Real* a, const Real* last, Real* lambda,
                                     Real* da, const Real* b, Index b_row, const Real* c,
                                     Index c_row, ScanBack<Real>& at, const ScanKept<Real>& kept,
                                     Real* sums, Index N) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  V l[Tile], d[Tile];
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
    l[n] = simd::load<V>(lambda + n * scan_block);
    d[n] = simd::load<V>(da + n * scan_block);
  }
  const Real* h_after = last;  // h_t; scattered as states are, then as they were kept
  Index h_step = scan_block;
  for (Index t = rows - 1; t >= 0; --t) {
    const Real *b_t = b + t * b_row, *c_t = c + t * c_row;
    const V dy = simd::load<V>(at.dy + t * lanes), dx = simd::load<V>(at.dx + t * lanes);
    const V delta = simd::load<V>(at.delta + t * lanes);
    V s = simd::load<V>(at.s + t * lanes), q_sum = simd::load<V>(at.q + t * lanes);
    Real* const row = sums + t * 2 * N * lanes;
    const Real *h = kept.h + t * Tile * lanes, *w = kept.w + t * Tile * lanes;
    LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
      Real *to_b = row + n * lanes, *to_c = to_b + N * lanes;
      l[n] = simd::fma(dy, V(c_t[n]), l[n]);
      simd::store(to_c, simd::fma(dy, simd::load<V>(h_after + n * h_step), simd::load<V>(to_c)));
      simd::store(to_b, simd::fma(l[n], dx, simd::load<V>(to_b)));
      s = simd::fma(l[n], V(b_t[n]), s);
      l[n] = l[n] * simd::load<V>(w + n * lanes);
      const V q = l[n] * simd::load<V>(h + n * lanes);
      q_sum = simd::fma(q, simd::load<V>(a + n * scan_block), q_sum);
      d[n] = simd::fma(q, delta, d[n]);
    }
    simd::store(at.s + t * lanes, s);
    simd::store(at.q + t * lanes, q_sum);
    h_after = h;
    h_step = lanes;
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

/// Rows t0..t0 + count of channels e0..e1, a strip at most; `state` is the one before them.
template <class Real>
void scan_chunk_back(const SelectiveScan<Real>& s, MatrixView<const Real> dout, Index t0,
                     Index count, Index e0, Index e1, const Real* state, Real* lambda, Real* sums,
                     ScanBack<Real>* strip, ScanKept<Real>& kept,
                     const SelectiveScanGradient<Real>& g) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Index N = s.N, E = s.x.cols;
  const bool gated = s.z.data != nullptr;
  const V zero(Real(0)), one(Real(1));
  const Decay<V> exp2;
  for (Index t = 0; t < count; ++t) {
    const Index to = t * lanes;
    ScanBack<Real>* at = strip;
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

  const MatrixView<const Real> z = gated ? s.z : s.x, dz = gated ? g.z : g.x;
  ScanBack<Real>* at = strip;
  for (Index e = e0; e < e1; e += lanes, ++at) {
    const Index at_state = e / scan_block * N * scan_block + e % scan_block;
    const Index next = e + scan_back_strip * lanes;
    const ScanAhead<Real, 7> ahead{
        {s.x.row(t0) + next, s.delta.row(t0) + next, z.row(t0) + next, dout.row(t0) + next,
         g.x.row(t0) + next, g.delta.row(t0) + next, dz.row(t0) + next},
        {s.x.stride, s.delta.stride, z.stride, dout.stride, g.x.stride, g.delta.stride, dz.stride}};
    for_each_tile<scan_back_tile>(N, [&](Index i, auto Tile) {
      alignas(64) Real last[Tile * scan_block];
      const Real* a = s.a + at_state + i * scan_block;
      for (int k = 0; k < Tile; ++k) {
        simd::store(last + k * scan_block, simd::load<V>(state + at_state + (i + k) * scan_block));
      }
      const Real *b = s.b.row(t0) + i, *c = s.c.row(t0) + i;
      scan_states<Real, Tile, false, true>(count, a, i, last, b, s.b.stride, c, s.c.stride,
                                           at->delta, at->dx, at->y, i == 0 ? &ahead : nullptr,
                                           kept.h, kept.w);
      scan_states_back<Real, Tile>(count, a, last, lambda + at_state + i * scan_block,
                                   g.a + at_state + i * scan_block, b, s.b.stride, c, s.c.stride,
                                   *at, kept, sums + i * lanes, N);
    });
  }

  constexpr Real ln2 = Real(0.6931471805599453094L);
  for (Index t = 0; t < count; ++t) {
    const Index from = t * lanes;
    at = strip;
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
  constexpr Index lanes = simd::lanes<Real>;
  const Index E = s.x.cols, N = s.N, T = s.x.rows;
  const Index blocks = scan_blocks(E), size = scan_state_size(E, N), block = N * scan_block;
  // Groups of channels, each with sums of its own, whoever computes them; a thread takes
  // neighbours.
  const Index groups = blocks < 8 ? blocks : 8;
  const Index threads = Threads::allowed() < groups ? Threads::allowed() : groups;
  const Index sums_size = scan_chunk * 2 * N * lanes;
  Buffer<Real> parts(groups * T * 2 * N), resting(size), all_sums(threads * sums_size);
  const double work_ns = 0.3 * static_cast<double>(T * E * N);
  parallel_for(threads, work_ns, [&](Index thread) {
    const Index g0 = groups * thread / threads, g1 = groups * (thread + 1) / threads;
    Real* const sums = all_sums.data() + thread * sums_size;
    detail::ScanBack<Real> strip[detail::scan_back_strip];
    detail::ScanKept<Real> kept;
    for (Index i = 0; i < count; ++i) {
      const ScanSequence<Real, const Real> q = sequence(i);
      Real* lambda = q.state;
      if (lambda == nullptr) {
        lambda = resting.data();
        const Index p0 = blocks * g0 / groups, p1 = blocks * g1 / groups;
        std::memset(lambda + p0 * block, 0,
                    static_cast<std::size_t>((p1 - p0) * block) * sizeof(Real));
      }
      for (Index k = (q.rows + scan_chunk - 1) / scan_chunk - 1; k >= 0; --k) {
        const Index first = k * scan_chunk, t0 = q.first + first;
        const Index rows = q.rows - first < scan_chunk ? q.rows - first : scan_chunk;
        for (Index group = g0; group < g1; ++group) {
          const Index p0 = blocks * group / groups, p1 = blocks * (group + 1) / groups;
          const Index e1 = p1 * scan_block < E ? p1 * scan_block : E;
          std::memset(sums, 0, static_cast<std::size_t>(rows * 2 * N * lanes) * sizeof(Real));
          constexpr Index width = detail::scan_back_strip * lanes;
          for (Index e = p0 * scan_block; e < e1; e += width) {
            detail::scan_chunk_back(s, dout, t0, rows, e, e + width < e1 ? e + width : e1,
                                    q.kept + k * size, lambda, sums, strip, kept, g);
          }
          detail::sum_lanes(sums, rows * 2 * N, parts.data() + (group * T + t0) * 2 * N);
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
