#pragma once
/// @file  Attention of one sequence to another: text, a map, latents, what an encoder has found.
///
///   q = x W_q,  k, v = c W_k, c W_v,  y_t = W_o Σ_j softmax_j(q_t·k_j / √d) v_j     for each head
///
///   x, y [T x D]   c [N x C]   H heads of queries, K of keys and values, d wide
///
/// The context has two forms. In inference it is the state: `read` works out its keys and values
/// once, then every row, also of `step`, asks them. In training it is an argument, with a gradient
/// of its own. A sequence without context gets zeros (and the bias of o_proj). There is no norm and
/// no residual inside. Masks and editors of the Context (editor.hpp) have T queries and N keys for
/// each sequence; where all share one context, all rows are one sequence to them.
///
/// Vaswani et al., arXiv:1706.03762, section 3.2.3.

#include <algorithm>
#include <string>

#include <limen/attention/cross_rows.hpp>
#include <limen/attention/kv_cache.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct CrossAttentionConfig {
  Index d_model = 0;      ///< D
  Index d_context = 0;    ///< C; 0: D
  Index n_heads = 0;      ///< H
  Index n_kv_heads = 0;   ///< K, a divisor of H; 0: H
  Index d_head = 0;       ///< d; 0: D / H
  Index capacity = 0;     ///< rows of context that a state has room for
  bool bfloat16 = false;  ///< the state stores bfloat16 (where Real is float)
  bool bias = false;      ///< of q_proj, k_proj and v_proj
  bool out_bias = false;  ///< of o_proj
  bool out = true;        ///< with o_proj; without it y are the heads, and H d must be D
  double scale = 0;       ///< of scores; 0: 1 / sqrt(d)
  Index key_offsets = 0;  ///< the keys of so many first rows of a context have learned offsets
};

template <CrossAttentionConfig C, class S = float>
struct CrossAttention {
  static_assert(C.d_model > 0, "CrossAttention: .d_model must be positive");
  static_assert(C.n_heads > 0, "CrossAttention: .n_heads must be positive");
  static_assert(C.d_head > 0 || C.d_model % C.n_heads == 0,
                "CrossAttention: .n_heads must divide .d_model, or .d_head be given");
  static_assert(C.capacity > 0, "CrossAttention: .capacity must say how long a context may be");

