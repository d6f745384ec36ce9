#pragma once
/// @file  Attention to neighbours whose query is learned: a convolution that chooses.
///
///   q̂_h = q_h / (|q_h| + ε) / √d                the query, one for all rows
///   s_jh = x_j·(W_kᵀ q̂)_h,  v = x W_v + b_v      a score and a value of each row
///   o_t  = Σ_j softmax_j(s_j + r_{j-t}) v_j      t - .behind <= j <= t + .ahead, for each head
///   y    = W_o o + b_o
///
///   T time   D d_model   O d_out   H heads of d   v, o [T x H d]   s [T x H]   r [H x kw]
///
/// A score is one product with a vector that is made once (in the prepared form: once for all);
/// rows beyond the ends are left out of the softmax. (A bias of keys would cancel there.) A query
/// that depends on something else is assigned to `query`; its gradient arrives there too.
///
/// The state of a layer that does not look ahead is the last .behind scores and values. What it
/// holds is constant in training.
///
/// Arar, Shamir & Bermano, "Learned Queries for Efficient Local Attention", arXiv:2112.11435.

#include <cmath>
#include <cstdint>

#include <limen/attention/held.hpp>
#include <limen/attention/learned_query.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/local_attention.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct LearnedQueryAttentionConfig {
  Index d_model = 0;     ///< D
  Index d_out = 0;       ///< O; 0: D
  Index n_heads = 1;     ///< H
  Index d_head = 0;      ///< d; 0: D / H
  Index behind = 0;      ///< rows before its own that a row sees
  Index ahead = 0;       ///< rows behind its own; if any, no state and no step
  bool bias = true;      ///< b_v
  bool out_bias = true;  ///< b_o

  constexpr Index width() const { return behind + 1 + ahead; }  ///< kw
};

/// The last B scores and values, in a ring.
template <class Real, Index B, Index H, Index N>
struct LearnedQueryState {
  static constexpr bool ring = true;

  std::int64_t seen = 0;
  Fixed<Real, B, H> scores;
  Fixed<Real, B, N> values;

  Index held() const { return static_cast<Index>(std::min<std::int64_t>(seen, B)); }
  void append(const Real* s, const Real* v) noexcept {
    const auto slot = static_cast<Index>(seen++ % B);
    std::copy_n(s, H, scores.data() + slot * H);
    std::copy_n(v, N, values.data() + slot * N);
  }
  void append(MatrixView<const Real> s, MatrixView<const Real> v) noexcept {
    const Index skip = std::max(s.rows - B, Index{0});  // these would be overwritten
    seen += skip;
    for (Index t = skip; t < s.rows; ++t) append(s.row(t), v.row(t));
  }
  /// Oldest first.
  void gather(MatrixView<Real> s, MatrixView<Real> v) const noexcept {
    for (Index i = 0; i < held(); ++i) {
      const auto slot = static_cast<Index>((seen - held() + i) % B);
      std::copy_n(scores.data() + slot * H, H, s.row(i));
      std::copy_n(values.data() + slot * N, N, v.row(i));
    }
  }
};

template <LearnedQueryAttentionConfig C, class S = float>
struct LearnedQueryAttention {
  static_assert(C.d_model > 0, "LearnedQueryAttention: .d_model must be positive");
  static_assert(C.n_heads > 0 && (C.d_head > 0 || C.d_model % C.n_heads == 0),
                "LearnedQueryAttention: .n_heads must divide .d_model, or .d_head be given");
  static_assert(C.behind >= 0 && C.ahead >= 0 && C.width() > 1,
                "LearnedQueryAttention: .behind or .ahead must say which neighbours a row sees");

