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

#include <limen/kernel/group_chunks.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

template <class Real>
class SsdChunk {
  using Rows = GroupRows<Real>;
  static constexpr Index Q = Rows::Q;

 public:
  static constexpr Index worth_chunks = 8;
  static constexpr bool needs_gram = false;

  static void few_rows(const StateInputs<Real>& x, Index h0, Index h1, Real* state,
                       MatrixView<Real> y) {
    scan_few_rows<false>(x, h0, h1, state, y);
  }

  SsdChunk(const StateInputs<Real>& x, Rows& rows, bool backward)
      : x_(x),
        rows_(rows),
        N_(x.keys),
        P_(x.width),
        m_(Q * Q),
        xs_(Q * P_),
        xw_(Q * P_),
        part_(Q * (backward ? std::max(N_, P_) : P_)),
        d_(backward ? Q * P_ : 0),
        dt_(backward ? Q * P_ : 0),
        xt_(backward ? Q * P_ : 0),
        zt_(backward ? Q * Q : 0) {}

  void forward(const HeadChunk& at, const HeadChunk& next, Real* S, bool rest, bool last,
               const MatrixView<Real>* y) {
    using chunk::Keep;
    using chunk::Part;
    const Index n = at.n;
    const MatrixView<Real> state{S, N_, P_, P_}, inter{part_.data(), n, P_, P_};
    prepare(at);
    if (y != nullptr) {
      mask_scores(at);
      if (!rest) {
        chunk::multiply<Real>(Part::all, {rows_.q(at.c), N_, 1}, state, {}, inter,
                              of_head(x_.v, next));
      }
      chunk::multiply<Real>(Part::lower, {m_.data(), Q, 1}, {xs_.data(), n, P_, P_},
                            rest ? Keep<Real>{} : Keep<Real>{decays_.e, 1, inter.data, P_},
                            of_head(*y, at));
    }
    if (last) {
      chunk::multiply<Real>(Part::all, {rows_.k(at.c), 1, N_}, {xw_.data(), n, P_, P_},
                            rest ? Keep<Real>{} : Keep<Real>{&decays_.all, 0}, state,
                            y != nullptr ? of_head(*y, next) : MatrixView<Real>{});
    }
  }

  /// With Z = tril(dY Xᵀ) ∘ Γ, M = q kᵀ ∘ Γ and S, S' the states before and after:
  ///   dq = Z k + e dY Sᵀ         dX = Mᵀ dY + w k dS'        dS = e_Q dS' + qᵀ (e dY)
  ///   dk = Zᵀ q + w X dS'ᵀ       dv = d dX,  dd = <v, dX>
  ///   dlog a_t = Σ_{i >= t} (<q, dq>_i - <k, dk>_i) + <S', dS'>
  void backward(const HeadChunk& at, const Real* S, View<Real> dy, Real* dS, Real* dqt, Real* dkt,
                const StateGradients<Real>& g) {
    using chunk::Part;
    const Index n = at.n, whole = chunk::whole<Real>(n), size = N_ * P_;
    const Real *q = rows_.q(at.c), *k = rows_.k(at.c);
    const MatrixView<Real> d_state{dS, N_, P_, P_}, d{d_.data(), n, P_, P_},
        m{m_.data(), n, whole, Q};
    const View<Real> turned_d{dt_.data(), P_, whole, Q}, turned_x{xt_.data(), P_, whole, Q};
    const Real state_dot = chunk::dot(S + size, dS, size);
    prepare(at);
    mask_scores(at);
    chunk::scale_rows<Real>(of_head(dy, at), nullptr, d);

    const MatrixView<Real> dx{part_.data(), n, P_, P_};
    chunk::multiply<Real>(Part::all, {k, N_, 1}, d_state, {}, dx);
    chunk::multiply<Real>(Part::upper, {m.data, 1, Q}, d, {decays_.w, 1}, dx);
    for (Index j = 0; j < n && g.dd.data != nullptr; ++j) {
      g.dd(at.t + j, at.h) = chunk::dot(x_.v.row(at.t + j) + at.h * P_, dx.row(j), P_);
    }
    chunk::scale_rows<Real>(dx, strength_, of_head(g.dv, at));

    chunk::transpose<Real>({xs_.data(), n, P_, P_}, xt_.data(), Q);
    chunk::multiply<Real>(Part::all, {d.data, P_, 1}, turned_x, {}, m);
    chunk::multiply_elements<Real>(m, decays_.matrix(n), m);  // Z
    chunk::transpose<Real>({m.data, n, n, Q}, zt_.data(), Q);
    chunk::scale_rows<Real>(of_head(dy, at), decays_.e, d);  // e dY
    chunk::transpose<Real>(d, dt_.data(), Q);

    const MatrixView<Real> part{part_.data(), N_, whole, Q};
    alignas(64) Real dot[Q] = {};
    chunk::multiply<Real>(Part::all, {S, P_, 1}, turned_d, {}, part);
    chunk::multiply<Real>(Part::all, {k, 1, N_}, {zt_.data(), n, whole, Q}, chunk::add<Real>, part);
    add_turned<Real>(part, rows_.qt(at.c), 1, dqt, dot);
    chunk::transpose<Real>({xw_.data(), n, P_, P_}, xt_.data(), Q);
    chunk::multiply<Real>(Part::all, {dS, P_, 1}, turned_x, {}, part);
    chunk::multiply<Real>(Part::all, {q, 1, N_}, m, chunk::add<Real>, part);
    add_turned<Real>(part, rows_.kt(at.c), -1, dkt, dot);

    chunk::multiply<Real>(Part::all, {q, 1, N_}, d, {&decays_.all, 0}, d_state);
    if (g.dlog_a.data != nullptr) {
      Real sum = state_dot;
      for (Index i = n - 1; i >= 0; --i) g.dlog_a(at.t + i, at.h) = sum += dot[i];
    }
  }

