#pragma once
/// @file  Attention within groups of rows: over the nodes of a time step, or over the time of a
/// node.
///
///   q, k, v = relu(x W + b),  o = softmax(q kᵀ / √d) v for each head, within a group
///   y = W_2 relu(W_1 o + b_1) + b_2
///
///   x [T N x I], rows of T time steps with N nodes each; K heads of d, D = K d; o, y [T N x D]
///
/// Over nodes each step is a group, over time each node is one. Zheng et al., "GMAN: A graph
/// multi-attention network for traffic prediction", arXiv:1911.08415, equations 2 to 8. It needs
/// whole steps, or all of time, so there is no step.

#include <span>

#include <limen/attention/attend.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/core/denormals.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

enum class Over { nodes, time };

struct RowAttentionConfig {
  Index d_in = 0;          ///< I
  Index heads = 0;         ///< K
  Index d_head = 0;        ///< d
  Index nodes = 0;         ///< N
  Over over = Over::time;  ///< what a row listens to
  bool causal = false;     ///< over time: only to what was before
};

namespace detail {

/// A Linear, relu, and a Linear: 1 x 1 convolutions of the paper.
template <Index I, Index O, Index H, class S>
using TwoLinear = Sequential<Linear<LinearConfig{I, H}, S>,
                             Activate<ActivateConfig{.d = H, .activation = Activation::relu}, S>,
                             Linear<LinearConfig{H, O}, S>>;

/// Weights uniform with limit sqrt(6 / (in + out)), biases 0.
template <Index O, Index I, class Real>
void start_linear(Tensor<Real, O, I>& w, Random& random) {
  fill_uniform(w, std::sqrt(6 / static_cast<double>(O + I)), random);
}
template <class L>
void start_two(L& two, Random& random) {
  start_linear(get<0>(two.layers).weight, random);
  start_linear(get<2>(two.layers).weight, random);
}

/// Queries and keys of a group: so many rows, from a first one on, some rows apart.
struct RowGroup {
  Index query, queries, key, keys, apart;
};

template <class Real>
MatrixView<Real> rows_apart(MatrixView<Real> x, Index first, Index count, Index apart) {
  return {x.middle_rows(first, count).data, count, x.cols, x.stride * apart};
}

template <class Real>
AttentionCall<Real> call_of_group(const RowGroup& g, MatrixView<const Real> q,
                                  MatrixView<const Real> k, MatrixView<const Real> v,
                                  MatrixView<Real> o, Real* lse) {
  AttentionCall<Real> c;
  c.q = rows_apart(q, g.query, g.queries, g.apart);
  c.k = rows_apart(k, g.key, g.keys, g.apart);
  c.v = rows_apart(v, g.key, g.keys, g.apart);
  c.y = rows_apart(o, g.query, g.queries, g.apart);
  c.lse = lse;
  return c;
}

/// `lse` [queries of all groups][heads], in the order of the groups.
template <class Real>
void attend_groups(const AttentionRule<Real>& rule, std::span<const RowGroup> groups,
                   MatrixView<const Real> q, MatrixView<const Real> k, MatrixView<const Real> v,
                   MatrixView<Real> o, Real* lse) {
  PooledList<AttentionCall<Real>> calls(static_cast<Index>(groups.size()));
  for (const RowGroup& g : groups) {
    calls.add(call_of_group(g, q, k, v, o, lse));
    lse += g.queries * rule.query_heads;
  }
  attention<Real>(rule, calls.span());
}

/// What `attend_groups` was given, the gradient of o, and where those of q, k and v go.
template <class Real>
struct GroupsBackward {
  MatrixView<const Real> q, k, v, o;
  const Real* lse;
  MatrixView<const Real> d_o;
  MatrixView<Real> dq, dk, dv;
};

template <class Real>
void attend_groups_backward(const AttentionRule<Real>& rule, std::span<const RowGroup> groups,
                            const GroupsBackward<Real>& b) {
  PooledList<AttentionGradient<Real>> all(static_cast<Index>(groups.size()));
  Real* lse = const_cast<Real*>(b.lse);  // a call may write them; backward does not
  const MatrixView<Real> o{const_cast<Real*>(b.o.data), b.o.rows, b.o.cols, b.o.stride};
  for (const RowGroup& g : groups) {
    AttentionGradient<Real> d;
    d.call = call_of_group<Real>(g, b.q, b.k, b.v, o, lse);
    d.dy = rows_apart(b.d_o, g.query, g.queries, g.apart);
    d.dq = rows_apart(b.dq, g.query, g.queries, g.apart);
    d.dk = rows_apart(b.dk, g.key, g.keys, g.apart);
    d.dv = rows_apart(b.dv, g.key, g.keys, g.apart);
    all.add(d);
    lse += g.queries * rule.query_heads;
  }
  attention_backward<Real>(rule, all.span());
}

/// dz = dy where relu let something through; y = relu(z).
template <class Real>
void relu_backward(const Real* y, Real* dy, Index n) {
  using V = simd::Vec<Real>;
  simd::for_each<Real>(n, [&](Index i, auto load, auto store) {
    store(dy + i, simd::select(load(y + i) > V(Real(0)), load(dy + i), V(Real(0))));
  });
}

/// Groups of the sequences of a batch of [T][N] rows.
inline Buffer<RowGroup> groups_of(Over over, Index nodes, const Batch<NoState>& batch, Index rows) {
  Index count = 0;
  for (Index b = 0; b < batch.count(); ++b) {
    const Index steps = (batch.end(b, rows) - batch.begin(b)) / nodes;
    count += over == Over::nodes ? steps : steps > 0 ? nodes : 0;
  }
  Buffer<RowGroup> groups(count);
  RowGroup* to = groups.data();
  for (Index b = 0; b < batch.count(); ++b) {
    const Index first = batch.begin(b), steps = (batch.end(b, rows) - first) / nodes;
    if (over == Over::nodes) {
      for (Index t = 0; t < steps; ++t) {
        const Index row = first + t * nodes;
        *to++ = {row, nodes, row, nodes, 1};
      }
    } else {
      for (Index n = 0; steps > 0 && n < nodes; ++n) {
        *to++ = {first + n, steps, first + n, steps, nodes};
      }
    }
  }
  return groups;
}

/// Reports and says no if a sequence ends amid a time step.
inline bool whole_steps(Index nodes, const Batch<NoState>& batch, Index rows) {
  if (!batch.fits(rows)) return false;
  for (Index b = 0; b < batch.count(); ++b) {
    const Index length = batch.end(b, rows) - batch.begin(b);
    if (length % nodes == 0) continue;
    fail({"rows of sequence " + std::to_string(b),
          "time steps of " + std::to_string(nodes) + " nodes", std::to_string(length)});
    return false;
  }
  return true;
}

}  // namespace detail

