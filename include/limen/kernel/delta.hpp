#pragma once
/// @file  The delta rule: a matrix state that overwrites, over whole sequences and back.
///
///   u_t = d_t (v_t - (a_t S_{t-1})ᵀ k_t)        S_t = a_t S_{t-1} + k_t u_tᵀ        y_t = S_tᵀ q_t
///
///   S [H][N][P] (P innermost), q, k [T x G N], v, y [T x H P], a, d [T x H]; head h reads group
///   h / (H / G). d is how much of what the key finds is replaced, a what is kept of all the rest.
///
/// Inside a chunk of Q rows, with Γ(i, j) = a_{j+1} ... a_i, e_i = a_1 ... a_i, w_j = Γ(Q, j):
///
///   (I + A) U = d (V - e (K S)),  A = slow(d K Kᵀ ∘ Γ)        one triangular solve
///   Y = (q kᵀ ∘ Γ) U + e (q S),   S' = e_Q S + Kᵀ (w U)       then as kernel/ssd.hpp
///
/// Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
/// arXiv:2406.06484, section 3, which solves for the part of U that needs no state and for the part
/// that does: that serves machines that run chunks at the same time. One after the other needs one
/// solve. With decays: Yang et al., "Gated Delta Networks", arXiv:2412.06464.

#include <limen/kernel/delta_scan.hpp>
#include <limen/kernel/group_chunks.hpp>
#include <limen/kernel/triangular_solve.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

template <class Real>
class DeltaChunk {
  using Rows = GroupRows<Real>;
  static constexpr Index Q = Rows::Q;

 public:
  static constexpr Index worth_chunks = 8;
  static constexpr bool needs_gram = true;

  static void few_rows(const StateInputs<Real>& x, Index h0, Index h1, Real* state,
                       MatrixView<Real> y) {
    if (y.rows == 0) return;
    const Index size = x.state_size();
    Buffer<Real> rest(state == nullptr ? size : 0);
    for (Index h = h0; h < h1; ++h) {
      std::fill(rest.begin(), rest.end(), Real(0));
      Real* const S = state == nullptr ? rest.data() : state + h * size;
      delta_scan(state_scan_job(x, h, S, y.data, y.stride, 1), y.rows);
    }
  }

  DeltaChunk(const StateInputs<Real>& x, Rows& rows, bool backward)
      : x_(x),
        rows_(rows),
        N_(x.keys),
        P_(x.width),
        m_(Q * Q),
        a_(Q * Q),
        u_((backward ? Rows::chunks : 1) * Q * P_),
        missing_(u_.size()),
        part_(Q * (backward ? std::max(N_, P_) : P_)),
        d_(backward ? Q * P_ : 0),
        du_(backward ? Q * P_ : 0),
        turned_(backward ? Q * P_ : 0),
        f_(backward ? Q * Q : 0),
        ft_(backward ? Q * Q : 0),
        keep_u_(backward) {}

  void forward(const HeadChunk& at, const HeadChunk& next, Real* S, bool rest, bool last,
               const MatrixView<Real>* y) {
    using chunk::Keep;
    using chunk::Part;
    const Index n = at.n;
    const Real *q = rows_.q(at.c), *k = rows_.k(at.c);
    const MatrixView<Real> state{S, N_, P_, P_}, part{part_.data(), n, P_, P_};
    const MatrixView<Real> u = written(at), missing{u_at(missing_, at), n, P_, P_};
    prepare(at);
    if (rest) {
      chunk::scale_rows<Real>(of_head(x_.v, at), nullptr, missing);
    } else {
      chunk::multiply<Real>(Part::all, {k, N_, 1}, state, {}, part, of_head(x_.v, next));
      subtract_rows(of_head(x_.v, at), part, decays_.e, missing);
    }
    chunk::scale_rows<Real>(missing, strength_, u);
    chunk::solve_unit_lower<Real>(a_.data(), Q, u);
    if (y != nullptr) {
      mask_scores(at);
      if (!rest) chunk::multiply<Real>(Part::all, {q, N_, 1}, state, {}, part);
      chunk::multiply<Real>(Part::lower, {m_.data(), Q, 1}, u,
                            rest ? Keep<Real>{} : Keep<Real>{decays_.e, 1, part.data, P_},
                            of_head(*y, at));
    }
    if (last) {
      chunk::scale_rows<Real>(u, decays_.w, part);
      chunk::multiply<Real>(Part::all, {k, 1, N_}, part,
                            rest ? Keep<Real>{} : Keep<Real>{&decays_.all, 0}, state,
                            y != nullptr ? of_head(*y, next) : MatrixView<Real>{});
    }
  }

