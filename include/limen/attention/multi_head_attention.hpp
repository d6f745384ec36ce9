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

#include <limen/attention/attention_config.hpp>
#include <limen/attention/editor.hpp>
#include <limen/attention/gate_places.hpp>
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
      fill(layer.q_norm, 1 - Norm::offset);
      fill(layer.k_norm, 1 - Norm::offset);
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
    Vector<Real, gated ? G : 1> z;
    if constexpr (gated) z = linear(x, gate_proj, data_or_null(gate_bias));
    const Places places{gated ? z.data() : data_or_null(gate)};
    auto q = linear(x, q_proj, data_or_null(q_bias));
    places.template apply<GatePosition::G4>(H, q.matrix());
    const auto [k, v] = key_and_value(x, places, state.seen, q.matrix());
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
    Vector<Real, gated ? G : 1> z;
    if constexpr (gated) z = linear(x, gate_proj, data_or_null(gate_bias));
    const Places places{gated ? z.data() : data_or_null(gate)};
    const auto [k, v] = key_and_value(x, places, state.seen, {});
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
    if (editor_of(batch) != nullptr) {
      fail({"Attention with an editor", "inference", "training"});
      return {};
    }
    const FlushDenormals guard;
    auto y = run<true>(SequenceView<Real, D>(x), batch, cache);
    cache.x = std::move(x);
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
    const Places places = places_of(c);
    Sequence<Real, D> dx(T), du = dy.copy();
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
    if constexpr (C.rope.on()) turn(c.rows(), -1, dq.matrix(), dk.matrix());
    if constexpr (normed) {
      q_normed().backward(dq.matrix(), c.q_unnormed.matrix(), c.q_r.data(),
                          data_or_null(l2_or(gradient.logit_scale, gradient.q_norm)),
                          data_or_null(gradient.q_norm_bias));
      k_normed().backward(dk.matrix(), c.k_unnormed.matrix(), c.k_r.data(),
                          data_or_null(gradient.k_norm), data_or_null(gradient.k_norm_bias));
    }
    places.template back<G4>(H, c.q_ungated, dq, dz);
    places.template back<G3>(K, c.k_ungated, dk, dz);
    places.template back<G2>(K, c.v_ungated, dv, dz);
    product_nn(dq.matrix(), q_proj.matrix(), dx.matrix());
    add_linear_weight_gradient<Real, H * d, D>(dq, c.x, gradient.q_proj);
    const auto back = [&](const auto& from, const auto& weight, auto& dw) {
      add_linear_weight_gradient(from, c.x, dw);
      add_linear_input_gradient(from, weight, dx);
    };
    back(dk, k_proj, gradient.k_proj);
    back(dv, v_proj, gradient.v_proj);
    if constexpr (C.bias) {
      add_bias_gradient<Real, H * d>(dq, gradient.q_bias);
      add_bias_gradient<Real, K * d>(dk, gradient.k_bias);
      add_bias_gradient<Real, K * d>(dv, gradient.v_bias);
    }
    if constexpr (gated) back(dz, gate_proj, gradient.gate_proj);
    if constexpr (gated && C.gate.bias) add_bias_gradient<Real, G>(dz, gradient.gate_bias);
    if constexpr (has_gate && !gated) add_bias_gradient<Real, G>(dz, gradient.gate);
    return dx;
  }

 private:
  // Constants of their own: of a config that holds others, clang 16 reads fields wrongly at run
  // time.
  static constexpr double eps = C.norm_eps;
  static constexpr Real scale = static_cast<Real>(l2 && C.scale == 0 ? 1 : C.scale),
                        cap = static_cast<Real>(C.soft_cap);
  static constexpr bool causal = C.causal;
  static constexpr Index window = C.window, first = C.first;

  static RopeRule rope() noexcept { return rope_rule<C.rope, d>(); }

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
    if constexpr (C.rope.on()) a.rope = rope();
    return a;
  }

  // ── Gate, norm, rotation ───────────────────────────────────────────────────────────────────────

  using Places = detail::GatePlaces<C.gate, Real, G>;
  Places places_of(const Cache& c) const { return {gated ? c.z.data() : data_or_null(gate)}; }

  using Norm = detail::HeadNorm<C.qk_norm, d, Real>;
  template <class A, class B>
  static auto& l2_or(A& scale_of_heads, B& weight) {
    if constexpr (l2) return scale_of_heads;
    if constexpr (!l2) return weight;
  }
  Norm q_normed() const noexcept {
    return {eps, data_or_null(l2_or(logit_scale, q_norm)), data_or_null(q_norm_bias)};
  }
  Norm k_normed() const noexcept { return {eps, data_or_null(k_norm), data_or_null(k_norm_bias)}; }
  void normalize(MatrixView<Real> q, MatrixView<Real> k, Real* q_r = nullptr,
                 Real* k_r = nullptr) const noexcept {
    if constexpr (normed) {
      q_normed().forward(q, q_r);
      k_normed().forward(k, k_r);
    }
  }

  struct KeyValue {
    Vector<Real, K * d> k, v;
  };
  /// Of one row, and its q, if there is one, normed and turned with k.
  KeyValue key_and_value(VectorView<Real, D> x, const Places& places, std::int64_t seen,
                         MatrixView<Real> q) const noexcept {
    KeyValue kv{linear(x, k_proj, data_or_null(k_bias)), linear(x, v_proj, data_or_null(v_bias))};
    places.template apply<GatePosition::G3>(K, kv.k.matrix());
    places.template apply<GatePosition::G2>(K, kv.v.matrix());
    normalize(q, kv.k.matrix());
    if constexpr (C.rope.on()) limen::rope(rope(), seen, 1, 1, kv.k.matrix(), q);
    return kv;
  }

  static void turn(std::span<const detail::SequenceRows> sequences, double sign, MatrixView<Real> q,
                   MatrixView<Real> k) {
    for (const auto& s : sequences) {
      limen::rope(rope(), s.seen, 1, sign, q.middle_rows(s.row, s.rows),
                  k.middle_rows(s.row, s.rows));
    }
  }

  static AttentionEditor* editor_of(const Batch<State>& batch) {
    return batch.context != nullptr ? batch.context->attention : nullptr;
  }

  /// `Keep`: for backward.
  template <bool Keep>
  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c) const {
    using enum GatePosition;
    const Index T = x.rows();
    TapListener* const taps = batch.context != nullptr ? batch.context->taps : nullptr;
    c.q = linear(x, q_proj, data_or_null(q_bias));
    c.k = linear(x, k_proj, data_or_null(k_bias));
    c.v = linear(x, v_proj, data_or_null(v_bias));
    if constexpr (gated) c.z = linear(x, gate_proj, data_or_null(gate_bias));
    const Places places = places_of(c);
    places.template pass<G4, Keep>(H, c.q, c.q_ungated, taps);
    places.template pass<G3, Keep>(K, c.k, c.k_ungated, taps);
    places.template pass<G2, Keep>(K, c.v, c.v_ungated, taps);
    if constexpr (normed && Keep) {
      c.q_unnormed = c.q;
      c.k_unnormed = c.k;
      c.q_r = Buffer<Real>(T * H * Norm::kept);
      c.k_r = Buffer<Real>(T * K * Norm::kept);
    }
    normalize(c.q.matrix(), c.k.matrix(), Keep ? c.q_r.data() : nullptr,
              Keep ? c.k_r.data() : nullptr);
    c.sequences = detail::rows_of(batch, T);
    if constexpr (C.rope.on()) turn(c.rows(), 1, c.q.matrix(), c.k.matrix());
    c.o = Sequence<Real, H * d>(T);
    c.lse = Buffer<Real>(Keep || first > 0 ? T * H : 0);
    const auto how = attending();
    AttentionEditor* const editor = editor_of(batch);
    const bool alone = taps == nullptr && editor == nullptr;
    if (!Keep && alone) detail::read_few(how, batch, c.sequences, c.q, c.k, c.v, c.o);
    detail::gather_held(batch, c.sequences, c.k, c.v);
    if (editor != nullptr) {
      detail::let_edit<Real>(how, c.rows(), c.q.matrix(), c.k.matrix(), c.v.matrix(), c.o.matrix(),
                             *editor);
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
