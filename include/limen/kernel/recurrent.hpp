#pragma once
/// @file  Gated recurrence over ragged sequences: one product for all that run, one pass of gates.
///
/// The input's share of all gates, gi [T x G H], was computed for every row at once. Time step t
/// then costs one product p = h wᵀ + b over the sequences that still run, and the cell: what each
/// unit makes of its G numbers in gi and p. Gates stand in blocks of W units: the first gate of W
/// units, the second, ...; with W = H that is the order of the weights.
///
/// `Folded`: weights and biases were multiplied by -log2 e (by -2 log2 e under a tanh) beforehand,
/// so that a gate is 1 / (1 + 2^v).

#include <cstring>

#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/simd.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/lockstep.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/sequences.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// What the recurrent products of so many rows take on one thread: an eighth of a nanosecond for a
/// vector of weights.
template <class Real>
constexpr double recurrence_ns(Index rows, Index gates, Index hidden) {
  return 0.125 * static_cast<double>(rows * gates * hidden) * static_cast<double>(hidden) /
         static_cast<double>(simd::lanes<Real>);
}
/// One step: a row or two wait for the weights.
template <class Real>
constexpr double step_ns(Index rows, Index gates, Index hidden) {
  return recurrence_ns<Real>(rows < 2 ? 2 : rows, gates, hidden);
}

}  // namespace detail

/// The recurrent weights of G gates for inference: in panels, block by block of W units, the rows
/// of each gate multiplied by its factor.
template <class Real, Index G, Index Hidden>
class GateBlocks {
 public:
  static constexpr Index H = Hidden;
  static constexpr Index W = panel_width<Real>;  ///< units of a block, but for the last
  static constexpr Index blocks = (H + W - 1) / W;
  static constexpr Index most_parts = H < W ? 1 : H / W;

  /// Where the i-th of so many parts begins. A last block of few units never stands alone: its
  /// product would be summed in another order.
  static constexpr Index cut(Index i, Index parts) {
    return i == parts ? blocks : most_parts * i / parts;
  }

  /// w [G H x cols], b [G H] or null.
  void place(MatrixView<const Real> w, const Real* b, const Real (&factors)[G]) {
    Buffer<Real> rows(w.rows * w.cols);
    Index to = 0;
    for (Index block = 0; block < blocks; ++block) {
      for (Index g = 0; g < G; ++g) {
        for (Index j = block * W; j < H && j < block * W + W; ++j, ++to) {
          const simd::Vec<Real> factor(factors[g]);
          simd::transform(w.row(g * H + j), rows.data() + to * w.cols, w.cols,
                          [&](const auto& v) { return v * factor; });
          bias_[to] = b == nullptr ? Real(0) : factors[g] * b[g * H + j];
        }
      }
    }
    w_ = Panels<Real>::pack({rows.data(), w.rows, w.cols, w.cols});
  }

  /// y = x wᵀ + b, the columns of blocks u0..u1.  Allocates nothing.
  void product(MatrixView<const Real> x, MatrixView<Real> y, Index u0 = 0,
               Index u1 = blocks) const noexcept {
    const Index first = u0 * W * G, last = u1 == blocks ? G * H : u1 * W * G;
    product_nt<Real>(x, {w_.view().data + first * w_.cols(), last - first, w_.cols()},
                     y.middle_cols(first, last - first), {.bias = bias_.data() + first});
  }

  /// The same for one step of many: every other step walks backwards, and meets first what it left
  /// last. Weights a little larger than a cache would otherwise push themselves out before each
  /// use.
  void product_of_step(Index t, MatrixView<const Real> x, MatrixView<Real> y, Index u0,
                       Index u1) const noexcept {
    if (t % 2 == 0) return product(x, y, u0, u1);
    for (Index u = u1 == blocks ? most_parts : u1; u > u0; --u) {
      product(x, y, u - 1, u == most_parts ? blocks : u);
    }
  }

 private:
  Panels<Real> w_;
  Tensor<Real, G * H> bias_;
};

/// f(j, count) for the units of blocks u0..u1.
template <class Blocks, class F>
LIMEN_INLINE void for_each_block(Index u0, Index u1, F&& f) {
  for (Index u = u0; u < u1; ++u) {
    const Index j = u * Blocks::W;
    f(j, Blocks::H - j < Blocks::W ? Blocks::H - j : Blocks::W);
  }
}