  static constexpr LearnedQueryAttentionConfig config = C;
  static constexpr Index D = C.d_model, O = C.d_out > 0 ? C.d_out : D, H = C.n_heads;
  static constexpr Index d = C.d_head > 0 ? C.d_head : D / H, kw = C.width();
  static constexpr Index in = D, out = O;
  static constexpr bool causal = C.ahead == 0, learns = !is_prepared<S>;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = LearnedQueryAttention<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Optional<learns, Tensor<Real, H * d>> query;      ///< q
  Optional<learns, Tensor<Real, H * d, D>> k_proj;  ///< W_k
  Optional<!learns, Weight<S, H, D>> asked;         ///< W_kᵀ q̂, of the inference form
  Weight<S, H * d, D> v_proj;                       ///< W_v
  Weight<S, O, H * d> o_proj;                       ///< W_o
  Optional<C.bias, Tensor<Real, H * d>> v_bias;
  Optional<C.out_bias, Tensor<Real, O>> o_bias;
  Tensor<Real, H, kw> by_place;  ///< r

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("query", l.query...);
    f("k_proj.weight", l.k_proj...);
    f("asked", l.asked...);
    f("v_proj.weight", l.v_proj...);
    f("v_proj.bias", l.v_bias...);
    f("o_proj.weight", l.o_proj...);
    f("o_proj.bias", l.o_bias...);
    f("by_place", l.by_place...);
  }
  void prepare_from(const LearnedQueryAttention<C, Real>& learned) {
    Tensor<Real, H, D> u;
    learned.asker().ask(u.data());
    asked.prepare_from(u);
    prepare_into(v_proj, learned.v_proj);
    prepare_into(o_proj, learned.o_proj);
    prepare_into(v_bias, learned.v_bias);
    prepare_into(o_bias, learned.o_bias);
    by_place = learned.by_place;
  }

  static LearnedQueryAttention initialized(Random& random) {
    LearnedQueryAttention layer;
    const double deviation = 1 / std::sqrt(static_cast<double>(d));
    fill_normal(layer.query, deviation, random);
    fill_normal(layer.k_proj, deviation, random);
    fill_fan_in(layer.v_proj, random);
    fill_fan_in(layer.o_proj, random);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (D * H + D * H * d + kw * H * d + O * H * d);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State =
      std::conditional_t<causal, LearnedQueryState<Real, std::max(C.behind, Index{1}), H, H * d>,
                         NoState>;

  /// x [T x D] -> y [T x O]
  Sequence<Real, O> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Cache c;
    return run(x, batch, c);
  }

  /// x [D] -> y [O].  Allocates nothing.
  Vector<Real, O> step(VectorView<Real, D> x, State& state) const noexcept
    requires(C.ahead == 0)
  {
    const FlushDenormals guard;
    alignas(alignment) Real s[kw * H], v[kw * H * d], w[H * kw];
    const Index held = state.held();
    const MatrixView<Real> scores{s, held + 1, H, H}, values{v, held + 1, H * d, H * d};
    state.gather(scores, values);
    score(x.matrix(), scores.middle_rows(held, 1));
    product_nt<Real>(x.matrix(), detail::operand(v_proj), values.middle_rows(held, 1),
                     {.bias = data_or_null(v_bias)});
    Vector<Real, H * d> o;
    detail::local_weights<Real>(rule(), scores, held, w);
    detail::read_window<Real>(rule(), values, held, w, o.data());
    state.append(s + held * H, v + held * H * d);
    return linear(o, o_proj, data_or_null(o_bias));
  }

  template <class... Asked>
  Vector<Real, O> step(Asked&&...) const
    requires(C.ahead > 0)
  {
    static_assert(C.ahead == 0, "step: a layer that looks .ahead needs the whole sequence");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;                     ///< [T x D]
    Sequence<Real, H> s;                     ///< held and new
    Sequence<Real, H * d> v;                 ///< likewise
    Sequence<Real, H * d> o;                 ///< what the heads read
    Buffer<Real> w;                          ///< [T][H][kw]
    Buffer<detail::SequenceRows> sequences;  ///< where they are

    std::span<const detail::SequenceRows> rows() const {
      return {sequences.data(), static_cast<std::size_t>(sequences.size())};
    }
  };

  Sequence<Real, O> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    auto y = run(SequenceView<Real, D>(x), batch, cache);
    cache.x = std::move(x);
    return y;
  }

  /// ds, dv, dr: kernel/local_attention.hpp.  With u = W_kᵀ q̂:  du = dsᵀ x,  dx = ds u + dv W_v;
  /// dW_k and dq from du: learned_query.hpp.
  Sequence<Real, D> backward(SequenceView<Real, O> dy, Batch<State> batch, const Cache& c,
                             LearnedQueryAttention& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, c.x.rows())) return {};
    const FlushDenormals guard;
    add_linear_weight_gradient<Real, O, H * d>(dy, c.o, gradient.o_proj);
    if constexpr (C.out_bias) add_bias_gradient<Real, O>(dy, gradient.o_bias);
    const auto d_o = linear_input_gradient<Real, O, H * d>(dy, o_proj);
    auto ds = Sequence<Real, H>::zeros(c.s.rows());
    auto dv = Sequence<Real, H * d>::zeros(c.s.rows());
    for (const auto& at : c.rows()) {
      local_attention_backward<Real>(
          rule(), c.v.matrix().middle_rows(at.key, at.keys),
          c.o.matrix().middle_rows(at.row, at.rows), c.w.data() + at.row * H * kw,
          d_o.matrix().middle_rows(at.row, at.rows), ds.matrix().middle_rows(at.key, at.keys),
          dv.matrix().middle_rows(at.key, at.keys), gradient.by_place.data());
    }
    ds = detail::of_new_rows(std::move(ds), c.rows(), T);
    dv = detail::of_new_rows(std::move(dv), c.rows(), T);
    Tensor<Real, H, D> u, du;
    asker().ask(u.data());
    add_linear_weight_gradient<Real, H, D>(ds, c.x, du);
    asker().back(du.data(), gradient.query.data(), gradient.k_proj.data());
    auto dx = linear_input_gradient<Real, H, D>(ds, u);
    add_linear_weight_gradient<Real, H * d, D>(dv, c.x, gradient.v_proj);
    if constexpr (C.bias) add_bias_gradient<Real, H * d>(dv, gradient.v_bias);
    add_linear_input_gradient<Real, H * d, D>(dv, v_proj, dx);
    return dx;
  }

 private:
  template <LearnedQueryAttentionConfig, class>
  friend struct LearnedQueryAttention;

  LocalRule<Real> rule() const noexcept { return {H, C.behind, C.ahead, by_place.data()}; }

  detail::LearnedQuery<Real, H, d, D> asker() const noexcept {
    return {query.data(), k_proj.data()};
  }
  void score(MatrixView<const Real> x, MatrixView<Real> s) const noexcept {
    if constexpr (learns) {
      alignas(alignment) Real u[H * D];
      asker().ask(u);
      product_nt<Real>(x, MatrixView<const Real>{u, H, D, D}, s);
    } else {
      product_nt<Real>(x, asked.view(), s);
    }
  }

  Sequence<Real, O> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c) const {
    const Index T = x.rows();
    c.s = Sequence<Real, H>(T);
    score(x.matrix(), c.s.matrix());
    c.v = linear(x, v_proj, data_or_null(v_bias));
    c.sequences = detail::rows_of(batch, T);
    detail::gather_held(batch, c.sequences, c.s, c.v);
    c.o = Sequence<Real, H * d>(T);
    c.w = Buffer<Real>(T * H * kw);
    for (const auto& at : c.rows()) {
      local_attention<Real>(rule(), c.s.matrix().middle_rows(at.key, at.keys),
                            c.v.matrix().middle_rows(at.key, at.keys),
                            c.o.matrix().middle_rows(at.row, at.rows),
                            c.w.data() + at.row * H * kw);
    }
    detail::remember(batch, c.rows(), c.s, c.v);
    return linear(c.o, o_proj, data_or_null(o_bias));
  }
};

}  // namespace limen::inline LIMEN_ABI