template <RowAttentionConfig C, class S = float>
struct RowAttention {
  static_assert(C.d_in > 0, "RowAttention: .d_in must be positive");
  static_assert(C.heads > 0 && C.d_head > 0, "RowAttention: .heads and .d_head must be positive");
  static_assert(C.nodes > 0, "RowAttention: .nodes must be positive");
  static_assert(!C.causal || C.over == Over::time, "RowAttention: nodes have no before and after");

  static constexpr RowAttentionConfig config = C;
  static constexpr Index I = C.d_in, K = C.heads, D = K * C.d_head, in = I, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = RowAttention<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, 3 * D, I> qkv;               ///< W of q, k and v, one below the other
  Tensor<Real, 3 * D> qkv_bias;          ///< b
  detail::TwoLinear<D, D, D, S> output;  ///< W_1, b_1, W_2, b_2

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("qkv.weight", l.qkv...);
    f("qkv.bias", l.qkv_bias...);
    f("output", l.output...);
  }

  static RowAttention initialized(Random& random) {
    RowAttention layer;
    fill_uniform(layer.qkv, std::sqrt(6 / static_cast<double>(I + D)), random);
    detail::start_two(layer.output, random);
    return layer;
  }

  // ── Whole sequences ────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T N x I] -> y [T N x D]
  Sequence<Real, D> forward(SequenceView<Real, I> x, Batch<State> batch) const {
    if (!detail::whole_steps(C.nodes, batch, x.rows())) return {};
    const FlushDenormals guard;
    Cache cache;
    return output.forward(attended(x, batch, cache), {});
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const {
    static_assert(sizeof...(Asked) > 99,
                  "RowAttention: looks at whole groups of rows, so it has no step; use forward");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, I> x;
    Sequence<Real, 3 * D> qkv;  ///< after relu
    Sequence<Real, D> o;
    Buffer<Real> lse;
    Buffer<detail::RowGroup> groups;
    typename detail::TwoLinear<D, D, D, S>::Cache output;
  };

  Sequence<Real, D> forward(Sequence<Real, I> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!detail::whole_steps(C.nodes, batch, x.rows())) return {};
    const FlushDenormals guard;
    cache.o = attended(x, batch, cache);
    cache.x = std::move(x);
    return output.forward(Sequence<Real, D>(cache.o), {}, cache.output);
  }

  /// The way back through W_2, relu, W_1, softmax, relu and W.
  Sequence<Real, I> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& c,
                             RowAttention& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.x.rows())) return {};
    const FlushDenormals guard;
    const auto d_o = output.backward(dy, {}, c.output, gradient.output);
    Sequence<Real, 3 * D> d(dy.rows());
    const auto m = c.qkv.matrix();
    const auto dm = d.matrix();
    detail::attend_groups_backward<Real>(
        rule(), {c.groups.data(), static_cast<std::size_t>(c.groups.size())},
        {m.middle_cols(0, D), m.middle_cols(D, D), m.middle_cols(2 * D, D), c.o.matrix(),
         c.lse.data(), d_o.matrix(), dm.middle_cols(0, D), dm.middle_cols(D, D),
         dm.middle_cols(2 * D, D)});
    detail::relu_backward(c.qkv.data(), d.data(), d.size());
    add_linear_weight_gradient<Real, 3 * D, I>(d, c.x, gradient.qkv);
    add_bias_gradient<Real, 3 * D>(d, gradient.qkv_bias);
    return linear_input_gradient<Real, 3 * D, I>(d, qkv);
  }

 private:
  static AttentionRule<Real> rule() {
    AttentionRule<Real> r;
    r.query_heads = r.key_heads = K;
    r.causal = C.causal;
    return r;
  }

  Sequence<Real, D> attended(SequenceView<Real, I> x, const Batch<State>& batch, Cache& c) const {
    c.groups = detail::groups_of(C.over, C.nodes, batch, x.rows());
    c.qkv = linear(x, qkv, qkv_bias.data(), Activation::relu);
    c.lse = Buffer<Real>(x.rows() * K);
    Sequence<Real, D> o(x.rows());
    const auto m = std::as_const(c.qkv).matrix();
    detail::attend_groups<Real>(
        rule(), {c.groups.data(), static_cast<std::size_t>(c.groups.size())}, m.middle_cols(0, D),
        m.middle_cols(D, D), m.middle_cols(2 * D, D), o.matrix(), c.lse.data());
    return o;
  }
};

}  // namespace limen::inline LIMEN_ABI