/// A part of the states of the sequences, side by side in [B x H]: zeros from rest.
/// `part(state)` says where it lies.
template <class Real, class State, class Part>
void gather_states(const ByLength& sequences, const Batch<State>& batch, MatrixView<Real> h,
                   Part part) {
  const std::size_t bytes = static_cast<std::size_t>(h.cols) * sizeof(Real);
  for (Index i = 0; i < sequences.count(); ++i) {
    if (batch.carries()) {
      std::memcpy(h.row(i), part(batch[sequences.which(i)]), bytes);
    } else {
      std::memset(h.row(i), 0, bytes);
    }
  }
}

/// And back, if the batch wants them.
template <class Real, class State, class Part>
void scatter_states(const ByLength& sequences, const Batch<State>& batch, MatrixView<Real> h,
                    Part part) {
  const std::size_t bytes = static_cast<std::size_t>(h.cols) * sizeof(Real);
  for (Index i = 0; batch.carries() && i < sequences.count(); ++i) {
    std::memcpy(part(batch[sequences.which(i)]), h.row(i), bytes);
  }
}

/// The product of a recurrence: w [G H x H] in panels, b [G H] or null.
template <class Real>
struct Recurrence {
  PanelsView<Real> w;
  const Real* bias = nullptr;
};

/// For each time step: p = h wᵀ + b, then cell(i, row, p_i) for each sequence i that runs; h [B x
/// H] has the order of `sequences`, `row` is that of the batch.
template <class Real, class Cell>
void recur(const ByLength& sequences, const Recurrence<Real>& r, MatrixView<Real> h, Cell&& cell) {
  const Index width = r.w.rows;
  Buffer<Real> p(sequences.count() * width);
  sequences.forwards([&](Index t, Index n) {
    product_nt<Real>(h.middle_rows(0, n), r.w, {p.data(), n, width, width}, {.bias = r.bias});
    for (Index i = 0; i < n; ++i) cell(i, sequences.first(i) + t, p.data() + i * width);
  });
}

/// Steps whose share of the input is computed at once: a few megabytes, which stay in the outer
/// cache, or all of them.
template <class Real>
constexpr Index input_chunk(Index sequences, Index longest, Index width) {
  const Index row = width * static_cast<Index>(sizeof(Real)) * sequences;
  const Index fit = (Index{1} << 21) / row, least = 32;
  const Index chunk = fit < least ? least : fit;
  return chunk < longest ? chunk : longest;
}

/// The same for inference, by blocks of units, which threads share where a step is long enough:
/// cell(i, row, gi, p_i, h_i, next_i, u0, u1) computes blocks u0..u1 of the next state. What x
/// gives to the gates is computed on the way.
template <class Real, Index G, Index H, class Cell>
void recur(const ByLength& sequences, std::type_identity_t<MatrixView<const Real>> x,
           const GateBlocks<Real, G, H>& w_i, const GateBlocks<Real, G, H>& w_h,
           std::type_identity_t<MatrixView<Real>> h, Cell&& cell) {
  using Blocks = GateBlocks<Real, G, H>;
  constexpr Index width = G * H;
  const Index count = sequences.count();
  const Index chunk = input_chunk<Real>(count, sequences.longest(), width);
  // Short sequences that lie together: one product for all of them.
  const bool together = chunk == sequences.longest() && sequences.all();
  Buffer<Real> gi((together ? x.rows : count * chunk) * width), p(count * width), other(count * H);
  const MatrixView<Real> states[] = {h, {other.data(), count, H, H}};
  const auto input_of = [&](Index i, Index t) {
    return gi.data() + (together ? sequences.first(i) + t : i * chunk + t % chunk) * width;
  };
  in_lockstep(Blocks::most_parts, detail::step_ns<Real>(count, G, H),
              [&](Index part, Index parts, auto meet) {
                const Index u0 = Blocks::cut(part, parts), u1 = Blocks::cut(part + 1, parts);
                if (together) w_i.product(x, {gi.data(), x.rows, width, width}, u0, u1);
                sequences.forwards([&](Index t, Index n) {
                  for (Index i = 0; i < n && !together && t % chunk == 0; ++i) {
                    const Index left = sequences.length(i) - t, rows = left < chunk ? left : chunk;
                    w_i.product(x.middle_rows(sequences.first(i) + t, rows),
                                {input_of(i, t), rows, width, width}, u0, u1);
                  }
                  const auto now = states[t % 2].middle_rows(0, n), next = states[(t + 1) % 2];
                  w_h.product_of_step(t, now, {p.data(), n, width, width}, u0, u1);
                  for (Index i = 0; i < n; ++i) {
                    cell(i, sequences.first(i) + t, input_of(i, t), p.data() + i * width,
                         now.row(i), next.row(i), u0, u1);
                  }
                  meet();
                });
              });
  for (Index i = 0; i < count; ++i) {
    if (sequences.length(i) % 2 == 0) continue;
    std::memcpy(h.row(i), states[1].row(i), static_cast<std::size_t>(H) * sizeof(Real));
  }
}

