#pragma once
/// @file  The selective scan: a diagonal recurrence whose decay and input depend on the token.
///
///   δ_t = softplus(δ̃_t)
///   h_t = exp(δ_t A) ⊙ h_{t-1} + (δ_t ⊙ x_t) B_tᵀ
///   y_t = (h_t C_t + D ⊙ x_t) ⊙ silu(z_t)
///
///   x, δ̃, z, y [T x E]   B, C [T x N]   A, h [E x N]   D [E]
///
/// Lanes are channels, so B and C are broadcast and nothing is summed across lanes. What belongs to
/// a channel and a state lies in blocks of 16 channels, [E / 16][N][16], whatever the vector of the
/// machine: a saved state can be read anywhere. The states of a vector of channels stay in
/// registers for a chunk of rows; chunk by chunk, because a walk down all rows touches a new page
/// each time.
///
/// Gu & Dao, "Mamba", arXiv:2312.00752, algorithm 2.

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>
#include <limen/kernel/math.hpp>

namespace limen::inline LIMEN_ABI {

/// Channels that lie together.
inline constexpr Index scan_block = 16;
/// Rows between two states that training keeps.
inline constexpr Index scan_chunk = 16;

constexpr Index scan_blocks(Index E) { return (E + scan_block - 1) / scan_block; }
/// Numbers of a state, those behind E included: they stay 0.
constexpr Index scan_state_size(Index E, Index N) { return scan_blocks(E) * N * scan_block; }
/// Where state n of channel e lies.
constexpr Index scan_at(Index e, Index n, Index N) {
  return (e / scan_block * N + n) * scan_block + e % scan_block;
}

/// What a scan runs over. All but `a` and `d` are rows of all sequences.
template <class Real>
struct SelectiveScan {
  Index N;                   ///< states per channel
  const Real* a;             ///< A log2 e, in blocks; with `powers` A[., 0] log2 e, as if N were 1
  bool powers;               ///< A[e, n] = (n + 1) A[e, 0]: one exponential serves all n
  const Real* d;             ///< D [E]
  MatrixView<const Real> x;  ///< [T x E]
  MatrixView<const Real> delta;  ///< δ̃ [T x E]
  MatrixView<const Real> z;      ///< [T x E]; without data: no gate
  MatrixView<const Real> b, c;   ///< [T x N]
};

/// One sequence of a scan.
template <class Real, class Kept = Real>
struct ScanSequence {
  Index first, rows;
  Real* state;  ///< in blocks, moves on; null: from rest, the end is not kept
  Kept* kept;   ///< the states before every chunk; null: not wanted
};

namespace detail {

/// How many states of a vector of channels the registers hold besides what else a loop needs.
inline constexpr int scan_tile =
#if defined(__AVX512F__) || defined(__aarch64__)
    16;
#else
    8;
#endif

/// 2^v for v <= 0. Where the machine can look things up, 2^(i / 32) comes from a table, its
/// exponent is moved by an integer addition, and two terms of the series are enough: 7 instructions
/// in the pipes of the multiplications become 4, and these are what bounds the scan.
template <class V>
struct Decay {
  LIMEN_INLINE V operator()(const V& v) const { return math::exp2(v); }
};
template <class V>
  requires simd::has_lookup<V>
struct Decay<V> {
  using I = simd::IntOf<V>;
  /// Row i: the bits of 2^(i / 32), less i << 18, which the shifted integer brings along.
  alignas(64) static constexpr auto table = [] {
    std::array<std::int32_t, 32> bits{};
    double value = 1;  // times 2^(1/32) each
    for (std::int32_t i = 0; i < 32; ++i, value *= 1.0218971486541166) {
      bits[static_cast<std::size_t>(i)] =
          std::bit_cast<std::int32_t>(static_cast<float>(value)) - (i << 18);
    }
    return bits;
  }();
  V low = simd::as_real<V>(I::load_aligned(table.data()));
  V high = simd::as_real<V>(I::load_aligned(table.data() + 16));

