#pragma once
/// @file  Two branches that look at each other: cells (of a picture, a sequence) and a few latents,
/// from which a network can be left early.
///
///   cells   x' = C(x; z)            every cell reads the latents
///   latents z' = S_n(... S_1(C(z; x')))   the latents read the cells, then each other, n times
///
///   C(q; c) = r + M(r),  r = q + A(n(q), n(c))     A cross attention, n layer norms
///   S(z)    = r + M(r),  r = z + A(n(z), n(z))     M(r) = W_2 gelu(W_1 n(r) + b_1) + b_2
///
/// A sequence is its latents, the first L rows, then its cells: [L + cells x D]. So blocks follow
/// each other, and exits read the rows they want. Classes are decided by latents, so that cells
/// need not be ready to be told apart early. Between stages `LatentMixer` makes fewer, wider
/// latents.
///
/// Han et al., "Dynamic Perceiver for Efficient Visual Recognition", arXiv:2306.11248, section 3.

#include <limen/attention/cross_attention.hpp>
#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct DynamicPerceiverConfig {
  Index d_model = 0;      ///< D
  Index latents = 0;      ///< L
  Index cells = 0;        ///< so many first cells have learned offsets of their keys; 0: none
  Index heads = 1;        ///< of latents that read cells
  Index cell_heads = 1;   ///< of cells that read latents
  Index cell_narrow = 8;  ///< these heads together are D over this wide
  Index self_layers = 1;  ///< n
  Index self_heads = 1;
  Index widening = 4;  ///< of M among the latents; where branches meet it is 1
  double eps = 1e-5;   ///< of norms
};

namespace detail {

template <LayerNormConfig N, Index hidden, class S>
using PerceiverMlp =
    Residual<Sequential<LayerNorm<N, S>, Linear<LinearConfig{.d_in = N.d, .d_out = hidden}, S>,
                        Activate<ActivateConfig{.d = hidden, .activation = Activation::gelu}, S>,
                        Linear<LinearConfig{.d_in = hidden, .d_out = N.d}, S>>>;

/// C(q; c): rows q of many sequences, each with a context.
template <CrossAttentionConfig A, LayerNormConfig N, class S>
struct PerceiverCross {
  static constexpr Index D = A.d_model;
  using Scalar = real_of<S>;
  using Real = Scalar;
  using Norm = LayerNorm<N, S>;
  using Ask = CrossAttention<A, S>;
  using Mlp = PerceiverMlp<N, D, S>;
  using Rows = Batch<NoState>;

  Norm q_norm, kv_norm;
  Ask attention;
  Mlp mlp;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("q_norm", l.q_norm...);
    f("kv_norm", l.kv_norm...);
    f("attention", l.attention...);
    f("mlp", l.mlp...);
  }
  static PerceiverCross initialized(Random& random) {
    return {Norm::initialized(random), Norm::initialized(random), Ask::initialized(random),
            Mlp::initialized(random)};
  }

  Sequence<Real, D> forward(Sequence<Real, D> q, SequenceView<Real, D> c, Rows of_q,
                            Rows of_c) const {
    of_q.context = nullptr;  // an editor means the latents among themselves
    const auto read = attention.forward(SequenceView<Real, D>(q_norm.forward(q, {})),
                                        SequenceView<Real, D>(kv_norm.forward(c, {})), of_q, of_c);
    add_rows(read.matrix(), q.matrix());
    return mlp.forward(q, {});
  }

  struct Cache {
    typename Norm::Cache q, kv;
    cache_of<Ask> attention;
    cache_of<Mlp> mlp;
  };
  Sequence<Real, D> forward(Sequence<Real, D> q, SequenceView<Real, D> c, Rows of_q, Rows of_c,
                            Cache& cache) const {
    of_q.context = nullptr;
    const auto read =
        attention.forward(q_norm.forward(q, {}, cache.q), kv_norm.forward(c.copy(), {}, cache.kv),
                          of_q, of_c, cache.attention);
    add_rows(read.matrix(), q.matrix());
    return mlp.forward(std::move(q), {}, cache.mlp);
  }
  /// dq; dc is added to.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Sequence<Real, D>& dc, const Cache& cache,
                             PerceiverCross& gradient) const {
    auto dr = mlp.backward(dy, {}, cache.mlp, gradient.mlp);
    const auto d = attention.backward(dr, cache.attention, gradient.attention);
    const auto dq = q_norm.backward(d.x, {}, cache.q, gradient.q_norm);
    add_rows(dq.matrix(), dr.matrix());
    const auto dk = kv_norm.backward(d.context, {}, cache.kv, gradient.kv_norm);
    add_rows(dk.matrix(), dc.matrix());
    return dr;
  }
};

