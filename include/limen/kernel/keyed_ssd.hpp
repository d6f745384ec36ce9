#pragma once
/// @file  Matrix states whose every key decays at a pace of its own, over whole sequences and back.
///
///   S_t = diag(a_t) S_{t-1} + k_t (d_t v_t)ᵀ        y_t = S_tᵀ q_t
///
///   S [H][N][P] (P innermost), q, k, a [T x H N], v, y [T x H P], d [T x H]: each head has its own
///   queries and keys (G = H).
///
/// Inside a chunk of Q rows, with E_ijn = a_{j+1,n} ... a_{i,n} and X = d v:
///
///   Y = M X + (e ∘ q) S,  M_ij = Σ_n q_in k_jn E_ijn      S' = diag(e_Q) S + (w ∘ k)ᵀ X
///
/// The usual way to make M a product, q e^(c) against k e^(-c), overflows where decays are strong.
/// Chunks of 16 rows need no such trick: M is a sixteenth of the work, and its decays are running
/// products, each at most 1. Yang et al., "Gated Linear Attention Transformers with
/// Hardware-Efficient Training", arXiv:2312.06635, section 4.

#include <limen/kernel/keyed_scores.hpp>
#include <limen/kernel/matrix_state.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// One head of one sequence, in chunks.
template <class Real>
class KeyedHeads {
  static constexpr Index Q = keyed_chunk, chunks = 8;

 public:
  static constexpr Index segment = chunks * Q;
  /// Rows from which chunks are faster than one row after the other.
  static constexpr Index worth_chunks = 8;

  static void few_rows(const StateInputs<Real>& x, Index h0, Index h1, Real* state,
                       MatrixView<Real> y) {
    scan_few_rows<true>(x, h0, h1, state, y);
  }

  KeyedHeads(const StateInputs<Real>& x, Index h, Index, bool)
      : x_(x),
        h_(h),
        N_(x.keys),
        P_(x.width),
        W_(chunk::whole<Real>(N_)),
        q_(Q * W_),
        k_(Q * W_),
        a_(Q * W_),
        e_(Q * W_),
        qe_(Q * W_),
        kw_(Q * W_),
        m_(Q * Q),
        xs_(Q * P_),
        y_(Q * P_) {}

  /// `state` [heads][N][P] of all heads, or null: from rest, its end not kept. `keep(s)`: where to
  /// leave the states of segment s, or null.
  template <class F>
  void forward(Real* state, MatrixView<Real> y, F keep) {
    const Index T = x_.v.rows, size = x_.state_size();
    Buffer<Real> own(state == nullptr ? size : 0);
    Real* const S = state == nullptr ? own.data() : state + h_ * size;
    for (Index t = 0; t < T; t += Q) {
      const Index n = std::min(Q, T - t);
      Real* const kept = t > 0 && t % segment == 0 ? keep(t / segment) : nullptr;
      if (kept != nullptr) copy(S, size, kept + h_ * size);
      forward_chunk(t, n, S, state == nullptr && t == 0, state != nullptr || t + n < T, &y);
    }
  }

  /// `start(s)`: the states that segment s began with, or null for rest. `dS` [N][P]: in the
  /// gradient of the last state, out that of the first.
  template <class F>
  void backward(F start, View<Real> dy, Real* dS, const StateGradients<Real>& g) {
    const Index T = x_.v.rows, size = x_.state_size();
    Buffer<Real> states((chunks + 1) * size);
    turned_ = Buffer<Real>(N_ * Q);
    dyt_ = Buffer<Real>(P_ * Q);
    xt_ = Buffer<Real>(P_ * Q);
    dq_ = Buffer<Real>(Q * W_);
    dk_ = Buffer<Real>(Q * W_);
    dm_ = Buffer<Real>(Q * Q);
    for (Index s = (T + segment - 1) / segment - 1; s >= 0; --s) {
      const Index t0 = s * segment, count = (std::min(segment, T - t0) + Q - 1) / Q;
      const Real* const from = start(s);
      if (from != nullptr) {
        copy(from + h_ * size, size, states.data());
      } else {
        std::fill(states.begin(), states.begin() + size, Real(0));
      }
      for (Index c = 0; c < count; ++c) {
        copy(states.data() + c * size, size, states.data() + (c + 1) * size);
        forward_chunk(t0 + c * Q, std::min(Q, T - t0 - c * Q), states.data() + (c + 1) * size,
                      from == nullptr && c == 0, true, nullptr);
      }
      for (Index c = count - 1; c >= 0; --c) {
        backward_chunk(t0 + c * Q, std::min(Q, T - t0 - c * Q), states.data() + c * size, dy, dS,
                       g);
      }
    }
  }

 private:
  /// The rows of the chunk at t, if there is one, and the columns of this head.
  template <class M>
  M of_head(M m, Index t, Index width) const {
    return m.middle_rows(t, std::min(Q, m.rows - t)).middle_cols(h_ * width, width);
  }

