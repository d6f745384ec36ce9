#pragma once
/// @file  Matrix states that decay by one number per head, over whole sequences and back.
///
///   S_t = a_t S_{t-1} + k_t (d_t v_t)ᵀ        y_t = S_tᵀ q_t
///
///   S [H][N][P] (P innermost), q, k [T x G N], v, y [T x H P], a, d [T x H]; head h reads group
///   h / (H / G). Mamba-2: q = C, k = B, v = x, d = Δ, a = exp(Δ A). Retention: a = γ_h, d = 1.
///
/// Inside a chunk of Q rows, with Γ(i, j) = a_{j+1} ... a_i and X = d v:
///
///   Y = (q kᵀ ∘ Γ) X + e (q S),    S' = e_Q S + kᵀ (w X),    e_i = a_1 ... a_i,  w_j = Γ(Q, j)
///
/// three small products instead of Q updates: the work on a row is Q P + 4 N P, so chunks are
/// short. Few rows go one by one: kernel/state_scan.hpp. Dao & Gu, "Transformers are SSMs",
/// arXiv:2405.21060, section 6.

#include <limen/kernel/matrix_state.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

using chunk::Part;

/// Heads h0..h1 of one group of one sequence, in chunks.
template <class Real>
class SsdHeads {
  static constexpr Index Q = 32, chunks = 4;

 public:
  static constexpr Index segment = chunks * Q;
  /// Rows from which chunks are faster than one row after the other.
  static constexpr Index worth_chunks = 8;

  static void few_rows(const StateInputs<Real>& x, Index h0, Index h1, Real* state,
                       MatrixView<Real> y) {
    scan_few_rows<false>(x, h0, h1, state, y);
  }

  SsdHeads(const StateInputs<Real>& x, Index h0, Index h1, bool backward)
      : x_(x),
        h0_(h0),
        h1_(h1),
        N_(x.keys),
        P_(x.width),
        group_(h0 / (x.heads / x.groups)),
        q_(segment * N_),
        k_(segment * N_),
        kt_((backward ? chunks : 1) * N_ * Q),
        qt_(backward ? chunks * N_ * Q : 0),
        scores_(chunks * Q * Q),
        gamma_(Q * Q),
        m_(Q * Q),
        xs_(Q * P_),
        xw_(Q * P_),
        part_(Q * std::max(P_, N_)) {}

  /// `state` [heads][N][P] of all heads, or null: from rest, its end not kept. `keep(s)`: where to
  /// leave the states of segment s, or null.
  template <class F>
  void forward(Real* state, MatrixView<Real> y, F keep) {
    const Index T = x_.v.rows, size = x_.state_size();
    const bool rest = state == nullptr;
    Buffer<Real> own(rest ? (T > segment ? h1_ - h0_ : 1) * size : 0);
    for (Index t0 = 0; t0 < T; t0 += segment) {
      const Index rows = std::min(segment, T - t0);
      Real* const kept = t0 > 0 ? keep(t0 / segment) : nullptr;
      share(t0, rows, false);
      for (Index h = h0_; h < h1_; ++h) {
        Real* const S = !rest ? state + h * size : own.data() + (T > segment ? h - h0_ : 0) * size;
        if (kept != nullptr) copy(S, size, kept + h * size);
        for (Index c = 0; c * Q < rows; ++c) {
          const Index t = t0 + c * Q, n = std::min(Q, T - t);
          forward_chunk(h, t, n, c, S, rest && t == 0, !rest || t + n < T, &y);
        }
      }
    }
  }