  /// With R = d (V - e (K S)), M = q kᵀ ∘ Γ, and S, S' the states before and after:
  ///   dU = Mᵀ dY + w K dS'              dR = (I + A)^-T dU            dV = d dR
  ///   F = tril(dY Uᵀ) ∘ Γ               J = -slow(dR Uᵀ) ∘ d Γ
  ///   dq = F K + e dY Sᵀ                dk = Fᵀ q + (J + Jᵀ) K - d e dR Sᵀ + w U dS'ᵀ
  ///   dd_i = Σ_j J_ij (k kᵀ)_ij / d_i + <dR_i, (V - e (K S))_i>
  ///   dS = e_Q dS' + qᵀ (e dY) - Kᵀ (d e dR)
  ///   dlog a_t = Σ_{i >= t} (<q, dq> - <k, dk> + 2 d (dd - <dR, v>))_i + <S', dS'>
  void backward(const HeadChunk& at, const Real* S, View<Real> dy, Real* dS, Real* dqt, Real* dkt,
                const StateGradients<Real>& g) {
    using chunk::Part;
    const Index n = at.n, whole = chunk::whole<Real>(n), size = N_ * P_;
    const Real *q = rows_.q(at.c), *k = rows_.k(at.c);
    const MatrixView<Real> d_state{dS, N_, P_, P_}, d{d_.data(), n, P_, P_};
    const MatrixView<Real> dr{du_.data(), n, P_, P_}, u = written(at);
    const MatrixView<Real> m{m_.data(), n, whole, Q}, f{f_.data(), n, whole, Q};
    const View<Real> turned{turned_.data(), P_, whole, Q};
    const Real state_dot = chunk::dot(S + size, dS, size);
    prepare(at);
    mask_scores(at);
    chunk::scale_rows<Real>(of_head(dy, at), nullptr, d);

    chunk::multiply<Real>(Part::all, {k, N_, 1}, d_state, {}, dr);
    chunk::multiply<Real>(Part::upper, {m.data, 1, Q}, d, {decays_.w, 1}, dr);
    chunk::solve_unit_lower_transposed<Real>(a_.data(), Q, dr);
    chunk::scale_rows<Real>(dr, strength_, of_head(g.dv, at));

    chunk::transpose<Real>(u, turned_.data(), Q);
    chunk::multiply<Real>(Part::all, {d.data, P_, 1}, turned, {}, f);
    chunk::multiply_elements<Real>(f, decays_.matrix(n), f);  // F
    chunk::multiply<Real>(Part::all, {dr.data, P_, 1}, turned, {}, m);
    chunk::multiply_elements<Real>(m, decays_.matrix(n), m);  // -J / d, and its diagonal
    alignas(64) Real dot[Q] = {};
    for (Index i = 0; i < n; ++i) {
      m(i, i) = 0;
      const Real* v = x_.v.row(at.t + i) + at.h * P_;
      const Real beta = strength_[i];
      const Real dd = chunk::dot(dr.row(i), u_at(missing_, at) + i * P_, P_) -
                      chunk::dot(m.row(i), rows_.gram(at.c) + i * Q, whole);
      if (g.dd.data != nullptr) g.dd(at.t + i, at.h) = dd;
      dot[i] = 2 * beta * (dd - chunk::dot(dr.row(i), v, P_));
      strength_e_[i] = -beta * decays_.e[i];
      negative_[i] = -beta;
    }
    chunk::scale_rows<Real>(m, negative_, m);  // J

    const MatrixView<Real> part{part_.data(), N_, whole, Q};
    chunk::scale_rows<Real>(d, decays_.e, d);  // e dY
    chunk::transpose<Real>(d, turned_.data(), Q);
    chunk::transpose<Real>({f.data, n, n, Q}, ft_.data(), Q);
    chunk::multiply<Real>(Part::all, {S, P_, 1}, turned, {}, part);
    chunk::multiply<Real>(Part::all, {k, 1, N_}, {ft_.data(), n, whole, Q}, chunk::add<Real>, part);
    add_turned<Real>(part, rows_.qt(at.c), 1, dqt, dot);

    chunk::transpose<Real>({m.data, n, n, Q}, ft_.data(), Q);
    add_elements({ft_.data(), n, whole, Q}, m);  // J + Jᵀ
    const MatrixView<Real> wu{part_.data(), n, P_, P_};
    chunk::scale_rows<Real>(u, decays_.w, wu);
    chunk::transpose<Real>(wu, turned_.data(), Q);
    chunk::scale_rows<Real>(dr, strength_e_, dr);  // -d e dR
    chunk::multiply<Real>(Part::all, {dS, P_, 1}, turned, {}, part);
    chunk::transpose<Real>(dr, turned_.data(), Q);
    chunk::multiply<Real>(Part::all, {S, P_, 1}, turned, chunk::add<Real>, part);
    chunk::multiply<Real>(Part::all, {k, 1, N_}, m, chunk::add<Real>, part);
    chunk::multiply<Real>(Part::all, {q, 1, N_}, f, chunk::add<Real>, part);
    add_turned<Real>(part, rows_.kt(at.c), -1, dkt, dot);

    chunk::multiply<Real>(Part::all, {q, 1, N_}, d, {&decays_.all, 0}, d_state);
    chunk::multiply<Real>(Part::all, {k, 1, N_}, dr, chunk::add<Real>, d_state);
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
  Real* u_at(Buffer<Real>& of, const HeadChunk& at) const {
    return of.data() + (keep_u_ ? at.c * Q * P_ : 0);
  }
  /// U
  MatrixView<Real> written(const HeadChunk& at) { return {u_at(u_, at), at.n, P_, P_}; }

  /// Γ and what comes with it, d, and -A.
  void prepare(const HeadChunk& at) {
    const Index n = at.n, whole = chunk::whole<Real>(n);
    decays_.set(x_, at);
    for (Index i = 0; i < n; ++i) {
      strength_[i] = x_.d(at.t + i, at.h);
      negative_[i] = -strength_[i];
    }
    const MatrixView<Real> a{a_.data(), n, whole, Q};
    chunk::multiply_elements<Real>({rows_.gram(at.c), n, whole, Q}, decays_.matrix(n), a);
    chunk::scale_rows<Real>(a, negative_, a);
  }

  /// M = q kᵀ ∘ Γ
  void mask_scores(const HeadChunk& at) {
    const Index whole = chunk::whole<Real>(at.n);
    chunk::multiply_elements<Real>({rows_.scores(at.c), at.n, whole, Q}, decays_.matrix(at.n),
                                   {m_.data(), at.n, whole, Q});
  }

  /// to = v - e x
  static void subtract_rows(View<Real> v, View<Real> x, const Real* e, MatrixView<Real> to) {
    using V = simd::Vec<Real>;
    for (Index r = 0; r < v.rows; ++r) {
      const Real *vr = v.row(r), *xr = x.row(r);
      Real* out = to.row(r);
      simd::for_each<Real>(v.cols, [&](Index i, auto load, auto store) {
        store(out + i, simd::fnma(V(e[r]), load(xr + i), load(vr + i)));
      });
    }
  }

  /// y += x
  static void add_elements(View<Real> x, MatrixView<Real> y) {
    for (Index r = 0; r < y.rows; ++r) {
      const Real* from = x.row(r);
      Real* to = y.row(r);
      simd::for_each<Real>(y.cols, [&](Index i, auto load, auto store) {
        store(to + i, load(to + i) + load(from + i));
      });
    }
  }

  const StateInputs<Real>& x_;
  Rows& rows_;
  const Index N_, P_;
  ChunkDecays<Real> decays_;
  alignas(64) Real strength_[Q], negative_[Q], strength_e_[Q];  ///< d, -d, -d e
  Buffer<Real> m_, a_;                                          ///< [Q][Q], a_ holds -A
  Buffer<Real> u_, missing_;  ///< [Q][P], for each chunk in backward: U, V - e (K S)
  Buffer<Real> part_;         ///< [Q][P] or [N][Q]
  Buffer<Real> d_, du_, turned_, f_, ft_;
  const bool keep_u_;
};

}  // namespace detail

/// From the states of the batch, leaving the last ones there. `kept`: filled for backward, or null.
template <class Real, class F>
void delta_rule(const StateInputs<Real>& x, const Batch<F>& batch, MatrixView<Real> y,
                KeptStates<Real>* kept = nullptr) {
  detail::run_states<detail::GroupHeads<Real, detail::DeltaChunk>>(x, batch, y, kept);
}

/// `batch` brings the gradients of the last states and takes those of the first.
template <class Real, class F>
void delta_rule_backward(const StateInputs<Real>& x, const Batch<F>& batch,
                         const KeptStates<Real>& kept,
                         std::type_identity_t<MatrixView<const Real>> dy,
                         const StateGradients<Real>& g) {
  detail::run_states_backward<detail::GroupHeads<Real, detail::DeltaChunk>>(x, batch, kept, dy, g);
}

/// One row.  Allocates nothing.
template <class Real>
void delta_rule_step(const StateInputs<Real>& x, Real* state, Real* y) noexcept {
  for (Index h = 0; h < x.heads; ++h) {
    delta_scan(detail::state_scan_job(x, h, state + h * x.state_size(), y, 0, 1), 1);
  }
}

}  // namespace limen::inline LIMEN_ABI