  static void copy(const Real* from, Index n, Real* to) {
    std::memcpy(to, from, sizeof(Real) * static_cast<std::size_t>(n));
  }

  /// Q rows without gaps; zeros in those that are not there.
  void load(View<Real> from, Index t, Index n, Index width, const Real* scale, Real* to,
            Index row) const {
    chunk::scale_rows<Real>(of_head(from, t, width), scale, {to, n, width, row});
    std::fill(to + n * row, to + Q * row, Real(0));
  }

  /// q, k, a, X of the chunk; e_i = a_1 ... a_i, e q and w k with w_j = a_{j+1} ... a_n.
  void prepare(Index t, Index n) {
    Real scale[Q];
    std::fill(scale, scale + Q, x_.scale);
    load(x_.q, t, n, N_, scale, q_.data(), W_);
    load(x_.k, t, n, N_, nullptr, k_.data(), W_);
    load(x_.a, t, n, N_, nullptr, a_.data(), W_);
    for (Index i = 0; i < n; ++i) d_[i] = x_.d.data != nullptr ? x_.d(t + i, h_) : Real(1);
    load(x_.v, t, n, P_, d_, xs_.data(), P_);
    simd::for_each<Real>(N_, [&](Index c, auto load, auto store) {
      using V = simd::Vec<Real>;
      V e(Real(1)), w(Real(1));
      for (Index i = 0; i < n; ++i) {
        e = e * load(a_.data() + i * W_ + c);
        store(e_.data() + i * W_ + c, e);
        store(qe_.data() + i * W_ + c, e * load(q_.data() + i * W_ + c));
      }
      for (Index i = n - 1; i >= 0; --i) {
        store(kw_.data() + i * W_ + c, w * load(k_.data() + i * W_ + c));
        w = w * load(a_.data() + i * W_ + c);
      }
    });
  }

  /// Without y only the state moves on. `rest`: S is zero. Without `last`, S need not be right.
  void forward_chunk(Index t, Index n, Real* S, bool rest, bool last, const MatrixView<Real>* y) {
    using chunk::Keep;
    using chunk::Part;
    const MatrixView<Real> state{S, N_, P_, P_}, inter{y_.data(), n, P_, P_};
    prepare(t, n);
    if (y != nullptr) {
      keyed_scores(q_.data(), k_.data(), a_.data(), N_, W_, m_.data());
      if (!rest) {
        chunk::multiply<Real>(Part::all, {qe_.data(), W_, 1}, state, {}, inter,
                              of_head(x_.v, t + n, P_));
      }
      chunk::multiply<Real>(Part::lower, {m_.data(), 1, Q}, {xs_.data(), n, P_, P_},
                            rest ? Keep<Real>{} : Keep<Real>{&chunk::one<Real>, 0, inter.data, P_},
                            of_head(*y, t, P_));
    }
    if (last) {
      chunk::multiply<Real>(Part::all, {kw_.data(), 1, W_}, {xs_.data(), n, P_, P_},
                            rest ? Keep<Real>{} : Keep<Real>{e_.data() + (n - 1) * W_, 1}, state,
                            y != nullptr ? of_head(*y, t + n, P_) : MatrixView<Real>{});
    }
  }

  /// dq_i *= e_i, dk_j *= w_j
  void decay_gradients(Index n) {
    simd::for_each<Real>(N_, [&](Index c, auto load, auto store) {
      simd::Vec<Real> w(Real(1));
      for (Index i = n - 1; i >= 0; --i) {
        Real *dq = dq_.data() + i * W_ + c, *dk = dk_.data() + i * W_ + c;
        store(dq, load(dq) * load(e_.data() + i * W_ + c));
        store(dk, load(dk) * w);
        w = w * load(a_.data() + i * W_ + c);
      }
    });
  }