  /// `start(s)`: the states [H][N][P] that segment s began with, or null for rest. `dS` [H][N][P]:
  /// in the gradient of the last states, out that of the first.
  template <class F>
  void backward(F start, View<Real> dy, Real* dS, const StateGradients<Real>& g) {
    const Index T = x_.v.rows, size = x_.state_size();
    Buffer<Real> states((chunks + 1) * size), dqt(chunks * N_ * Q), dkt(chunks * N_ * Q);
    part_ = Buffer<Real>(std::max(N_ * Q, Q * P_));
    dy_ = Buffer<Real>(Q * P_);
    dyt_ = Buffer<Real>(P_ * Q);
    xt_ = Buffer<Real>(P_ * Q);
    zt_ = Buffer<Real>(Q * Q);
    for (Index s = (T + segment - 1) / segment - 1; s >= 0; --s) {
      const Index t0 = s * segment, rows = std::min(segment, T - t0);
      const Index count = (rows + Q - 1) / Q;
      share(t0, rows, true);
      std::fill(dqt.begin(), dqt.end(), Real(0));
      std::fill(dkt.begin(), dkt.end(), Real(0));
      const Real* const from = start(s);
      for (Index h = h0_; h < h1_; ++h) {
        if (from != nullptr) {
          copy(from + h * size, size, states.data());
        } else {
          std::fill(states.begin(), states.begin() + size, Real(0));
        }
        for (Index c = 0; c < count; ++c) {
          copy(states.data() + c * size, size, states.data() + (c + 1) * size);
          const Index t = t0 + c * Q;
          forward_chunk(h, t, std::min(Q, T - t), c, states.data() + (c + 1) * size,
                        from == nullptr && c == 0, true, nullptr);
        }
        for (Index c = count - 1; c >= 0; --c) {
          const Index t = t0 + c * Q;
          backward_chunk(h, t, std::min(Q, T - t), c, states.data() + c * size, dy,
                         dS + (h - h0_) * size, dqt.data() + c * N_ * Q, dkt.data() + c * N_ * Q,
                         g);
        }
      }
      for (Index c = 0; c < count; ++c) {
        const Index t = t0 + c * Q, n = std::min(Q, T - t);
        unpack(dqt.data() + c * N_ * Q, n, x_.scale, group_rows(g.dq, t, n));
        unpack(dkt.data() + c * N_ * Q, n, Real(1), group_rows(g.dk, t, n));
      }
    }
  }

 private:
  static void copy(const Real* from, Index n, Real* to) {
    std::memcpy(to, from, sizeof(Real) * static_cast<std::size_t>(n));
  }
  template <class M>
  M group_rows(M m, Index t, Index n) const {
    return m.middle_rows(t, n).middle_cols(group_ * N_, N_);
  }

  /// What the heads share: q and k without gaps, and their products.
  void share(Index t0, Index rows, bool backward) {
    for (Index c = 0; c * Q < rows; ++c) {
      const Index t = c * Q, n = std::min(Q, rows - t);
      const MatrixView<Real> q{q_.data() + t * N_, n, N_, N_}, k{k_.data() + t * N_, n, N_, N_};
      Real scale[Q];
      std::fill(scale, scale + n, x_.scale);
      chunk::scale_rows<Real>(group_rows(x_.q, t0 + t, n), scale, q);
      chunk::scale_rows<Real>(group_rows(x_.k, t0 + t, n), nullptr, k);
      Real* const kt = kt_.data() + (backward ? c * N_ * Q : 0);
      chunk::transpose<Real>(k, kt, Q);
      if (backward) chunk::transpose<Real>(q, qt_.data() + c * N_ * Q, Q);
      chunk::multiply<Real>(Part::all, {q.data, N_, 1}, {kt, N_, chunk::whole<Real>(n), Q}, {},
                            {scores_.data() + c * Q * Q, n, chunk::whole<Real>(n), Q});
    }
  }

  /// a, Γ, e, w of the chunk.
  void decays(Index h, Index t, Index n) {
    for (Index i = 0; i < n; ++i) a_[i] = x_.a(t + i, h);
    chunk::decay_matrix(a_, n, gamma_.data(), Q);
    chunk::running_product(a_, n, e_);
    w_ = gamma_.data() + (n - 1) * Q;
  }

  /// X = d v and w X
  void writes(Index h, Index t, Index n) {
    const auto v = x_.v.middle_rows(t, n).middle_cols(h * P_, P_);
    for (Index i = 0; i < n; ++i) d_[i] = x_.d.data != nullptr ? x_.d(t + i, h) : Real(1);
    chunk::scale_rows<Real>(v, d_, {xs_.data(), n, P_, P_});
    chunk::scale_rows<Real>({xs_.data(), n, P_, P_}, w_, {xw_.data(), n, P_, P_});
  }

