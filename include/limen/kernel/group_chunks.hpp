#pragma once
/// @file  How the heads of a group go through their sequence: segment by segment, in each of them
/// head by head, in each of these chunk by chunk. So a state stays in the cache for a segment, and
/// what the heads share (queries, keys, their products) is made once for all.
///
/// A Recurrence says what happens in a chunk of one head:
///
///   forward(chunk, next, S, rest, last, y)      S from before the chunk to after it, y if not
///                                               null;  `rest`: S is 0;  without `last`: S is not
///                                               needed;  `next` is the chunk that comes then
///   backward(chunk, S, dy, dS, dqt, dkt, g)     S before the chunk, the state after it behind S;
///                                               dS from after it to before; dqt, dkt are added to
///
/// Gradients of q and k are gathered turned, [N][Q]: products with a state then need no transposed
/// state, only dy and v are transposed, which are smaller.

#include <limen/kernel/matrix_state.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Rows t..t + n of head h; the c-th chunk of its segment.
struct HeadChunk {
  Index h, t, n, c;
};

/// Queries and keys of one group in one segment.
template <class Real>
class GroupRows {
 public:
  static constexpr Index Q = 32, chunks = 4, segment = chunks * Q;

  /// `gram`: products of keys with keys as well.  `turned`: keep what backward needs.
  GroupRows(const StateInputs<Real>& x, Index group, bool with_gram, bool turned)
      : N_(x.keys),
        first_(group * x.keys),
        turned_(turned),
        q_(segment * N_),
        k_(segment * N_),
        kt_((turned ? chunks : 1) * N_ * Q),
        qt_(turned ? chunks * N_ * Q : 0),
        scores_(chunks * Q * Q),
        gram_(with_gram ? chunks * Q * Q : 0) {}

  void load(const StateInputs<Real>& x, Index t0, Index rows) {
    using chunk::Part;
    for (Index c = 0; c * Q < rows; ++c) {
      const Index n = std::min(Q, rows - c * Q), whole = chunk::whole<Real>(n);
      Real scale[Q];
      std::fill(scale, scale + n, x.scale);
      chunk::scale_rows<Real>(of_group(x.q, t0 + c * Q, n), scale, {q(c), n, N_, N_});
      chunk::scale_rows<Real>(of_group(x.k, t0 + c * Q, n), nullptr, {k(c), n, N_, N_});
      chunk::transpose<Real>({k(c), n, N_, N_}, kt(c), Q);
      if (turned_) chunk::transpose<Real>({q(c), n, N_, N_}, qt(c), Q);
      const View<Real> keys{kt(c), N_, whole, Q};
      chunk::multiply<Real>(Part::all, {q(c), N_, 1}, keys, {}, {scores(c), n, whole, Q});
      if (gram_.size() > 0) {
        chunk::multiply<Real>(Part::all, {k(c), N_, 1}, keys, {}, {gram(c), n, whole, Q});
      }
    }
  }

  template <class M>
  M of_group(M m, Index t, Index n) const {
    return m.middle_rows(t, n).middle_cols(first_, N_);
  }

  Real* q(Index c) { return q_.data() + c * Q * N_; }  ///< [Q][N]
  Real* k(Index c) { return k_.data() + c * Q * N_; }
  Real* qt(Index c) { return qt_.data() + c * N_ * Q; }  ///< [N][Q]
  Real* kt(Index c) { return kt_.data() + (turned_ ? c * N_ * Q : 0); }
  Real* scores(Index c) { return scores_.data() + c * Q * Q; }  ///< q kᵀ [Q][Q]
  Real* gram(Index c) { return gram_.data() + c * Q * Q; }      ///< k kᵀ

 private:
  const Index N_, first_;
  const bool turned_;
  Buffer<Real> q_, k_, kt_, qt_, scores_, gram_;
};

/// The decays of a head in a chunk.
template <class Real>
struct ChunkDecays {
  static constexpr Index Q = GroupRows<Real>::Q;
  Buffer<Real> gamma{Q * Q};  ///< Γ(i, j) = a_{j+1} ... a_i, zeros above the diagonal
  alignas(64) Real e[Q];      ///< a_1 ... a_i
  const Real* w = nullptr;    ///< Γ(n, j)
  Real all = 1;               ///< e_n

  void set(const StateInputs<Real>& x, const HeadChunk& at) {
    Real a[Q];
    for (Index i = 0; i < at.n; ++i) a[i] = x.a(at.t + i, at.h);
    chunk::decay_matrix(a, at.n, gamma.data(), Q);
    chunk::running_product(a, at.n, e);
    w = gamma.data() + (at.n - 1) * Q;
    all = e[at.n - 1];
  }
  MatrixView<Real> matrix(Index n) { return {gamma.data(), n, chunk::whole<Real>(n), Q}; }
};

/// sum += part, and dot_i += s <rows_i, part_i>; all turned, [N][Q].
template <class Real>
void add_turned(View<Real> part, const Real* rows, Real s, Real* sum, Real* dot) noexcept {
  using V = simd::Vec<Real>;
  for (Index i = 0; i < part.cols; i += simd::lanes<Real>) {
    V along(Real(0));
    for (Index j = 0; j < part.rows; ++j) {
      const V v = simd::load<V>(part.row(j) + i);
      Real* const to = sum + j * part.stride + i;
      simd::store(to, simd::load<V>(to) + v);
      along = simd::fma(v, simd::load<V>(rows + j * part.stride + i), along);
    }
    simd::store(dot + i, simd::fma(V(s), along, simd::load<V>(dot + i)));
  }
}

/// Heads h0..h1 of one group of one sequence.
template <class Real, template <class> class Recurrence>
class GroupHeads {
  using Rows = GroupRows<Real>;
  static constexpr Index Q = Rows::Q, chunks = Rows::chunks;