  LIMEN_INLINE V operator()(V v) const {
    constexpr float magic = 393216;  // 1.5 2^18: adding it rounds to 1 / 32
    v = simd::max(V(-126.0f), v);
    const V t = v + V(magic), f = v - (t - V(magic));
    const auto i = simd::as_int(t);
    const V power = simd::as_real<V>(simd::as_int(simd::lookup(low, high, i)) + (i << 18));
    // 2^f, |f| <= 1 / 64, within 6e-8
    return simd::fma(power * f, simd::fma(f, V(0.24022652f), V(0.69315734f)), power);
  }
};

/// Vectors times rows that are prepared together: some of each, so that no loop is too short.
inline constexpr Index strip_vectors = 64;

/// The strip at hand, [vectors][rows][lanes] each.
template <class Real>
struct ScanStrip {
  static constexpr Index size = strip_vectors * simd::lanes<Real>;
  alignas(64) Real delta[size];  ///< δ
  alignas(64) Real dx[size];     ///< δ ⊙ x
  alignas(64) Real y[size];      ///< D ⊙ x + h C, as far as it goes
};

/// Lines that the next strip will want, row by row: while states are computed, they come.
template <class Real, int Arrays>
struct ScanAhead {
  const Real* data[Arrays];
  Index stride[Arrays];
  LIMEN_INLINE void fetch(Index t) const {
    LIMEN_UNROLL for (int k = 0; k < Arrays; ++k) simd::prefetch(data[k] + t * stride[k]);
  }
};

/// `Tile` states of a vector of channels through a chunk.
template <class Real, int Tile, bool Powers, class Ahead>
LIMEN_NOINLINE void scan_states(Index rows, const Real* a, Index n0, Real* h, const Real* b,
                                Index b_row, const Real* c, Index c_row, const Real* delta_rows,
                                const Real* dx_rows, Real* y_rows, const Ahead* ahead) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  [[maybe_unused]] const Decay<V> exp2;
  V s[Tile];
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) s[n] = simd::load<V>(h + n * scan_block);
  for (Index t = 0; t < rows; ++t, b += b_row, c += c_row) {
    if (ahead != nullptr) ahead->fetch(t);
    const V delta = simd::load<V>(delta_rows + t * lanes), dx = simd::load<V>(dx_rows + t * lanes);
    V y[2] = {simd::load<V>(y_rows + t * lanes), V(Real(0))};
    V w[2], square;
    if constexpr (Powers) {
      const V v = delta * simd::load<V>(a);
      const V one = math::exp2(v);
      square = one * one;
      w[0] = n0 == 0 ? one : math::exp2(v * V(static_cast<Real>(n0 + 1)));
      w[1] = w[0] * one;
    }
    LIMEN_UNROLL for (int n = 0; n < Tile; ++n) {
      V decay;
      if constexpr (Powers) {
        decay = w[n % 2];
        if (n + 2 < Tile) w[n % 2] = w[n % 2] * square;
      } else {
        decay = exp2(delta * simd::load<V>(a + n * scan_block));
      }
      s[n] = simd::fma(decay, s[n], dx * V(b[n]));
      y[n % 2] = simd::fma(s[n], V(c[n]), y[n % 2]);
    }
    simd::store(y_rows + t * lanes, y[0] + y[1]);
  }
  LIMEN_UNROLL for (int n = 0; n < Tile; ++n) simd::store(h + n * scan_block, s[n]);
}

/// f(tile) for tiles that make up N, f(n0, integral_constant<Tile>).
template <int Largest, class F>
LIMEN_INLINE void for_each_tile(Index N, F&& f) {
  Index n = 0;
  for (; n + Largest <= N; n += Largest) f(n, std::integral_constant<int, Largest>{});
  for (; n + 4 <= N; n += 4) f(n, std::integral_constant<int, 4>{});
  for (; n < N; ++n) f(n, std::integral_constant<int, 1>{});
}