/// f(sequences) once, if the threads shall share the units of each step; else for shares of the
/// sequences.
template <class Real, Index G, Index H, class State, class F>
void share_recurrence(const Batch<State>& batch, Index rows, F&& f) {
  if (GateBlocks<Real, G, H>::most_parts > 1 &&
      detail::step_ns<Real>(batch.count(), G, H) >= worth_a_meeting_ns) {
    f(ByLength(batch, rows));
  } else {
    share_sequences(batch, rows, detail::recurrence_ns<Real>(rows, G, H), f);
  }
}

namespace detail {

template <bool Folded, class V>
LIMEN_INLINE V open(const V& v) {
  if constexpr (Folded) {
    return math::gate2(v);
  } else {
    return math::sigmoid(v);
  }
}
template <bool Folded, class V>
LIMEN_INLINE V squash(const V& v) {
  using Real = typename V::value_type;
  if constexpr (Folded) {
    return simd::fma(V(Real(2)), math::gate2(v), V(Real(-1)));
  } else {
    return math::tanh(v);
  }
}

}  // namespace detail

/// Where the training forward of a GRU leaves what backward needs, for one row.
template <class Real>
struct GruKept {
  Real *r, *z, *n;  ///< gates
  Real* q;          ///< the recurrent part of n, before r
  Real* before;     ///< h_{t-1}
};

/// W units of a GRU: gi and p hold their r, z, n; the state moves from `before` to h, which may be
/// the same.
///   r = σ(gi_r + p_r),  z = σ(gi_z + p_z),  n = tanh(gi_n + r p_n),  h = n + z (h - n)
template <bool Folded, bool Keep, class Real>
void gru_units(Index W, const Real* gi, const Real* p, const Real* before, Real* h, Real* y,
               [[maybe_unused]] const GruKept<Real>& keep = {}) noexcept {
  simd::for_each<Real>(W, [&](Index j, auto load, auto store) {
    const auto r = detail::open<Folded>(load(gi + j) + load(p + j));
    const auto z = detail::open<Folded>(load(gi + W + j) + load(p + W + j));
    const auto q = load(p + 2 * W + j), past = load(before + j);
    const auto n = detail::squash<Folded>(simd::fma(r, q, load(gi + 2 * W + j)));
    const auto now = simd::fma(z, past - n, n);
    if constexpr (Keep) {
      store(keep.r + j, r);
      store(keep.z + j, z);
      store(keep.n + j, n);
      store(keep.q + j, q);
      store(keep.before + j, past);
    }
    store(h + j, now);
    store(y + j, now);
  });
}