 public:
  static constexpr Index segment = Rows::segment;
  /// Rows from which chunks are faster than one row after the other.
  static constexpr Index worth_chunks = Recurrence<Real>::worth_chunks;

  static void few_rows(const StateInputs<Real>& x, Index h0, Index h1, Real* state,
                       MatrixView<Real> y) {
    Recurrence<Real>::few_rows(x, h0, h1, state, y);
  }

  GroupHeads(const StateInputs<Real>& x, Index h0, Index h1, bool backward)
      : x_(x),
        h0_(h0),
        h1_(h1),
        rows_(x, h0 / (x.heads / x.groups), Recurrence<Real>::needs_gram, backward),
        recurrence_(x_, rows_, backward) {}

  /// `state` [heads][N][P] of all heads, or null: from rest, its end not kept. `keep(s)`: where to
  /// leave the states of segment s, or null.
  template <class F>
  void forward(Real* state, MatrixView<Real> y, F keep) {
    const Index T = x_.v.rows, size = x_.state_size();
    const bool rest = state == nullptr;
    Buffer<Real> own(rest ? (T > segment ? h1_ - h0_ : 1) * size : 0);
    for (Index t0 = 0; t0 < T; t0 += segment) {
      Real* const kept = t0 > 0 ? keep(t0 / segment) : nullptr;
      rows_.load(x_, t0, std::min(segment, T - t0));
      for (Index h = h0_; h < h1_; ++h) {
        Real* const S = !rest ? state + h * size : own.data() + (T > segment ? h - h0_ : 0) * size;
        if (kept != nullptr) copy(S, size, kept + h * size);
        for_each_chunk(h, t0, [&](const HeadChunk& at) {
          recurrence_.forward(at, after(at), S, rest && at.t == 0, !rest || at.t + at.n < T, &y);
        });
      }
    }
  }

  /// `start(s)`: the states [heads][N][P] that segment s began with, or null for rest.
  /// `dS` [h1 - h0][N][P]: in the gradient of the last states, out that of the first.
  template <class F>
  void backward(F start, View<Real> dy, Real* dS, const StateGradients<Real>& g) {
    const Index T = x_.v.rows, size = x_.state_size(), turned = x_.keys * Q;
    Buffer<Real> states((chunks + 1) * size), dqt(chunks * turned), dkt(chunks * turned);
    for (Index s = (T + segment - 1) / segment - 1; s >= 0; --s) {
      const Index t0 = s * segment;
      rows_.load(x_, t0, std::min(segment, T - t0));
      std::fill(dqt.begin(), dqt.end(), Real(0));
      std::fill(dkt.begin(), dkt.end(), Real(0));
      const Real* const from = start(s);
      for (Index h = h0_; h < h1_; ++h) {
        if (from != nullptr) {
          copy(from + h * size, size, states.data());
        } else {
          std::fill(states.begin(), states.begin() + size, Real(0));
        }
        Index count = 0;
        for_each_chunk(h, t0, [&](const HeadChunk& at) {
          Real* const S = states.data() + at.c * size;
          copy(S, size, S + size);
          recurrence_.forward(at, {}, S + size, from == nullptr && at.c == 0, true, nullptr);
          ++count;
        });
        for (Index c = count - 1; c >= 0; --c) {
          const Index t = t0 + c * Q;
          recurrence_.backward({h, t, std::min(Q, T - t), c}, states.data() + c * size, dy,
                               dS + (h - h0_) * size, dqt.data() + c * turned,
                               dkt.data() + c * turned, g);
        }
      }
      for_each_chunk(h0_, t0, [&](const HeadChunk& at) {
        unpack(dqt.data() + at.c * turned, at, x_.scale, g.dq);
        unpack(dkt.data() + at.c * turned, at, Real(1), g.dk);
      });
    }
  }

 private:
  static void copy(const Real* from, Index n, Real* to) {
    std::memcpy(to, from, sizeof(Real) * static_cast<std::size_t>(n));
  }

  /// f(chunk) for those of the segment at t0.
  template <class F>
  void for_each_chunk(Index h, Index t0, F&& f) {
    const Index end = std::min(x_.v.rows, t0 + segment);
    for (Index t = t0, c = 0; t < end; t += Q, ++c) f(HeadChunk{h, t, std::min(Q, end - t), c});
  }

  /// Which chunk forward comes to next; without rows after the last.
  HeadChunk after(const HeadChunk& at) const {
    const Index T = x_.v.rows, start = at.t - at.c * Q, end = std::min(T, start + segment);
    HeadChunk next{at.h, at.t + Q, 0, 0};
    if (next.t >= end) {
      const bool more = at.h + 1 < h1_;
      next.h = more ? at.h + 1 : h0_;
      next.t = more ? start : end;
    }
    next.n = std::min(Q, T - next.t);
    return next;
  }

  /// From turned back to rows.
  void unpack(const Real* turned, const HeadChunk& at, Real scale, MatrixView<Real> to) {
    const Index N = x_.keys, stride = chunk::whole<Real>(N);
    Real factor[Q];
    std::fill(factor, factor + at.n, scale);
    Buffer<Real> rows(stride * at.n);
    chunk::transpose<Real>({turned, N, at.n, Q}, rows.data(), stride);
    chunk::scale_rows<Real>({rows.data(), at.n, N, stride}, factor, rows_.of_group(to, at.t, at.n));
  }

  const StateInputs<Real> x_;
  const Index h0_, h1_;
  Rows rows_;
  Recurrence<Real> recurrence_;
};

}  // namespace limen::inline LIMEN_ABI::detail