  /// Without y only the state moves on. `rest`: S is zero. Without `last`, S need not be right.
  void forward_chunk(Index h, Index t, Index n, Index c, Real* S, bool rest, bool last,
                     const MatrixView<Real>* y) {
    const Real *q = q_.data() + c * Q * N_, *k = k_.data() + c * Q * N_;
    const MatrixView<Real> state{S, N_, P_, P_};
    decays(h, t, n);
    writes(h, t, n);
    if (y != nullptr) {
      const auto to = y->middle_rows(t, n).middle_cols(h * P_, P_);
      const MatrixView<Real> inter{part_.data(), n, P_, P_};
      const Index whole = chunk::whole<Real>(n);
      chunk::multiply_elements<Real>({scores_.data() + c * Q * Q, n, whole, Q},
                                     {gamma_.data(), n, whole, Q}, {m_.data(), n, whole, Q});
      if (!rest) chunk::multiply<Real>(Part::all, {q, N_, 1}, state, {}, inter);
      chunk::multiply<Real>(Part::lower, {m_.data(), Q, 1}, {xs_.data(), n, P_, P_},
                            rest ? chunk::Keep<Real>{} : chunk::Keep<Real>{e_, 1, inter.data, P_},
                            to);
    }
    if (last) {
      chunk::multiply<Real>(Part::all, {k, 1, N_}, {xw_.data(), n, P_, P_},
                            rest ? chunk::Keep<Real>{} : chunk::Keep<Real>{e_ + n - 1, 0}, state);
    }
  }

  /// With Z = tril(dY Xᵀ) ∘ Γ, M = q kᵀ ∘ Γ and S, S' the states before and after:
  ///   dq = Z k + e dY Sᵀ         dX = Mᵀ dY + w k dS'        dS = e_Q dS' + qᵀ (e dY)
  ///   dk = Zᵀ q + w X dS'ᵀ       dv = d dX,  dd = <v, dX>
  ///   dlog a_t = Σ_{i >= t} (<q, dq>_i - <k, dk>_i) + <S', dS'>
  /// dq and dk are gathered turned, rows as lanes: so only dY and X are transposed, never a state.
  void backward_chunk(Index h, Index t, Index n, Index c, const Real* S, View<Real> dy, Real* dS,
                      Real* dqt, Real* dkt, const StateGradients<Real>& g) {
    const Index whole = chunk::whole<Real>(n), size = x_.state_size();
    const Real *q = q_.data() + c * Q * N_, *k = k_.data() + c * Q * N_;
    const MatrixView<Real> d_state{dS, N_, P_, P_}, turned{part_.data(), N_, whole, Q};
    const MatrixView<Real> d{dy_.data(), n, P_, P_}, m{m_.data(), n, whole, Q};
    const View<Real> from = dy.middle_rows(t, n).middle_cols(h * P_, P_);
    decays(h, t, n);
    writes(h, t, n);
    const Real state_dot =
        chunk::dot(S + size, dS, size);  // the state after this chunk is behind S

    chunk::scale_rows<Real>(from, nullptr, d);
    chunk::multiply_elements<Real>({scores_.data() + c * Q * Q, n, whole, Q},
                                   {gamma_.data(), n, whole, Q}, m);
    const MatrixView<Real> dx{part_.data(), n, P_, P_};
    chunk::multiply<Real>(Part::all, {k, N_, 1}, d_state, {}, dx);
    chunk::multiply<Real>(Part::upper, {m.data, 1, Q}, d, {w_, 1}, dx);
    for (Index j = 0; j < n; ++j) {
      const Real* v = x_.v.row(t + j) + h * P_;
      if (g.dd.data != nullptr) g.dd(t + j, h) = chunk::dot(v, dx.row(j), P_);
    }
    chunk::scale_rows<Real>(dx, d_, g.dv.middle_rows(t, n).middle_cols(h * P_, P_));

    chunk::transpose<Real>({xs_.data(), n, P_, P_}, xt_.data(), Q);
    chunk::multiply<Real>(Part::all, {d.data, P_, 1}, {xt_.data(), P_, whole, Q}, {}, m);
    chunk::multiply_elements<Real>(m, {gamma_.data(), n, whole, Q}, m);  // Z
    chunk::transpose<Real>({m.data, n, n, Q}, zt_.data(), Q);
    chunk::scale_rows<Real>(from, e_, d);  // e dY
    chunk::transpose<Real>(d, dyt_.data(), Q);
    chunk::multiply<Real>(Part::all, {S, P_, 1}, {dyt_.data(), P_, whole, Q}, {}, turned);
    chunk::multiply<Real>(Part::all, {k, 1, N_}, {zt_.data(), n, whole, Q}, chunk::add<Real>,
                          turned);
    alignas(64) Real dot[Q] = {};
    add_turned(turned, qt_.data() + c * N_ * Q, dqt, dot, true);

    chunk::transpose<Real>({xw_.data(), n, P_, P_}, xt_.data(), Q);
    chunk::multiply<Real>(Part::all, {dS, P_, 1}, {xt_.data(), P_, whole, Q}, {}, turned);
    chunk::multiply<Real>(Part::all, {q, 1, N_}, {m.data, n, whole, Q}, chunk::add<Real>, turned);
    add_turned(turned, kt_.data() + c * N_ * Q, dkt, dot, false);

    chunk::multiply<Real>(Part::all, {q, 1, N_}, d, {e_ + n - 1, 0}, d_state);
    if (g.dlog_a.data != nullptr) {
      Real sum = state_dot;
      for (Index i = n - 1; i >= 0; --i) g.dlog_a(t + i, h) = sum += dot[i];
    }
  }

