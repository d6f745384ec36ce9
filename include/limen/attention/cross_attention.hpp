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

#include <limen/attention/held.hpp>
#include <limen/attention/kv_cache.hpp>
#include <limen/attention/maps.hpp>
#include <limen/core/denormals.hpp>
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
    for_each_offset(static_cast<Index>(state.seen), k.matrix(), [&](Index i, Real* row) {
      add_row(data_or_null(key_offset) + i * K * d, row);
    });
    state.append(k.matrix(), v.matrix());
    return {};
  }

  /// x [T x D] -> y [T x D]; the states stay as they are.
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto q = linear(x, q_proj, data_or_null(q_bias));
    auto o = Sequence<Real, H * d>::zeros(x.rows());
    if (batch.carries() && editor_of(batch) != nullptr) {
      if (!attend_gathered(batch, q, o)) return {};
    } else if (batch.carries()) {
      // Rows in handfuls, each against the cache as it lies.
      constexpr Index handful = 4;
      const auto how = attending();
      constexpr Index room =
          detail::rounded_up(detail::attend_cached_room<Real>(handful, H, K, d, false), 16);
      for (Index b = 0; b < batch.count(); ++b) {
        const Index first = batch.begin(b), rows = batch.end(b, x.rows()) - first;
        const Index parts = (rows + handful - 1) / handful;
        Buffer<Real> space(parts * room);
        parallel_for(parts, 0.1 * static_cast<double>(rows * batch[b].seen * H * d), [&](Index i) {
          const Index t = first + i * handful, count = std::min(handful, first + rows - t);
          detail::attend_cached<Real>(how, batch[b], q.matrix().middle_rows(t, count),
                                      o.matrix().middle_rows(t, count), space.data() + i * room);
        });
      }
    }
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
    if (!project(x, context, batch, contexts, c)) return {};
    if (!attend<true>(editor_of(batch), c)) return {};
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
    if (!project(x, context, batch, contexts, c)) return {};
    if (!attend<false>(editor_of(batch), c)) return {};
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
    if (!project(x, context, batch, contexts, c)) return {};
    const auto rule = attending().rule;
    detail::PooledList<AttentionCall<Real>> calls(c.sequences.size());
    for (const auto& s : c.sequences) {
      calls.add(detail::call_of<Real>(s, H, c.q.matrix(), c.k.matrix(), c.v.matrix(), c.o.matrix(),
                                      nullptr));
    }
    auto maps = attention_maps(rule, calls.span());
    if (maps.sequences() != c.sequences.size()) return {};
    edit(maps);
    for (Index b = 0; b < maps.sequences(); ++b) {
      const auto& call = calls.span()[static_cast<std::size_t>(b)];
      read_maps(rule, maps, b, call.v, call.y);
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
    for (const auto& s : rows(c)) {
      for_each_offset(0, dk.matrix().middle_rows(s.key, s.keys), [&](Index i, const Real* row) {
        add_row(row, data_or_null(gradient.key_offset) + i * K * d);
      });
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
  template <class State_>
  static AttentionEditor* editor_of(const Batch<State_>& batch) {
    return batch.context != nullptr ? batch.context->attention : nullptr;
  }
  /// o of the cache, as masks or an editor would have it; `Keep`: for backward.
  template <bool Keep>
  bool attend(AttentionEditor* editor, Cache& c) const {
    const auto masks = detail::masks_of(editor);
    if (!detail::masks_fit(masks, rows(c), H)) return false;
    if (editor == nullptr || !masks.empty()) {
      detail::put_masks(masks, {c.sequences.data(), static_cast<std::size_t>(c.sequences.size())});
      detail::attend_batch<Real>(attending(), rows(c), c.q.matrix(), c.k.matrix(), c.v.matrix(),
                                 c.o.matrix(), c.lse.data());
      return true;
    }
    if (Keep) {
      fail({"CrossAttention with an editor", "inference", "training"});
      return false;
    }
    detail::let_edit<Real>(attending(), rows(c), c.q.matrix(), c.k.matrix(), c.v.matrix(),
                           c.o.matrix(), *editor);
    return true;
  }
  /// The same of contexts that are states.
  bool attend_gathered(const Batch<State>& batch, const Sequence<Real, H * d>& q,
                       Sequence<Real, H * d>& o) const {
    Cache c;
    c.sequences = Buffer<detail::SequenceRows>(batch.count());
    Index key = 0;
    for (Index b = 0; b < batch.count(); ++b) {
      const Index row = batch.begin(b), held = batch[b].held();
      c.sequences[b] = {row, batch.end(b, q.rows()) - row, key, held, 0};
      key += held;
    }
    c.k = Sequence<Real, K * d>(key);
    c.v = Sequence<Real, K * d>(key);
    for (Index b = 0; b < batch.count(); ++b) {
      const auto& s = c.sequences[b];
      batch[b].gather(c.k.matrix().middle_rows(s.key, s.keys),
                      c.v.matrix().middle_rows(s.key, s.keys));
    }
    c.q = q;
    c.o = std::move(o);
    c.lse = Buffer<Real>(q.rows() * H);
    const bool done = attend<false>(editor_of(batch), c);
    o = std::move(c.o);
    return done;
  }

  detail::Attending<Real> attending() const noexcept {
    detail::Attending<Real> a;
    a.rule.query_heads = H;
    a.rule.key_heads = K;
    a.rule.scale = static_cast<Real>(config.scale);
    return a;
  }
  /// f(i, row) for the keys that have an offset; `first`: which row of the context keys begin with.
  template <class F>
  static void for_each_offset(Index first, MatrixView<Real> keys, F f) {
    if constexpr (C.key_offsets > 0) {
      for (Index i = first; i < std::min(C.key_offsets, first + keys.rows); ++i) {
        f(i, keys.row(i - first));
      }
    }
  }
  static void add_row(const Real* from, Real* to) noexcept {
    simd::for_each<Real>(K * d, [&](Index c, auto load, auto store) {
      store(to + c, load(to + c) + load(from + c));
    });
  }

  /// q, k, v and which rows of them belong together.
  bool project(SequenceView<Real, D> x, SequenceView<Real, N> context, const Batch<NoState>& batch,
               const Batch<NoState>& contexts, Cache& c) const {
    if (!batch.fits(x.rows()) || !contexts.fits(context.rows())) return false;
    if (contexts.count() != batch.count() && contexts.count() != 1) {
      fail({"CrossAttention: contexts", std::to_string(batch.count()) + ", or one for all",
            std::to_string(contexts.count())});
      return false;
    }
    c.q = linear(x, q_proj, data_or_null(q_bias));
    c.k = linear(context, k_proj, data_or_null(k_bias));
    c.v = linear(context, v_proj, data_or_null(v_bias));
    c.o = Sequence<Real, H * d>(x.rows());
    c.lse = Buffer<Real>(x.rows() * H);
    // With one context for all, all rows are one sequence: nothing tells them apart.
    c.sequences = Buffer<detail::SequenceRows>(contexts.count());
    for (Index b = 0; b < contexts.count(); ++b) {
      const Index row = contexts.count() == 1 ? 0 : batch.begin(b);
      const Index end = contexts.count() == 1 ? x.rows() : batch.end(b, x.rows());
      const Index key = contexts.begin(b), keys = contexts.end(b, context.rows()) - key;
      c.sequences[b] = {row, end - row, key, keys, 0};
      for_each_offset(0, c.k.matrix().middle_rows(key, keys), [&](Index i, Real* to) {
        add_row(data_or_null(key_offset) + i * K * d, to);
      });
    }
    return true;
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