  static constexpr CrossAttentionConfig config = C;
  static constexpr Index D = C.d_model, N = C.d_context > 0 ? C.d_context : D;
  static constexpr Index H = C.n_heads, K = C.n_kv_heads > 0 ? C.n_kv_heads : H;
  static constexpr Index d = C.d_head > 0 ? C.d_head : D / H, in = D, out = D, d_context = N;
  static_assert(H % K == 0, "CrossAttention: .n_kv_heads must divide .n_heads");
  static_assert(C.out || H * d == D,
                "CrossAttention: without .out the heads must be .d_model wide");
  static_assert(C.out || !C.out_bias, "CrossAttention: .out_bias needs .out");
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = CrossAttention<C, T>;
  using Stored = std::conditional_t<C.bfloat16 && sizeof(Real) == 4, bfloat16, Real>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H * d, D> q_proj;                   ///< W_q
  Weight<S, K * d, N> k_proj, v_proj;           ///< W_k, W_v
  Optional<C.out, Weight<S, D, H * d>> o_proj;  ///< W_o
  Optional<C.bias, Tensor<Real, H * d>> q_bias;
  Optional<C.bias, Tensor<Real, K * d>> k_bias, v_bias;
  Optional<C.out_bias, Tensor<Real, D>> o_bias;
  Optional<(C.key_offsets > 0), Tensor<Real, std::max(C.key_offsets, Index{1}), K * d>> key_offset;

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
    f("key_offset", l.key_offset...);
  }

  static CrossAttention initialized(Random& random) {
    CrossAttention layer;
    fill_fan_in(layer.q_proj, random);
    fill_fan_in(layer.k_proj, random);
    fill_fan_in(layer.v_proj, random);
    if constexpr (C.out) fill_fan_in(layer.o_proj, random);
    return layer;
  }

  // ── The context as a state ─────────────────────────────────────────────────────────────────────
  using State =
      KvCache<KvCacheConfig{.heads = K, .d_key = d, .d_value = d, .capacity = C.capacity}, Stored>;

  /// context [N x C]: adds its rows to what is known.
  Status read(SequenceView<Real, N> context, State& state) const {
    const FlushDenormals guard;
    if (!state.has_room(context.rows())) {
      return Error{"CrossAttention: context", "at most " + std::to_string(C.capacity) + " rows",
                   std::to_string(state.seen + context.rows())};
    }
    auto k = linear(context, k_proj, data_or_null(k_bias));
    auto v = linear(context, v_proj, data_or_null(v_bias));
    add_offsets(static_cast<Index>(state.seen), k.matrix());
    state.append(k.matrix(), v.matrix());
    return {};
  }

  /// x [T x D] -> y [T x D]; the states stay as they are.
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto q = linear(x, q_proj, data_or_null(q_bias));
    auto o = Sequence<Real, H * d>::zeros(x.rows());
    if (!detail::attend_states<Real>(attending(), batch, q.matrix(), o.matrix())) return {};
    return output(std::move(o));
  }

  /// x [D] -> y [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto q = linear(x, q_proj, data_or_null(q_bias));
    Vector<Real, H * d> o;
    alignas(alignment) Real room[detail::attend_cached_room<Real>(1, H, K, d, false)];
    detail::attend_cached<Real>(attending(), state, q.matrix(), o.matrix(), room);
    if constexpr (C.out) {
      return linear(o, o_proj, data_or_null(o_bias));
    } else {
      return o;
    }
  }

  // ── The context as an argument ─────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;
    Sequence<Real, N> context;
    Sequence<Real, H * d> q, o;
    Sequence<Real, K * d> k, v;
    Buffer<Real> lse;                        ///< L [T][H]
    Buffer<detail::SequenceRows> sequences;  ///< where they are
  };
  struct Gradients {
    Sequence<Real, D> x;
    Sequence<Real, N> context;
  };

  /// x [T x D], context [N x C] -> y [T x D].  As many contexts as sequences, or one for all.
  Sequence<Real, D> forward(Sequence<Real, D> x, Sequence<Real, N> context, Batch<NoState> batch,
                            Batch<NoState> contexts, Cache& c) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    if (!attend<true>(x, context, batch, contexts, c)) return {};
    auto y = output(c.o);
    c.x = std::move(x);
    c.context = std::move(context);
    return y;
  }

  /// The same for inference, also of the inference form.
  Sequence<Real, D> forward(SequenceView<Real, D> x, SequenceView<Real, N> context,
                            Batch<NoState> batch, Batch<NoState> contexts) const {
    const FlushDenormals guard;
    Cache c;
    if (!attend<false>(x, context, batch, contexts, c)) return {};
    return output(std::move(c.o));
  }

  /// The same with probabilities that `edit` may change, for inference: it is called with
  /// AttentionMaps (maps.hpp), and all sequences are as long as each other.
  template <class Edit>
  Sequence<Real, D> forward_edited(SequenceView<Real, D> x, SequenceView<Real, N> context,
                                   Batch<NoState> batch, Batch<NoState> contexts,
                                   Edit&& edit) const {
    const FlushDenormals guard;
    Cache c;
    if (!detail::contexts_fit(batch, x.rows(), contexts, context.rows())) return {};
    c.sequences = detail::rows_with_contexts(batch, x.rows(), contexts, context.rows());
    project(x, context, c);
    if (!detail::attend_edited<Real>(attending(), c.sequences, c.q.matrix(), c.k.matrix(),
                                     c.v.matrix(), c.o.matrix(), edit)) {
      return {};
    }
    return output(std::move(c.o));
  }

  /// dx and dc, the latter through keys and values. Whoever shares a context adds up its gradients.
  Gradients backward(SequenceView<Real, D> dy, const Cache& c, CrossAttention& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, H * d> d_o, dq(dy.rows());
    if constexpr (C.out) {
      add_linear_weight_gradient<Real, D, H * d>(dy, c.o, gradient.o_proj);
      if constexpr (C.out_bias) add_bias_gradient<Real, D>(dy, gradient.o_bias);
      d_o = linear_input_gradient<Real, D, H * d>(dy, o_proj);
    } else {
      d_o = dy.copy();
    }
    Sequence<Real, K * d> dk(c.k.rows()), dv(c.k.rows());
    detail::attend_batch_backward<Real>(attending(), rows(c), c.q.matrix(), c.k.matrix(),
                                        c.v.matrix(), c.o.matrix(), c.lse.data(), d_o.matrix(),
                                        dq.matrix(), dk.matrix(), dv.matrix(), nullptr);
    if constexpr (C.key_offsets > 0) {
      for (const auto& s : rows(c)) {
        const Index n = std::min(C.key_offsets, s.keys);
        add_rows(dk.matrix().middle_rows(s.key, n), gradient.key_offset.matrix().middle_rows(0, n));
      }
    }
    if constexpr (C.bias) {
      add_bias_gradient<Real, H * d>(dq, gradient.q_bias);
      add_bias_gradient<Real, K * d>(dk, gradient.k_bias);
      add_bias_gradient<Real, K * d>(dv, gradient.v_bias);
    }
    add_linear_weight_gradient<Real, H * d, D>(dq, c.x, gradient.q_proj);
    add_linear_weight_gradient<Real, K * d, N>(dk, c.context, gradient.k_proj);
    add_linear_weight_gradient<Real, K * d, N>(dv, c.context, gradient.v_proj);
    Gradients g{linear_input_gradient<Real, H * d, D>(dq, q_proj),
                linear_input_gradient<Real, K * d, N>(dk, k_proj)};
    add_linear_input_gradient<Real, K * d, N>(dv, v_proj, g.context);
    return g;
  }

 private:
  detail::Attending<Real> attending() const noexcept {
    detail::Attending<Real> a;
    a.rule.query_heads = H;
    a.rule.key_heads = K;
    a.rule.scale = static_cast<Real>(config.scale);
    return a;
  }
  /// `first`: which row of their context the keys begin with.
  void add_offsets(Index first, MatrixView<Real> keys) const {
    if constexpr (C.key_offsets > 0) {
      const Index n = std::min(C.key_offsets - first, keys.rows);
      if (n > 0) add_rows(key_offset.matrix().middle_rows(first, n), keys.middle_rows(0, n));
    }
  }

  /// q, k and v, and room for what is read.
  void project(SequenceView<Real, D> x, SequenceView<Real, N> context, Cache& c) const {
    c.q = linear(x, q_proj, data_or_null(q_bias));
    c.k = linear(context, k_proj, data_or_null(k_bias));
    c.v = linear(context, v_proj, data_or_null(v_bias));
    c.o = Sequence<Real, H * d>(x.rows());
    for (const auto& s : rows(c)) add_offsets(0, c.k.matrix().middle_rows(s.key, s.keys));
  }
  /// What the heads read. After an error, false, and the cache is as it was. `Keep`: for backward.
  template <bool Keep>
  bool attend(SequenceView<Real, D> x, SequenceView<Real, N> context, const Batch<NoState>& batch,
              const Batch<NoState>& contexts, Cache& c) const {
    if (!detail::contexts_fit(batch, x.rows(), contexts, context.rows())) return false;
    auto sequences = detail::rows_with_contexts(batch, x.rows(), contexts, context.rows());
    AttentionEditor* editor = detail::editor_of(batch);
    if (!detail::put_masks_of<Keep>(editor, sequences, H)) return false;
    c.sequences = std::move(sequences);
    c.lse = Buffer<Real>(Keep ? x.rows() * H : 0);
    project(x, context, c);
    return detail::attend_contexts<Real>(attending(), c.sequences, c.q.matrix(), c.k.matrix(),
                                         c.v.matrix(), c.o.matrix(), c.lse.data(), editor);
  }
  static std::span<const detail::SequenceRows> rows(const Cache& c) {
    return {c.sequences.data(), static_cast<std::size_t>(c.sequences.size())};
  }
  Sequence<Real, D> output(Sequence<Real, H * d> o) const {
    if constexpr (C.out) {
      return linear(o, o_proj, data_or_null(o_bias));
    } else {
      return o;
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