  /// sum += part, and dot_i ± <rows_i, part_i>; all turned.
  void add_turned(View<Real> part, const Real* rows, Real* sum, Real* dot, bool plus) {
    using V = simd::Vec<Real>;
    for (Index i = 0; i < part.cols; i += simd::lanes<Real>) {
      V along(Real(0));
      for (Index j = 0; j < N_; ++j) {
        const V v = simd::load<V>(part.row(j) + i);
        Real* const to = sum + j * Q + i;
        simd::store(to, simd::load<V>(to) + v);
        along = simd::fma(v, simd::load<V>(rows + j * Q + i), along);
      }
      const V before = simd::load<V>(dot + i);
      simd::store(dot + i, plus ? before + along : before - along);
    }
  }

  /// Back to rows.
  void unpack(const Real* turned, Index n, Real scale, MatrixView<Real> to) {
    Real factor[Q];
    std::fill(factor, factor + n, scale);
    Buffer<Real> rows(chunk::whole<Real>(N_) * n);
    const Index stride = chunk::whole<Real>(N_);
    chunk::transpose<Real>({turned, N_, n, Q}, rows.data(), stride);
    chunk::scale_rows<Real>({rows.data(), n, N_, stride}, factor, to);
  }

  const StateInputs<Real> x_;
  const Index h0_, h1_, N_, P_, group_;
  Buffer<Real> q_, k_;      ///< [segment][N]
  Buffer<Real> kt_, qt_;    ///< [chunks][N][Q]
  Buffer<Real> scores_;     ///< [chunks][Q][Q]
  Buffer<Real> gamma_, m_;  ///< [Q][Q]
  Buffer<Real> xs_, xw_;    ///< [Q][P]
  Buffer<Real> part_;       ///< [Q][P] or [N][Q]
  Buffer<Real> dy_, dyt_, xt_, zt_;
  alignas(64) Real a_[Q], e_[Q], d_[Q];
  const Real* w_ = nullptr;
};

}  // namespace detail

/// From the states of the batch, leaving the last ones there. `kept`: filled for backward, or null.
template <class Real, class F>
void ssd(const StateInputs<Real>& x, const Batch<F>& batch, MatrixView<Real> y,
         KeptStates<Real>* kept = nullptr) {
  detail::run_states<detail::SsdHeads<Real>>(x, batch, y, kept);
}

/// `batch` brings the gradients of the last states and takes those of the first.
template <class Real, class F>
void ssd_backward(const StateInputs<Real>& x, const Batch<F>& batch, const KeptStates<Real>& kept,
                  std::type_identity_t<MatrixView<const Real>> dy, const StateGradients<Real>& g) {
  detail::run_states_backward<detail::SsdHeads<Real>>(x, batch, kept, dy, g);
}

/// One row.  Allocates nothing.
template <class Real>
void ssd_step(const StateInputs<Real>& x, Real* state, Real* y) noexcept {
  for (Index h = 0; h < x.heads; ++h) {
    state_scan<false>(detail::state_scan_job(x, h, state + h * x.state_size(), y, 0, 1), 1);
  }
}

}  // namespace limen::inline LIMEN_ABI
