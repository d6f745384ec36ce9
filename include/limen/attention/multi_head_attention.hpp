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
/// A listener (Context::taps) hears "gate", g as it is applied, and "first_token", the probability
/// that each head gives to token 0, [T x H] without row 0, where it is 1: attention/measures.hpp.
///
/// Vaswani et al., arXiv:1706.03762; grouped keys: Ainslie et al., arXiv:2305.13245; the gate: Qiu
/// et al., arXiv:2505.06708. Names as in transformers (Llama, Qwen3).

#include <limits>

#include <limen/attention/attention_config.hpp>
#include <limen/attention/held.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/norm.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

template <AttentionConfig C, class S = float>
struct Attention {
  static_assert(detail::AttentionChecks<C>::ok);

  static constexpr AttentionConfig config = C;
  static constexpr Index D = C.d_model, H = C.n_heads, K = C.kv_heads(), d = C.head_width();
  static constexpr Index in = D, out = D, G = C.gate_width();
  static constexpr bool normed = C.qk_norm != QkNorm::none;
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
  Optional<normed, Tensor<Real, d>> q_norm, k_norm;  ///< one for all heads
  Optional<gated, Weight<S, G, D>> gate_proj;        ///< W_g
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
    f("k_norm.weight", l.k_norm...);
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
    if constexpr (normed) {
      fill(layer.q_norm, 1 - norm_offset);
      fill(layer.k_norm, 1 - norm_offset);
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
    const Real* const scores = gated ? z.data() : data_or_null(gate);
    auto q = linear(x, q_proj, data_or_null(q_bias));
    apply_gate<GatePosition::G4>(scores, H, q.matrix(), q.matrix());
    const auto [k, v] = key_and_value(x, scores, state.seen, q.matrix());
    Vector<Real, D> y;
    if (!state.append(k.data(), v.data())) {
      for (Real& value : y.values) value = std::numeric_limits<Real>::quiet_NaN();
      return y;
    }
    alignas(alignment) Real room[detail::attend_cached_room<Real>(1, H, K, d, C.first > 0)];
    Vector<Real, H * d> o;
    detail::attend_cached<Real>(attending(), state, q.matrix(), o.matrix(), room);
    apply_gate<GatePosition::G1>(scores, H, o.matrix(), o.matrix());
    y = linear(o, o_proj, data_or_null(o_bias));
    apply_gate<GatePosition::G5>(scores, 1, y.matrix(), y.matrix());
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
    const auto [k, v] = key_and_value(x, gated ? z.data() : data_or_null(gate), state.seen, {});
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
    Buffer<Real> q_r, k_r;    ///< [T H], [T K], of the norms
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
    const Real* const z = scores_of(c);
    Sequence<Real, D> dx(T), du = dy.copy();
    gate_back<G5>(z, 1, c.y_ungated, du, dz);
    if constexpr (C.out_bias) add_bias_gradient<Real, D>(du, gradient.o_bias);
    auto d_o = linear_input_gradient<Real, D, H * d>(du, o_proj);
    if constexpr (C.gate.at(G1)) {
      Sequence<Real, H * d> o(T);
      apply_gate<G1>(z, H, c.o.matrix(), o.matrix());
      add_linear_weight_gradient<Real, D, H * d>(du, o, gradient.o_proj);
      gate_back<G1>(z, H, c.o, d_o, dz);
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
      norm_back<H>(dq, c.q_unnormed, q_norm, c.q_r, gradient.q_norm);
      norm_back<K>(dk, c.k_unnormed, k_norm, c.k_r, gradient.k_norm);
    }
    gate_back<G4>(z, H, c.q_ungated, dq, dz);
    gate_back<G3>(z, K, c.k_ungated, dk, dz);
    gate_back<G2>(z, K, c.v_ungated, dv, dz);
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
  static constexpr Real scale = static_cast<Real>(C.scale), cap = static_cast<Real>(C.soft_cap);
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

  static constexpr Index z_row = gated ? G : 0;

  const Real* scores_of(const Cache& c) const { return gated ? c.z.data() : data_or_null(gate); }

  /// Where the gate stands at P, else nothing.
  template <GatePosition P>
  static void apply_gate(const Real* z, Index heads, MatrixView<const Real> u,
                         MatrixView<Real> y) noexcept {
    if constexpr (C.gate.at(P)) head_gate<C.gate>(z, z_row, heads, u, y);
  }

  /// The same in place, for a listener to hear; `before` keeps u for backward.
  template <GatePosition P, bool Keep, Index N>
  void pass_gate(const Cache& c, Index heads, Sequence<Real, N>& u, Sequence<Real, N>& before,
                 TapListener* taps) const {
    if constexpr (C.gate.at(P)) {
      if constexpr (Keep) before = u;
      const Real* const z = scores_of(c);
      if (taps != nullptr) {
        Sequence<Real, G> g(gated ? u.rows() : 1);
        gate_scores<C.gate>(z, g.data(), g.size());
        taps->at("gate", g.matrix());
        head_gate<detail::given(C.gate)>(g.data(), z_row, heads, u.matrix(), u.matrix());
      } else {
        head_gate<C.gate>(z, z_row, heads, u.matrix(), u.matrix());
      }
    }
  }

  template <GatePosition P, Index N>
  static void gate_back(const Real* z, Index heads, const Sequence<Real, N>& u,
                        Sequence<Real, N>& dy, Sequence<Real, G>& dz) {
    if constexpr (C.gate.at(P)) {
      head_gate_backward<C.gate>(z, z_row, heads, u.matrix(), dy.matrix(), dy.matrix(), dz.data());
    }
  }

  void normalize(MatrixView<Real> q, MatrixView<Real> k, Real* q_r = nullptr,
                 Real* k_r = nullptr) const noexcept {
    if constexpr (normed) {
      const auto one = [](MatrixView<Real> x, const Real* w, Real* r) {
        const MatrixView<Real> heads{x.data, x.rows * (x.cols / d), d, d};
        rms_norm<Real>(heads, w, norm_offset, eps, heads, r);
      };
      one(q, q_norm.data(), q_r);
      one(k, k_norm.data(), k_r);
    }
  }
  template <Index N>
  static void norm_back(Sequence<Real, N * d>& dy, const Sequence<Real, N * d>& x,
                        const Tensor<Real, d>& w, const Buffer<Real>& r, Tensor<Real, d>& dw) {
    const MatrixView<Real> heads{dy.data(), dy.rows() * N, d, d};
    rms_norm_backward<Real>(heads, {x.data(), x.rows() * N, d, d}, w.data(), norm_offset, r.data(),
                            heads, dw.data());
  }
  static constexpr Real norm_offset = C.qk_norm == QkNorm::rms_offset ? 1 : 0;

  struct KeyValue {
    Vector<Real, K * d> k, v;
  };
  /// Of one row, and its q, if there is one, normed and turned with k.
  KeyValue key_and_value(VectorView<Real, D> x, const Real* scores, std::int64_t seen,
                         MatrixView<Real> q) const noexcept {
    KeyValue kv{linear(x, k_proj, data_or_null(k_bias)), linear(x, v_proj, data_or_null(v_bias))};
    apply_gate<GatePosition::G3>(scores, K, kv.k.matrix(), kv.k.matrix());
    apply_gate<GatePosition::G2>(scores, K, kv.v.matrix(), kv.v.matrix());
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
    pass_gate<G4, Keep>(c, H, c.q, c.q_ungated, taps);
    pass_gate<G3, Keep>(c, K, c.k, c.k_ungated, taps);
    pass_gate<G2, Keep>(c, K, c.v, c.v_ungated, taps);
    if constexpr (normed && Keep) {
      c.q_unnormed = c.q;
      c.k_unnormed = c.k;
      c.q_r = Buffer<Real>(T * H);
      c.k_r = Buffer<Real>(T * K);
    }
    normalize(c.q.matrix(), c.k.matrix(), Keep ? c.q_r.data() : nullptr,
              Keep ? c.k_r.data() : nullptr);
    c.sequences = detail::rows_of(batch, T);
    if constexpr (C.rope.on()) turn(c.rows(), 1, c.q.matrix(), c.k.matrix());
    c.o = Sequence<Real, H * d>(T);
    c.lse = Buffer<Real>(Keep || first > 0 ? T * H : 0);
    const auto how = attending();
    if (!Keep && taps == nullptr) detail::read_few(how, batch, c.sequences, c.q, c.k, c.v, c.o);
    detail::gather_held(batch, c.sequences, c.k, c.v);
    detail::attend_batch<Real>(how, c.rows(), c.q.matrix(), c.k.matrix(), c.v.matrix(),
                               c.o.matrix(), c.lse.data());
    detail::remember(batch, c.rows(), c.k, c.v);
    if (taps != nullptr) detail::tell_first_token<Real>(how, c.rows(), c.q, c.k, *taps);
    Sequence<Real, D> y;
    if constexpr (Keep && C.gate.at(G1)) {
      Sequence<Real, H * d> read = c.o, before;
      pass_gate<G1, false>(c, H, read, before, taps);
      y = linear(read, o_proj, data_or_null(o_bias));
    } else {
      pass_gate<G1, false>(c, H, c.o, c.q_ungated, taps);
      y = linear(c.o, o_proj, data_or_null(o_bias));
    }
    pass_gate<G5, Keep>(c, 1, y, c.y_ungated, taps);
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
