#pragma once
/// @file  What the recurrences with a matrix as state share: their operands, the states that
/// training keeps, and who computes which heads of which sequence.
///
///   S_t = a_t S_{t-1} + k_t (d_t v_t)ᵀ,  y_t = S_tᵀ q_t      and relatives
///
///   S [H][N][P] (P innermost), q, k [T x G N], v, y [T x H P], d [T x H]; head h reads group
///   h / (H / G). kernel/ssd.hpp, keyed_ssd.hpp and delta.hpp say what a is and what is written.
///
/// A piece of work is some heads of one group of one sequence. Chunks make segments: what the heads
/// of a group share is computed once for a segment, and backward keeps one state per segment and
/// computes the others again.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <limen/core/batch.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/chunk_product.hpp>
#include <limen/kernel/state_scan.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real>
struct StateInputs {
  Index heads, groups, keys, width;  ///< H, G, N, P
  MatrixView<const Real> q, k;       ///< [T x G N]
  MatrixView<const Real> v;          ///< [T x H P]
  MatrixView<const Real> a;       ///< [T x H], or [T x H N]; stride 0 for decays that do not change
  MatrixView<const Real> d = {};  ///< [T x H], or empty: 1
  Real scale = 1;                 ///< q is multiplied with it

  Index state_size() const { return keys * width; }
  StateInputs rows(Index first, Index count) const {
    StateInputs x = *this;
    x.q = q.middle_rows(first, count);
    x.k = k.middle_rows(first, count);
    x.v = v.middle_rows(first, count);
    x.a = a.middle_rows(first, count);
    if (d.data != nullptr) x.d = d.middle_rows(first, count);
    return x;
  }
};

/// What backward needs of the states: those that the sequences began with, and one at the start of
/// every later segment.
template <class Real>
struct KeptStates {
  Buffer<Real> first;  ///< [B][H N P]; empty if all began at rest
  Buffer<Real> later;  ///< [...][H N P]

  template <class F>
  void prepare(const Batch<F>& batch, Index rows, Index segment, Index size) {
    first = Buffer<Real>(batch.carries() ? batch.count() * size : 0);
    later = Buffer<Real>(rows / segment * size);
    for (Index b = 0; batch.carries() && b < batch.count(); ++b) {
      std::memcpy(first.data() + b * size, batch[b].data(),
                  static_cast<std::size_t>(size) * sizeof(Real));
    }
  }
  /// Room for the state at the start of segment s > 0 of the sequence that begins at row `begin`.
  Index place(Index begin, Index s, Index segment) const { return begin / segment + s - 1; }
};

/// All are written.
template <class Real>
struct StateGradients {
  MatrixView<Real> dq, dk;      ///< [T x G N]
  MatrixView<Real> dv;          ///< [T x H P]
  MatrixView<Real> dlog_a, dd;  ///< like a and d, or empty

  StateGradients rows(Index first, Index count) const {
    const auto part = [&](MatrixView<Real> m) {
      return m.data == nullptr ? m : m.middle_rows(first, count);
    };
    return {part(dq), part(dk), part(dv), part(dlog_a), part(dd)};
  }
};