 private:
  template <class M>
  M of_head(M m, const HeadChunk& at) const {
    return m.middle_rows(at.t, at.n).middle_cols(at.h * P_, P_);
  }

  /// Γ and what comes with it, X = d v, w X.
  void prepare(const HeadChunk& at) {
    const MatrixView<Real> xs{xs_.data(), at.n, P_, P_};
    decays_.set(x_, at);
    for (Index i = 0; i < at.n; ++i) {
      strength_[i] = x_.d.data != nullptr ? x_.d(at.t + i, at.h) : Real(1);
    }
    chunk::scale_rows<Real>(of_head(x_.v, at), strength_, xs);
    chunk::scale_rows<Real>(xs, decays_.w, {xw_.data(), at.n, P_, P_});
  }

  /// M = q kᵀ ∘ Γ
  void mask_scores(const HeadChunk& at) {
    const Index whole = chunk::whole<Real>(at.n);
    chunk::multiply_elements<Real>({rows_.scores(at.c), at.n, whole, Q}, decays_.matrix(at.n),
                                   {m_.data(), at.n, whole, Q});
  }

  const StateInputs<Real>& x_;
  Rows& rows_;
  const Index N_, P_;
  ChunkDecays<Real> decays_;
  alignas(64) Real strength_[Q];  ///< d
  Buffer<Real> m_;                ///< [Q][Q]
  Buffer<Real> xs_, xw_;          ///< [Q][P]
  Buffer<Real> part_;             ///< [Q][P] or [N][Q]
  Buffer<Real> d_, dt_, xt_, zt_;
};

}  // namespace detail

/// From the states of the batch, leaving the last ones there. `kept`: filled for backward, or null.
template <class Real, class F>
void ssd(const StateInputs<Real>& x, const Batch<F>& batch, MatrixView<Real> y,
         KeptStates<Real>* kept = nullptr) {
  detail::run_states<detail::GroupHeads<Real, detail::SsdChunk>>(x, batch, y, kept);
}

/// `batch` brings the gradients of the last states and takes those of the first.
template <class Real, class F>
void ssd_backward(const StateInputs<Real>& x, const Batch<F>& batch, const KeptStates<Real>& kept,
                  std::type_identity_t<MatrixView<const Real>> dy, const StateGradients<Real>& g) {
  detail::run_states_backward<detail::GroupHeads<Real, detail::SsdChunk>>(x, batch, kept, dy, g);
}

/// One row.  Allocates nothing.
template <class Real>
void ssd_step(const StateInputs<Real>& x, Real* state, Real* y) noexcept {
  for (Index h = 0; h < x.heads; ++h) {
    state_scan<false>(detail::state_scan_job(x, h, state + h * x.state_size(), y, 0, 1), 1);
  }
}

}  // namespace limen::inline LIMEN_ABI