/// One row backward. With g = dh + dy, the gradient of h_t:
///   dn = g (1 - z)(1 - n²),  dz = g (h_{t-1} - n) z (1 - z),  dr = dn q r (1 - r),  dq = dn r
/// d = (dr, dz, dn) for the input's share, dp = (dr, dz, dq) for the state's; dq once more by
/// itself for the weights. dh becomes g z, what reaches h_{t-1} directly.
template <class Real>
void gru_units_backward(Index H, const GruKept<const Real>& kept, const Real* dy, Real* dh, Real* d,
                        Real* dp, Real* dq) noexcept {
  using V = simd::Vec<Real>;
  const V one(Real(1));
  simd::for_each<Real>(H, [&](Index j, auto load, auto store) {
    const V r = load(kept.r + j), z = load(kept.z + j), n = load(kept.n + j);
    const V g = load(dh + j) + load(dy + j);
    const V dn = g * (one - z) * simd::fnma(n, n, one);
    const V dr = dn * load(kept.q + j) * r * (one - r);
    const V dz = g * (load(kept.before + j) - n) * z * (one - z);
    store(d + j, dr);
    store(d + H + j, dz);
    store(d + 2 * H + j, dn);
    store(dp + j, dr);
    store(dp + H + j, dz);
    store(dp + 2 * H + j, dn * r);
    store(dq + j, dn * r);
    store(dh + j, g * z);
  });
}

/// Where the training forward of an LSTM leaves what backward needs, for one row.
template <class Real>
struct LstmKept {
  Real *i, *f, *g, *o;  ///< gates
  Real* m;              ///< tanh(c_t)
  Real* h;              ///< h_{t-1}
  Real* c;              ///< c_{t-1}
};

/// W units of an LSTM: gi and p hold their i, f, g, o; c moves on, h from `before` to h, which may
/// be the same.
///   i, f, o = σ(gi + p),  g = tanh(gi_g + p_g),  c ← f c + i g,  h = o tanh(c)
template <bool Folded, bool Keep, class Real>
void lstm_units(Index W, const Real* gi, const Real* p, [[maybe_unused]] const Real* before,
                Real* h, Real* c, Real* y,
                [[maybe_unused]] const LstmKept<Real>& keep = {}) noexcept {
  const simd::Vec<Real> fold(-2 * math::detail::log2_e<Real>);
  simd::for_each<Real>(W, [&](Index j, auto load, auto store) {
    const auto i = detail::open<Folded>(load(gi + j) + load(p + j));
    const auto f = detail::open<Folded>(load(gi + W + j) + load(p + W + j));
    const auto g = detail::squash<Folded>(load(gi + 2 * W + j) + load(p + 2 * W + j));
    const auto o = detail::open<Folded>(load(gi + 3 * W + j) + load(p + 3 * W + j));
    const auto kept = load(c + j);
    const auto now = simd::fma(f, kept, i * g);
    const auto m = Folded ? detail::squash<true>(now * fold) : math::tanh(now);
    if constexpr (Keep) {
      store(keep.i + j, i);
      store(keep.f + j, f);
      store(keep.g + j, g);
      store(keep.o + j, o);
      store(keep.m + j, m);
      store(keep.h + j, load(before + j));
      store(keep.c + j, kept);
    }
    store(c + j, now);
    store(h + j, o * m);
    store(y + j, o * m);
  });
}

/// One row backward. With g' = dh + dy, the gradient of h_t, and dc' = dc + g' o (1 - m²):
///   d = (dc' g i (1 - i),  dc' c_{t-1} f (1 - f),  dc' i (1 - g²),  g' m o (1 - o))
/// twice: once for the input's share, once for the state's. dc becomes dc' f.
template <class Real>
void lstm_units_backward(Index H, const LstmKept<const Real>& kept, const Real* dy, const Real* dh,
                         Real* dc, Real* d, Real* dp) noexcept {
  using V = simd::Vec<Real>;
  const V one(Real(1));
  simd::for_each<Real>(H, [&](Index j, auto load, auto store) {
    const V i = load(kept.i + j), f = load(kept.f + j), g = load(kept.g + j), o = load(kept.o + j);
    const V m = load(kept.m + j), dy_t = load(dh + j) + load(dy + j);
    const V dc_t = simd::fma(dy_t * o, simd::fnma(m, m, one), load(dc + j));
    const auto both = [&](Index gate, const V& v) {
      store(d + gate * H + j, v);
      store(dp + gate * H + j, v);
    };
    both(0, dc_t * g * i * (one - i));
    both(1, dc_t * load(kept.c + j) * f * (one - f));
    both(2, dc_t * i * simd::fnma(g, g, one));
    both(3, dy_t * m * o * (one - o));
    store(dc + j, dc_t * f);
  });
}

}  // namespace limen::inline LIMEN_ABI