/// Where the latents and the cells of each sequence are, in rows of their own.
struct TwoBranches {
  Buffer<Index> latents, cells;  ///< offsets

  template <class State>
  TwoBranches(const Batch<State>& batch, Index rows, Index L)
      : latents(batch.count() + 1), cells(batch.count() + 1) {
    latents[0] = cells[0] = 0;
    for (Index b = 0; b < batch.count(); ++b) {
      const Index n = batch.end(b, rows) - batch.begin(b), few = std::min(n, L);
      latents[b + 1] = latents[b] + few;
      cells[b + 1] = cells[b] + n - few;
    }
  }
  static Batch<NoState> batch(const Buffer<Index>& offsets, Context* run) {
    return Batch<NoState>(
        std::span<const Index>(offsets.data(), static_cast<std::size_t>(offsets.size())), run);
  }
  Batch<NoState> of_latents(Context* run = nullptr) const { return batch(latents, run); }
  Batch<NoState> of_cells(Context* run = nullptr) const { return batch(cells, run); }

  template <class Real>
  void split(MatrixView<const Real> all, MatrixView<Real> z, MatrixView<Real> x) const {
    walk([&](Index row, Index branch_row, Index n, bool cell) {
      copy_rows(all.middle_rows(row, n), (cell ? x : z).middle_rows(branch_row, n));
    });
  }
  template <class Real>
  void join(MatrixView<const Real> z, MatrixView<const Real> x, MatrixView<Real> all) const {
    walk([&](Index row, Index branch_row, Index n, bool cell) {
      copy_rows((cell ? x : z).middle_rows(branch_row, n), all.middle_rows(row, n));
    });
  }
  Index latent_rows() const { return latents[latents.size() - 1]; }
  Index cell_rows() const { return cells[cells.size() - 1]; }

 private:
  /// f(row of all, row of the branch, rows, are they cells)
  template <class F>
  void walk(F f) const {
    for (Index b = 0; b + 1 < latents.size(); ++b) {
      const Index few = latents[b + 1] - latents[b], many = cells[b + 1] - cells[b];
      f(latents[b] + cells[b], latents[b], few, false);
      f(latents[b + 1] + cells[b], cells[b], many, true);
    }
  }
};

}  // namespace detail

template <DynamicPerceiverConfig C, class S = float>
struct DynamicPerceiver {
  static_assert(C.d_model > 0 && C.latents > 0,
                "DynamicPerceiver: .d_model and .latents must be positive");
  static_assert(C.cell_narrow > 0 && C.d_model % (C.cell_narrow * C.cell_heads) == 0,
                "DynamicPerceiver: .cell_narrow times .cell_heads must divide .d_model");
  static_assert(C.self_layers > 0, "DynamicPerceiver: .self_layers must be positive");

  static constexpr DynamicPerceiverConfig config = C;
  static constexpr Index D = C.d_model, L = C.latents, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = DynamicPerceiver<C, T>;