/// Rows first..first + rows, the channels of blocks p0..p1, in chunks.
template <class Real, bool Powers>
void scan_blocks_of(const SelectiveScan<Real> s, Index first, Index rows, Index p0, Index p1,
                    Real* state, Real* kept, MatrixView<Real> out) noexcept {
  using V = simd::Vec<Real>;
  constexpr Index lanes = simd::lanes<Real>;
  const Index E = s.x.cols, N = s.N, size = scan_state_size(E, N), block = N * scan_block;
  const Index e1 = p1 * scan_block < E ? p1 * scan_block : E;
  ScanStrip<Real> at;
  for (Index t0 = first; t0 < first + rows; t0 += scan_chunk) {
    const Index count = first + rows - t0 < scan_chunk ? first + rows - t0 : scan_chunk;
    if (kept != nullptr) {
      std::memcpy(kept + p0 * block, state + p0 * block,
                  static_cast<std::size_t>((p1 - p0) * block) * sizeof(Real));
      kept += size;
    }
    const Index strip = strip_vectors / count * lanes;
    for (Index s0 = p0 * scan_block; s0 < e1; s0 += strip) {
      const Index s1 = s0 + strip < e1 ? s0 + strip : e1;
      for (Index t = 0; t < count; ++t) {
        const Real *x_row = s.x.row(t0 + t), *delta_row = s.delta.row(t0 + t);
        Index to = t * lanes;
        for (Index e = s0; e < s1; e += lanes, to += count * lanes) {
          const Index n = E - e;
          const V x = simd::load<V>(x_row + e, n);
          const V delta = math::softplus(simd::load<V>(delta_row + e, n));
          simd::store(at.delta + to, delta);
          simd::store(at.dx + to, delta * x);
          simd::store(at.y + to, simd::load<V>(s.d + e, n) * x);
        }
      }
      Index from = 0;
      for (Index e = s0; e < s1; e += lanes, from += count * lanes) {
        const Index at_state = e / scan_block * block + e % scan_block;
        const ScanAhead<Real, 4> ahead{
            {s.x.row(t0) + e + strip, s.delta.row(t0) + e + strip,
             (s.z.data != nullptr ? s.z : s.x).row(t0) + e + strip, out.row(t0) + e + strip},
            {s.x.stride, s.delta.stride, s.z.data != nullptr ? s.z.stride : s.x.stride,
             out.stride}};
        for_each_tile<scan_tile>(N, [&](Index i, auto Tile) {
          scan_states<Real, Tile, Powers>(count, Powers ? s.a + e : s.a + at_state + i * scan_block,
                                          i, state + at_state + i * scan_block, s.b.row(t0) + i,
                                          s.b.stride, s.c.row(t0) + i, s.c.stride, at.delta + from,
                                          at.dx + from, at.y + from, i == 0 ? &ahead : nullptr);
        });
      }
      for (Index t = 0; t < count; ++t) {
        from = t * lanes;
        const Real* z_row = s.z.data != nullptr ? s.z.row(t0 + t) : nullptr;
        for (Index e = s0; e < s1; e += lanes, from += count * lanes) {
          V y = simd::load<V>(at.y + from);
          if (z_row != nullptr) y = y * math::silu(simd::load<V>(z_row + e, E - e));
          simd::store(out.row(t0 + t) + e, y, E - e);
        }
      }
    }
  }
}

}  // namespace detail

/// y = scan(x). `sequence(i)` for 0 <= i < count says where sequence i lies and where its state is.
/// Without state or kept states it takes a buffer from the pool.
template <class Real, class F>
void selective_scan(const SelectiveScan<Real>& s, Index count, F&& sequence, MatrixView<Real> y) {
  const Index blocks = scan_blocks(s.x.cols), size = scan_state_size(s.x.cols, s.N);
  const Index pieces = Threads::allowed() < blocks ? Threads::allowed() : blocks;
  const double work_ns = 0.1 * static_cast<double>(s.x.rows * s.x.cols * s.N);
  Buffer<Real> resting;
  for (Index i = 0; i < count; ++i) {
    if (sequence(i).state == nullptr) resting = Buffer<Real>(size);
    if (resting.size() > 0) break;
  }
  parallel_for(pieces, work_ns, [&](Index piece) {
    const Index p0 = blocks * piece / pieces, p1 = blocks * (piece + 1) / pieces;
    const Index block = s.N * scan_block;
    for (Index i = 0; i < count; ++i) {
      const ScanSequence<Real> q = sequence(i);
      Real* state = q.state;
      if (state == nullptr) {
        state = resting.data();
        std::memset(state + p0 * block, 0,
                    static_cast<std::size_t>((p1 - p0) * block) * sizeof(Real));
      }
      if (s.powers) {
        detail::scan_blocks_of<Real, true>(s, q.first, q.rows, p0, p1, state, q.kept, y);
      } else {
        detail::scan_blocks_of<Real, false>(s, q.first, q.rows, p0, p1, state, q.kept, y);
      }
    }
  });
}

}  // namespace limen::inline LIMEN_ABI