namespace detail {

using chunk::View;

/// Head h as kernel/state_scan.hpp wants it.
/// `a_step`: decays of a head.
template <class Real>
StateScan<Real> state_scan_job(const StateInputs<Real>& x, Index h, Real* state, Real* y,
                               Index y_row, Index a_step) noexcept {
  const Index group = h / (x.heads / x.groups);
  return {x.keys,
          x.width,
          x.q.data + group * x.keys,
          x.q.stride,
          x.k.data + group * x.keys,
          x.k.stride,
          x.v.data + h * x.width,
          x.v.stride,
          x.a.data + h * a_step,
          x.a.stride,
          x.d.data == nullptr ? nullptr : x.d.data + h,
          x.d.stride,
          x.scale,
          state,
          y + h * x.width,
          y_row};
}

/// Few rows, one after the other.
template <bool Keyed, class Real>
void scan_few_rows(const StateInputs<Real>& x, Index h0, Index h1, Real* state,
                   MatrixView<Real> y) {
  if (y.rows == 0) return;
  const Index size = x.state_size();
  Buffer<Real> rest(state == nullptr ? size : 0);
  for (Index h = h0; h < h1; ++h) {
    std::fill(rest.begin(), rest.end(), Real(0));
    Real* const S = state == nullptr ? rest.data() : state + h * size;
    state_scan<Keyed>(state_scan_job(x, h, S, y.data, y.stride, Keyed ? x.keys : 1), y.rows);
  }
}

/// Multiplications of the recurrence take about so long.
template <class Real>
double state_work_ns(const StateInputs<Real>& x) {
  return static_cast<double>(x.v.rows * x.heads) * static_cast<double>(x.state_size()) / 40;
}

/// Which sequence, group and heads the i-th piece is.
struct StatePiece {
  StatePiece(Index i, Index groups, Index heads, Index blocks)
      : b(i / (groups * blocks)), group(i / blocks % groups), block(i % blocks) {
    const Index share = heads / groups;
    h0 = group * share + share * block / blocks;
    h1 = group * share + share * (block + 1) / blocks;
  }
  Index b, group, block, h0, h1;
};

/// From the states of the batch, leaving the last ones there. `kept`: filled for backward, or null.
template <class Heads, class Real, class F>
void run_states(const StateInputs<Real>& x, const Batch<F>& batch, MatrixView<Real> y,
                KeptStates<Real>* kept) {
  const Index size = x.heads * x.state_size(), share = x.heads / x.groups;
  if (kept != nullptr) kept->prepare(batch, y.rows, Heads::segment, size);
  const Index blocks = std::min<Index>(share, (Threads::allowed() + x.groups - 1) / x.groups);
  parallel_for(batch.count() * x.groups * blocks, state_work_ns(x), [&](Index i) {
    const StatePiece piece(i, x.groups, x.heads, blocks);
    const Index begin = batch.begin(piece.b), rows = batch.end(piece.b, y.rows) - begin;
    Real* const state = batch.carries() ? batch[piece.b].data() : nullptr;
    const auto part = x.rows(begin, rows);
    const auto to = y.middle_rows(begin, rows);
    if (rows < Heads::worth_chunks) {
      Heads::few_rows(part, piece.h0, piece.h1, state, to);
    } else {
      Heads(part, piece.h0, piece.h1, false).forward(state, to, [&](Index s) {
        return kept == nullptr ? nullptr
                               : kept->later.data() + kept->place(begin, s, Heads::segment) * size;
      });
    }
  });
}

/// `batch` brings the gradients of the last states and takes those of the first. The heads of a
/// group share dq and dk: at most four blocks of heads have sums of their own, added in their order
/// at the end, so that bits do not depend on threads.
template <class Heads, class Real, class F>
void run_states_backward(const StateInputs<Real>& x, const Batch<F>& batch,
                         const KeptStates<Real>& kept, View<Real> dy,
                         const StateGradients<Real>& g) {
  const Index one = x.state_size(), size = x.heads * one, T = dy.rows;
  const Index blocks = std::min<Index>(x.heads / x.groups, 4), width = x.groups * x.keys;
  Buffer<Real> sums((blocks - 1) * 2 * T * width);
  parallel_for(batch.count() * x.groups * blocks, 3 * state_work_ns(x), [&](Index i) {
    const StatePiece piece(i, x.groups, x.heads, blocks);
    const Index b = piece.b, begin = batch.begin(b), rows = batch.end(b, T) - begin;
    StateGradients<Real> to = g;
    if (piece.block > 0) {
      to.dq = {sums.data() + (piece.block - 1) * 2 * T * width, T, width, width};
      to.dk = {to.dq.data + T * width, T, width, width};
    }
    Buffer<Real> rest(batch.carries() ? 0 : (piece.h1 - piece.h0) * one);
    std::fill(rest.begin(), rest.end(), Real(0));
    Heads(x.rows(begin, rows), piece.h0, piece.h1, true)
        .backward(
            [&](Index s) -> const Real* {
              if (s > 0) return kept.later.data() + kept.place(begin, s, Heads::segment) * size;
              return kept.first.size() > 0 ? kept.first.data() + b * size : nullptr;
            },
            dy.middle_rows(begin, rows),
            batch.carries() ? batch[b].data() + piece.h0* one : rest.data(), to.rows(begin, rows));
  });
  for (Index block = 0; block + 1 < blocks; ++block) {
    const Real* from = sums.data() + block * 2 * T * width;
    for (const MatrixView<Real>& to : {g.dq, g.dk}) {
      for (Index t = 0; t < T; ++t, from += width) {
        Real* row = to.row(t);
        simd::for_each<Real>(width, [&](Index c, auto load, auto store) {
          store(row + c, load(row + c) + load(from + c));
        });
      }
    }
  }
}

}  // namespace detail
}  // namespace limen::inline LIMEN_ABI