  /// With S and S' the states before and after, dM = tril(dY Xᵀ):
  ///   dq_i = e_i ∘ (S dY_i) + Σ_j dM_ij k_j ∘ E_ij      dX = Mᵀ dY + (w ∘ k) dS'
  ///   dk_j = w_j ∘ (dS' X_j) + Σ_i dM_ij q_i ∘ E_ij     dS = diag(e_Q) dS' + (e ∘ q)ᵀ dY
  ///   dlog a_t = Σ_{i >= t} (q ∘ dq - k ∘ dk)_i + Σ_p S' ∘ dS'
  void backward_chunk(Index t, Index n, const Real* S, View<Real> dy, Real* dS,
                      const StateGradients<Real>& g) {
    using chunk::Part;
    using V = simd::Vec<Real>;
    const MatrixView<Real> d_state{dS, N_, P_, P_}, d{y_.data(), n, P_, P_};
    const Real* const after = S + x_.state_size();  // the state after this chunk is behind S
    prepare(t, n);
    load(dy, t, n, P_, nullptr, d.data, P_);
    keyed_scores(q_.data(), k_.data(), a_.data(), N_, W_, m_.data());
    chunk::transpose<Real>({xs_.data(), Q, P_, P_}, xt_.data(), Q);
    chunk::transpose<Real>({d.data, Q, P_, P_}, dyt_.data(), Q);
    chunk::multiply<Real>(Part::all, {d.data, P_, 1}, {xt_.data(), P_, Q, Q}, {},
                          {dm_.data(), Q, Q, Q});

    chunk::multiply<Real>(Part::all, {S, P_, 1}, {dyt_.data(), P_, Q, Q}, {},
                          {turned_.data(), N_, Q, Q});
    chunk::transpose<Real>({turned_.data(), N_, Q, Q}, dq_.data(), W_);
    chunk::multiply<Real>(Part::all, {dS, P_, 1}, {xt_.data(), P_, Q, Q}, {},
                          {turned_.data(), N_, Q, Q});
    chunk::transpose<Real>({turned_.data(), N_, Q, Q}, dk_.data(), W_);
    decay_gradients(n);
    keyed_scores_backward(dm_.data(), q_.data(), k_.data(), a_.data(), N_, W_, dq_.data(),
                          dk_.data());

    const MatrixView<Real> dx{xt_.data(), n, P_, P_};
    chunk::multiply<Real>(Part::all, {kw_.data(), W_, 1}, d_state, {}, dx);
    chunk::multiply<Real>(Part::upper, {m_.data(), Q, 1}, d, chunk::add<Real>, dx);
    for (Index j = 0; j < n && g.dd.data != nullptr; ++j) {
      g.dd(t + j, h_) = chunk::dot(x_.v.row(t + j) + h_ * P_, dx.row(j), P_);
    }
    chunk::scale_rows<Real>(dx, d_, of_head(g.dv, t, P_));

    if (g.dlog_a.data != nullptr) {
      for (Index c = 0; c < N_; ++c) turned_[c] = chunk::dot(after + c * P_, dS + c * P_, P_);
      simd::for_each<Real>(N_, [&](Index c, auto load, auto store) {
        V sum = load(turned_.data() + c);
        for (Index i = n - 1; i >= 0; --i) {
          sum = simd::fma(load(q_.data() + i * W_ + c), load(dq_.data() + i * W_ + c), sum);
          sum = simd::fnma(load(k_.data() + i * W_ + c), load(dk_.data() + i * W_ + c), sum);
          store(g.dlog_a.row(t + i) + h_ * N_ + c, sum);
        }
      });
    }
    chunk::multiply<Real>(Part::all, {qe_.data(), 1, W_}, d, {e_.data() + (n - 1) * W_, 1},
                          d_state);
    Real scale[Q];
    std::fill(scale, scale + Q, x_.scale);
    chunk::scale_rows<Real>({dq_.data(), n, N_, W_}, scale, of_head(g.dq, t, N_));
    chunk::scale_rows<Real>({dk_.data(), n, N_, W_}, nullptr, of_head(g.dk, t, N_));
  }

  const StateInputs<Real> x_;
  const Index h_, N_, P_, W_;
  Buffer<Real> q_, k_, a_, e_, qe_, kw_;  ///< [Q][W], N used
  Buffer<Real> m_, dm_;                   ///< [Q][Q], m_ turned
  Buffer<Real> xs_, y_;                   ///< [Q][P]
  Buffer<Real> dyt_, xt_;                 ///< [P][Q]
  Buffer<Real> turned_;                   ///< [N][Q]
  Buffer<Real> dq_, dk_;                  ///< [Q][W]
  alignas(64) Real d_[Q];
};

}  // namespace detail

/// From the states of the batch, leaving the last ones there. `kept`: filled for backward, or null.
template <class Real, class F>
void keyed_ssd(const StateInputs<Real>& x, const Batch<F>& batch, MatrixView<Real> y,
               KeptStates<Real>* kept = nullptr) {
  detail::run_states<detail::KeyedHeads<Real>>(x, batch, y, kept);
}

/// `batch` brings the gradients of the last states and takes those of the first.
template <class Real, class F>
void keyed_ssd_backward(const StateInputs<Real>& x, const Batch<F>& batch,
                        const KeptStates<Real>& kept,
                        std::type_identity_t<MatrixView<const Real>> dy,
                        const StateGradients<Real>& g) {
  detail::run_states_backward<detail::KeyedHeads<Real>>(x, batch, kept, dy, g);
}

/// One row.  Allocates nothing.
template <class Real>
void keyed_ssd_step(const StateInputs<Real>& x, Real* state, Real* y) noexcept {
  for (Index h = 0; h < x.heads; ++h) {
    state_scan<true>(detail::state_scan_job(x, h, state + h * x.state_size(), y, 0, x.keys), 1);
  }
}

}  // namespace limen::inline LIMEN_ABI