  static constexpr CrossAttentionConfig asks_latents{
      .d_model = D,
      .n_heads = C.cell_heads,
      .d_head = D / (C.cell_narrow * C.cell_heads),
      .capacity = 1,  // of a state, which nobody has here
      .out_bias = true};
  static constexpr CrossAttentionConfig asks_cells{
      .d_model = D, .n_heads = C.heads, .capacity = 1, .out_bias = true, .key_offsets = C.cells};
  static constexpr AttentionConfig among{
      .d_model = D, .n_heads = C.self_heads, .causal = false, .out_bias = true};
  static constexpr LayerNormConfig norm{.d = D, .eps = config.eps};
  using Self = Sequential<Residual<Sequential<LayerNorm<norm, S>, Attention<among, S>>>,
                          detail::PerceiverMlp<norm, C.widening * D, S>>;
  using ToCells = detail::PerceiverCross<asks_latents, norm, S>;
  using ToLatents = detail::PerceiverCross<asks_cells, norm, S>;
  using Latents = Repeat<C.self_layers, Self>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  ToCells to_cells;
  ToLatents to_latents;
  Latents self;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("to_cells", m.to_cells...);
    f("to_latents", m.to_latents...);
    f("self", m.self...);
  }
  static DynamicPerceiver initialized(Random& random) {
    return {ToCells::initialized(random), ToLatents::initialized(random),
            Latents::initialized(random)};
  }

  // ── Whole sequence; a step there is none: latents read all cells ───────────────────────────────
  using State = NoState;

  /// [L + cells x D] -> the same, of each sequence
  Sequence<Real, D> forward(SequenceView<Real, D> both, Batch<State> batch) const {
    if (!batch.fits(both.rows())) return {};
    const FlushDenormals guard;
    const detail::TwoBranches rows(batch, both.rows(), L);
    Sequence<Real, D> z(rows.latent_rows()), x(rows.cell_rows());
    rows.split<Real>(both.matrix(), z.matrix(), x.matrix());
    const auto of_z = rows.of_latents(batch.context), of_x = rows.of_cells(batch.context);
    x = to_cells.forward(std::move(x), z, of_x, of_z);
    z = to_latents.forward(std::move(z), x, of_z, of_x);
    z = self.forward(z, in_parts(of_z));
    Sequence<Real, D> y(both.rows());
    rows.join<Real>(z.matrix(), x.matrix(), y.matrix());
    return y;
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const {
    static_assert(detail::never_with<Asked...>,
                  "step: latents read all cells, DynamicPerceiver needs the whole sequence");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    typename ToCells::Cache to_cells;
    typename ToLatents::Cache to_latents;
    detail::cache_of<Latents> self;
    Index rows = 0;
  };

  Sequence<Real, D> forward(Sequence<Real, D> both, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(both.rows())) return {};
    const FlushDenormals guard;
    const detail::TwoBranches rows(batch, both.rows(), L);
    Sequence<Real, D> z(rows.latent_rows()), x(rows.cell_rows());
    rows.split<Real>(both.matrix(), z.matrix(), x.matrix());
    const auto of_z = rows.of_latents(batch.context), of_x = rows.of_cells(batch.context);
    x = to_cells.forward(std::move(x), z, of_x, of_z, cache.to_cells);
    z = to_latents.forward(std::move(z), x, of_z, of_x, cache.to_latents);
    z = self.forward(std::move(z), in_parts(of_z), cache.self);
    rows.join<Real>(z.matrix(), x.matrix(), both.matrix());
    cache.rows = both.rows();
    return both;
  }

  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             DynamicPerceiver& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.rows)) return {};
    const FlushDenormals guard;
    const detail::TwoBranches rows(batch, dy.rows(), L);
    Sequence<Real, D> dz(rows.latent_rows()), dx(rows.cell_rows());
    rows.split<Real>(dy.matrix(), dz.matrix(), dx.matrix());
    dz = self.backward(dz, in_parts(rows.of_latents(batch.context)), cache.self, gradient.self);
    dz = to_latents.backward(dz, dx, cache.to_latents, gradient.to_latents);
    dx = to_cells.backward(dx, dz, cache.to_cells, gradient.to_cells);
    Sequence<Real, D> d_both(dy.rows());
    rows.join<Real>(dz.matrix(), dx.matrix(), d_both.matrix());
    return d_both;
  }

 private:
  /// Rows as the self-attention, which has a type of state of its own, sees them.
  static Batch<typename Latents::State> in_parts(const Batch<NoState>& rows) {
    return Batch<typename Latents::State>(
        std::span<const Index>(rows.offsets(), static_cast<std::size_t>(rows.count()) + 1),
        rows.context);
  }
};

}  // namespace limen::inline LIMEN_ABI
