#pragma once
/// @file  Attention of many heads, with a gate.
///
///   q, k, v = x W_q, x W_k, x W_v          heads of d; norm and rotation of q and k
///   o_t = Σ_j softmax_j(q_t·k_j / √d) v_j  for each head; query head h reads key head h K / H
///   y = W_o (o ⊙ σ(x W_g))                 the gate at G1; elsewhere: gate.hpp
///
///   T time   D d_model   H heads of queries   K heads of keys and values   d d_head
///   q, o [T x H d]   k, v [T x K d]   z = x W_g [T x H d], or [T x H] headwise
///
/// The state is a KvCache. Training may start from one too; what it holds is constant then: its
/// gradient is not asked for. A row that finds a growing cache full gives NaN in `step`, counted in
/// state.refused; `forward` refuses the whole call before anything is written.
///
/// An editor (Context::attention) may do the softmax otherwise: attention/editor.hpp. A listener
/// (Context::taps) hears "gate", g as it is applied, and "first_token", the probability
/// that each head gives to token 0, [T x H] without row 0, where it is 1: attention/measures.hpp.
///
/// Vaswani et al., arXiv:1706.03762; grouped keys: Ainslie et al., arXiv:2305.13245; the gate: Qiu
/// et al., arXiv:2505.06708. Names as in transformers (Llama, Qwen3).

#include <limits>

#include <limen/attention/attention_inputs.hpp>
#include <limen/attention/editor.hpp>
#include <limen/attention/held.hpp>
#include <limen/core/denormals.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

template <AttentionConfig C, class S = float>
struct Attention {
  static_assert(detail::AttentionChecks<C>::ok);

  static constexpr AttentionConfig config = C;
  static constexpr Index D = C.d_model, H = C.n_heads, K = C.kv_heads(), d = C.head_width();
  static constexpr Index in = D, out = D, G = C.gate_width();
  static constexpr bool normed = C.qk_norm != QkNorm::none, l2 = C.qk_norm == QkNorm::l2;
  static constexpr bool has_gate = C.gate.on(), gated = has_gate && C.gate.from_input;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Attention<C, T>;
  using Stored = std::conditional_t<C.bfloat16 && sizeof(Real) == 4, bfloat16, Real>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H * d, D> q_proj;          ///< W_q
  Weight<S, K * d, D> k_proj, v_proj;  ///< W_k, W_v
  Weight<S, D, H * d> o_proj;          ///< W_o
  Optional<C.bias, Tensor<Real, H * d>> q_bias;
  Optional<C.bias, Tensor<Real, K * d>> k_bias, v_bias;
  Optional<C.out_bias, Tensor<Real, D>> o_bias;
  Optional<normed && !l2, Tensor<Real, d>> q_norm, k_norm;  ///< one for all heads
  Optional<C.norm_bias, Tensor<Real, d>> q_norm_bias, k_norm_bias;
  Optional<l2, Tensor<Real, H>> logit_scale;   ///< g
  Optional<gated, Weight<S, G, D>> gate_proj;  ///< W_g
  Optional<gated && C.gate.bias, Tensor<Real, G>> gate_bias;
  Optional<has_gate && !gated, Tensor<Real, G>> gate;  ///< z, where it is not made of x
  Optional<C.sink, Tensor<Real, H>> sinks;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("q_proj.weight", l.q_proj...);
    f("q_proj.bias", l.q_bias...);
    f("k_proj.weight", l.k_proj...);
    f("k_proj.bias", l.k_bias...);
    f("v_proj.weight", l.v_proj...);
    f("v_proj.bias", l.v_bias...);
    f("o_proj.weight", l.o_proj...);
    f("o_proj.bias", l.o_bias...);
    f("q_norm.weight", l.q_norm...);
    f("q_norm.bias", l.q_norm_bias...);
    f("k_norm.weight", l.k_norm...);
    f("k_norm.bias", l.k_norm_bias...);
    f("logit_scale", l.logit_scale...);
    f("gate_proj.weight", l.gate_proj...);
    f("gate_proj.bias", l.gate_bias...);
    f("gate", l.gate...);
    f("sinks", l.sinks...);
  }

  /// Biases, sinks and a gate without input start at 0, norms as the identity.
  static Attention initialized(Random& random) {
    Attention layer;
    for (auto* w : {&layer.k_proj, &layer.v_proj}) fill_fan_in(*w, random);
    fill_fan_in(layer.q_proj, random);
    fill_fan_in(layer.o_proj, random);
    if constexpr (gated) fill_fan_in(layer.gate_proj, random);
    if constexpr (l2) {
      fill(layer.logit_scale, 10);  // scores between -10 and 10
    } else if constexpr (normed) {
      fill(layer.q_norm, 1 - detail::HeadNorm<C.qk_norm, d, Real>::offset);
      fill(layer.k_norm, 1 - detail::HeadNorm<C.qk_norm, d, Real>::offset);
    }
    return layer;
  }

  /// Of one sequence.
  static constexpr Index macs(Index rows) {
    const Index seen = window > 0 && window < rows ? window : rows;
    const Index pairs = causal ? seen * (seen + 1) / 2 + (rows - seen) * seen : rows * seen;
    return rows * D * (2 * (H + K) * d + (gated ? G : 0)) + 2 * pairs * H * d;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  template <class Real_>
  struct CacheOf {
    using type = KvCache<C.cache(), Real_>;
  };
  struct NoCache {
    using type = NoState;
  };
  using State = typename std::conditional_t<C.causal, CacheOf<Stored>, NoCache>::type;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows()) || !detail::has_room(batch, x.rows())) return {};
    const FlushDenormals guard;
    Cache cache;
    return run<false>(x, batch, cache);
  }

  /// x [D] -> y [D].  Allocates nothing; NaN if the cache is full.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept
    requires(C.causal)
  {
    const FlushDenormals guard;
    const auto inputs = of_x();
    const auto z = inputs.row_scores(x);
    const auto places = inputs.places(z.data());
    auto q = inputs.query(x, places);
    const auto [k, v] = inputs.key_and_value(x, places, state.seen, q.matrix());
    Vector<Real, D> y;
    if (!state.append(k.data(), v.data())) {
      for (Real& value : y.values) value = std::numeric_limits<Real>::quiet_NaN();
      return y;
    }
    alignas(alignment) Real room[detail::attend_cached_room<Real>(1, H, K, d, C.first > 0)];
    Vector<Real, H * d> o;
    detail::attend_cached<Real>(attending(), state, q.matrix(), o.matrix(), room);
    places.template apply<GatePosition::G1>(H, o.matrix());
    y = linear(o, o_proj, data_or_null(o_bias));
    places.template apply<GatePosition::G5>(1, y.matrix());
    return y;
  }

  /// Only what later rows see of x: for one that left the network before it came here
  /// (exit/note.hpp). False if the cache is full.
  bool note(VectorView<Real, D> x, State& state) const noexcept
    requires(C.causal)
  {
    const FlushDenormals guard;
    const auto inputs = of_x();
    const auto z = inputs.row_scores(x);
    const auto [k, v] = inputs.key_and_value(x, inputs.places(z.data()), state.seen, {});
    return state.append(k.data(), v.data());
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const
    requires(!C.causal)
  {
    static_assert(C.causal, "step: attention that is not .causal needs the whole sequence");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;                          ///< [T x D]
    Sequence<Real, H * d> q;                      ///< as scored
    Sequence<Real, K * d> k, v;                   ///< held and new, as scored and read
    Buffer<detail::SequenceRows> sequences;       ///< where they are
    Sequence<Real, G> z;                          ///< x W_g
    Sequence<Real, H * d> q_ungated, q_unnormed;  ///< before that, where it is done
    Sequence<Real, K * d> k_ungated, k_unnormed, v_ungated;
    Buffer<Real> q_r, k_r;    ///< [T H], [T K] or twice that, of the norms
    Sequence<Real, H * d> o;  ///< what the heads read
    Buffer<Real> lse;         ///< L [T][H]
    Sequence<Real, D> y_ungated;

    std::span<const detail::SequenceRows> rows() const {
      return {sequences.data(), static_cast<std::size_t>(sequences.size())};
    }
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows()) || !detail::has_room(batch, x.rows())) return {};
    const FlushDenormals guard;
    auto y = run<true>(SequenceView<Real, D>(x), batch, cache);
    if (y.rows() == x.rows()) cache.x = std::move(x);
    return y;
  }

  /// The way back through gate, o_proj, softmax (kernel/attention_backward.hpp), rotation, norms
  /// and projections; what a gradient of z gathers on the way goes through gate_proj.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                             Attention& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, c.x.rows())) return {};
    const FlushDenormals guard;
    using enum GatePosition;
    Sequence<Real, G> dz(has_gate ? T : 0);
    const auto places = of_x().places(c.z.data());
    Sequence<Real, D> du = dy.copy();
    places.template back<G5>(1, c.y_ungated, du, dz);
    if constexpr (C.out_bias) add_bias_gradient<Real, D>(du, gradient.o_bias);
    auto d_o = linear_input_gradient<Real, D, H * d>(du, o_proj);
    if constexpr (C.gate.at(G1)) {
      auto o = c.o;
      places.template apply<G1>(H, o.matrix());
      add_linear_weight_gradient<Real, D, H * d>(du, o, gradient.o_proj);
      places.template back<G1>(H, c.o, d_o, dz);
    } else {
      add_linear_weight_gradient<Real, D, H * d>(du, c.o, gradient.o_proj);
    }
    Sequence<Real, H * d> dq(T);
    Sequence<Real, K * d> dk(c.k.rows()), dv(c.k.rows());
    detail::attend_batch_backward<Real>(
        attending(), c.rows(), c.q.matrix(), c.k.matrix(), c.v.matrix(), c.o.matrix(), c.lse.data(),
        d_o.matrix(), dq.matrix(), dk.matrix(), dv.matrix(), data_or_null(gradient.sinks));
    dk = detail::of_new_rows(std::move(dk), c.rows(), T);
    dv = detail::of_new_rows(std::move(dv), c.rows(), T);
    return of_x().back(std::move(dq), std::move(dk), std::move(dv), std::move(dz), c, gradient);
  }

 private:
  // Constants of their own: of a config that holds others, clang 16 reads fields wrongly at run
  // time.
  static constexpr Real scale = static_cast<Real>(l2 && config.scale == 0 ? 1 : config.scale),
                        cap = static_cast<Real>(config.soft_cap);
  static constexpr bool causal = C.causal;
  static constexpr Index window = C.window, first = C.first;

  detail::AttentionInputs<Attention> of_x() const noexcept { return {*this}; }

  detail::Attending<Real> attending() const noexcept {
    detail::Attending<Real> a;
    a.rule.query_heads = H;
    a.rule.key_heads = K;
    a.rule.scale = scale;
    a.rule.causal = causal;
    a.rule.window = window;
    a.rule.soft_cap = cap;
    if constexpr (C.alibi) a.rule.slopes = detail::alibi_slopes<Real, H>.data();
    if constexpr (C.sink) a.rule.sinks = sinks.data();
    a.first = first;
    if constexpr (C.rope.on()) a.rope = detail::AttentionInputs<Attention>::rope();
    return a;
  }

  /// `Keep`: for backward.
  template <bool Keep>
  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c) const {
    using enum GatePosition;
    const Index T = x.rows();
    TapListener* const taps = batch.context != nullptr ? batch.context->taps : nullptr;
    AttentionEditor* editor = batch.context != nullptr ? batch.context->attention : nullptr;
    const bool alone = taps == nullptr && editor == nullptr;
    const auto masks = detail::masks_of(editor);
    if (!detail::masks_fit(masks, batch, T, H, first)) return {};
    if (!masks.empty()) editor = nullptr;
    if (Keep && editor != nullptr) {
      fail({"Attention with an editor", "inference", "training"});
      return {};
    }
    c.sequences = detail::rows_of(batch, T);
    of_x().template run<Keep>(x, c, taps);
    const auto places = of_x().places(c.z.data());
    c.o = Sequence<Real, H * d>(T);
    c.lse = Buffer<Real>(Keep || first > 0 ? T * H : 0);
    const auto how = attending();
    if (!Keep && alone) detail::read_few(how, batch, c.sequences, c.q, c.k, c.v, c.o);
    detail::gather_held(batch, c.sequences, c.k, c.v);
    detail::put_masks(masks, {c.sequences.data(), static_cast<std::size_t>(c.sequences.size())});
    if (editor != nullptr) {
      if (!detail::let_edit<Real>(how, c.rows(), c.q.matrix(), c.k.matrix(), c.v.matrix(),
                                  c.o.matrix(), *editor)) {
        return {};
      }
    } else {
      detail::attend_batch<Real>(how, c.rows(), c.q.matrix(), c.k.matrix(), c.v.matrix(),
                                 c.o.matrix(), c.lse.data());
    }
    detail::remember(batch, c.rows(), c.k, c.v);
    if (taps != nullptr) detail::tell_first_token<Real>(how, c.rows(), c.q, c.k, *taps);
    Sequence<Real, D> y;
    if constexpr (Keep && C.gate.at(G1)) {
      Sequence<Real, H * d> read = c.o, before;
      places.template pass<G1, false>(H, read, before, taps);
      y = linear(read, o_proj, data_or_null(o_bias));
    } else {
      places.template pass<G1, false>(H, c.o, c.q_ungated, taps);
      y = linear(c.o, o_proj, data_or_null(o_bias));
    }
    places.template pass<G5, Keep>(1, y, c.y_ungated, taps);
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
