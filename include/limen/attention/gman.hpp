#pragma once
/// @file  GMAN: what sensors on a network will read, from what they read and what time it is.
///
///   e_tn = FC(S_n) + FC(day_t ‖ slot_t)                where and when
///   x = FC(value), then L blocks [x ‖ e] -> x          the past: P steps
///   q = relu(W_q e_future), k = relu(W_k e_past), v = relu(W_v x)
///   x' = FC(softmax(q kᵀ / √d) v)                      each future step from all past ones
///   L blocks [x' ‖ e] -> x', y = FC(x')                the future: Q steps
///
///   FC: Linear, relu, Linear; K heads of d, D = K d; S [N x D]
///
/// A row of x is a time step: [N values ‖ day of the week ‖ slot of the day]. The last Q rows of a
/// sequence are the future, whose values are not looked at; all before are the past, however many.
/// Rows of y in the future hold the N values foretold, those of the past are 0. With no past the
/// heads have nothing to read. S may be learned, or made from the network beforehand (the paper
/// takes node2vec).
///
/// Zheng et al., arXiv:1911.08415; its batch norms are left out. All of time is needed: no step.

#include <array>
#include <cmath>

#include <limen/attention/gman_embedding.hpp>

namespace limen::inline LIMEN_ABI {

template <GmanConfig C, class S = float>
struct Gman {
  static_assert(C.nodes > 0, "Gman: .nodes must be positive");
  static_assert(C.heads > 0 && C.d_head > 0, "Gman: .heads and .d_head must be positive");
  static_assert(C.blocks > 0, "Gman: .blocks must be positive");
  static_assert(C.horizon > 0, "Gman: .horizon must say how many steps are foretold");
  static_assert(C.slots > 0, "Gman: .slots must say how many steps a day has");

  static constexpr GmanConfig config = C;
  static constexpr Index N = C.nodes, D = C.d(), Days = 7, Slots = C.slots, in = N + 2, out = N;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Gman<C, T>;
  using Block = GmanBlock<C, S>;
  using Two = detail::TwoLinear<D, D, D, S>;
  using Stack = detail::BlockStack<Block, C.blocks>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, N, D> nodes;             ///< S
  Two node_fc;                          ///< FC of S
  Tensor<Real, Days + Slots, D> times;  ///< first half of FC of days and slots: a row for each
  Tensor<Real, D> times_bias;
  Linear<LinearConfig{D, D}, S> times_out;  ///< its second half
  detail::TwoLinear<1, D, D, S> input;
  Stack encoder;
  Weight<S, D, D> q_proj, k_proj, v_proj;  ///< W_q, W_k, W_v
  Tensor<Real, D> q_bias, k_bias, v_bias;
  Two transform;
  Stack decoder;
  detail::TwoLinear<D, 1, D, S> output;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("nodes", l.nodes...);
    f("node_fc", l.node_fc...);
    f("times", l.times...);
    f("times.bias", l.times_bias...);
    f("times.out", l.times_out...);
    f("input", l.input...);
    f("encoder", l.encoder...);
    f("q_proj.weight", l.q_proj...);
    f("q_proj.bias", l.q_bias...);
    f("k_proj.weight", l.k_proj...);
    f("k_proj.bias", l.k_bias...);
    f("v_proj.weight", l.v_proj...);
    f("v_proj.bias", l.v_bias...);
    f("transform", l.transform...);
    f("decoder", l.decoder...);
    f("output", l.output...);
  }

  static Gman initialized(Random& random) {
    Gman layer;
    fill_normal(layer.nodes, 1, random);
    detail::start_two(layer.node_fc, random);
    fill_uniform(layer.times, std::sqrt(6 / static_cast<double>(Days + Slots + D)), random);
    detail::start_linear(layer.times_out.weight, random);
    detail::start_two(layer.input, random);
    for (Block& block : layer.encoder.at) block = Block::initialized(random);
    for (auto* w : {&layer.q_proj, &layer.k_proj, &layer.v_proj}) detail::start_linear(*w, random);
    detail::start_two(layer.transform, random);
    for (Block& block : layer.decoder.at) block = Block::initialized(random);
    detail::start_two(layer.output, random);
    return layer;
  }

  // ── Whole sequences ────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x N + 2] -> y [T x N]
  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    const FlushDenormals guard;
    Cache cache;
    const auto through = [](const auto& layer, auto h, Batch<State> rows, auto&) {
      using L = std::remove_cvref_t<decltype(layer)>;
      return layer.forward(SequenceView<Real, L::in>(h), detail::rows_for<L>(rows));
    };
    return run(x, batch, cache, through);
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const {
    static_assert(sizeof...(Asked) > 99,
                  "Gman: foretells many steps from many, so it has no step; use forward");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Index rows = 0;
    detail::GmanPlan plan;
    typename detail::GmanEmbedding<Gman>::Cache places;
    detail::cache_of<Two> transform;
    detail::cache_of<detail::TwoLinear<1, D, D, S>> input;
    std::array<detail::cache_of<Block>, std::size_t{C.blocks}> encoder, decoder;
    Sequence<Real, D> e_past, e_future, x;  ///< x: the last of the encoder
    Sequence<Real, D> q, k, v, o;
    Buffer<Real> lse;
    detail::cache_of<detail::TwoLinear<D, 1, D, S>> output;
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    const auto through = [](const auto& layer, auto h, Batch<State> rows, auto& c) {
      using L = std::remove_cvref_t<decltype(layer)>;
      return layer.forward(std::move(h), detail::rows_for<L>(rows), c);
    };
    return run(SequenceView<Real, in>(x), batch, cache, through);
  }

  /// Back through decoder, heads and encoder. e has its share in every block and in q and k.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& c,
                              Gman& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), c.rows)) return {};
    const FlushDenormals guard;
    const auto past = batch_of(c.plan.past), future = batch_of(c.plan.future);
    Sequence<Real, 1> d(c.e_future.rows());
    detail::each_value(c.plan.future_row, N,
                       [&](Index i, Index t, Index n) { d(i, 0) = dy(t, n); });
    auto dx = output.backward(d, {}, c.output, gradient.output);
    Sequence<Real, D> de_future = Sequence<Real, D>::zeros(dx.rows());
    blocks_back(decoder, c.decoder, gradient.decoder, future, dx, de_future);
    const auto d_o = transform.backward(dx, {}, c.transform, gradient.transform);
    Sequence<Real, D> dq(c.q.rows()), dk(c.k.rows()), dv(c.k.rows());
    detail::attend_groups_backward<Real>(
        rule(), c.plan.nodes(),
        {c.q.matrix(), c.k.matrix(), c.v.matrix(), c.o.matrix(), c.lse.data(), d_o.matrix(),
         dq.matrix(), dk.matrix(), dv.matrix()});
    const auto back = [&](const auto& y, auto& dz, const auto& from, auto& dw, auto& db) {
      detail::relu_backward(y.data(), dz.data(), dz.size());
      add_linear_weight_gradient<Real, D, D>(dz, from, dw);
      add_bias_gradient<Real, D>(dz, db);
    };
    back(c.q, dq, c.e_future, gradient.q_proj, gradient.q_bias);
    back(c.k, dk, c.e_past, gradient.k_proj, gradient.k_bias);
    back(c.v, dv, c.x, gradient.v_proj, gradient.v_bias);
    add_linear_input_gradient<Real, D, D>(dq, q_proj, de_future);
    auto de_past = linear_input_gradient<Real, D, D>(dk, k_proj);
    dx = linear_input_gradient<Real, D, D>(dv, v_proj);
    blocks_back(encoder, c.encoder, gradient.encoder, past, dx, de_past);
    const auto d_values = input.backward(dx, {}, c.input, gradient.input);
    places().back(c.plan, c.places, de_past, de_future, gradient);
    auto result = Sequence<Real, in>::zeros(c.rows);
    detail::each_value(c.plan.past_row, N,
                       [&](Index i, Index t, Index n) { result(t, n) = d_values(i, 0); });
    return result;
  }

 private:
  static AttentionRule<Real> rule() {
    AttentionRule<Real> r;
    r.query_heads = r.key_heads = C.heads;
    return r;
  }
  detail::GmanEmbedding<Gman> places() const { return {*this}; }
  static Batch<State> batch_of(const Buffer<Index>& offsets) {
    return Batch<State>(detail::GmanPlan::offsets(offsets));
  }

  template <class Through>
  Sequence<Real, out> run(SequenceView<Real, in> x, const Batch<State>& batch, Cache& c,
                          Through through) const {
    if (!batch.fits(x.rows()) || !places().read_times(x, c.places)) return {};
    c.rows = x.rows();
    c.plan = detail::GmanPlan(N, C.horizon, batch, x.rows());
    const auto past = batch_of(c.plan.past), future = batch_of(c.plan.future);
    places().run(c.plan, c.places, through, c.e_past, c.e_future);
    Sequence<Real, 1> values(c.e_past.rows());
    detail::each_value(c.plan.past_row, N,
                       [&](Index i, Index t, Index n) { values(i, 0) = x(t, n); });
    c.x = through(input, std::move(values), past, c.input);
    for (std::size_t l = 0; l < encoder.at.size(); ++l) {
      c.x = through(encoder.at[l], beside(c.x, c.e_past), past, c.encoder[l]);
    }
    c.q = linear(c.e_future, q_proj, q_bias.data(), Activation::relu);
    c.k = linear(c.e_past, k_proj, k_bias.data(), Activation::relu);
    c.v = linear(c.x, v_proj, v_bias.data(), Activation::relu);
    c.o = Sequence<Real, D>(c.q.rows());
    c.lse = Buffer<Real>(c.q.rows() * C.heads);
    detail::attend_groups<Real>(rule(), c.plan.nodes(), std::as_const(c.q).matrix(),
                                std::as_const(c.k).matrix(), std::as_const(c.v).matrix(),
                                c.o.matrix(), c.lse.data());
    auto h = through(transform, Sequence<Real, D>(c.o), future, c.transform);
    for (std::size_t l = 0; l < decoder.at.size(); ++l) {
      h = through(decoder.at[l], beside(h, c.e_future), future, c.decoder[l]);
    }
    const auto foretold = through(output, std::move(h), future, c.output);
    auto y = Sequence<Real, out>::zeros(x.rows());
    detail::each_value(c.plan.future_row, N,
                       [&](Index i, Index t, Index n) { y(t, n) = foretold(i, 0); });
    return y;
  }

  /// [x ‖ e]
  static Sequence<Real, 2 * D> beside(const Sequence<Real, D>& x, const Sequence<Real, D>& e) {
    Sequence<Real, 2 * D> both(x.rows());
    copy_rows(x.matrix(), both.matrix().middle_cols(0, D));
    copy_rows(e.matrix(), both.matrix().middle_cols(D, D));
    return both;
  }

  /// dx through the blocks, last first; de gathers.
  static void blocks_back(const Stack& stack,
                          const std::array<detail::cache_of<Block>, std::size_t{C.blocks}>& caches,
                          Stack& gradient, const Batch<State>& batch, Sequence<Real, D>& dx,
                          Sequence<Real, D>& de) {
    for (std::size_t l = stack.at.size(); l-- > 0;) {
      const auto both = stack.at[l].backward(dx, batch, caches[l], gradient.at[l]);
      copy_rows(both.matrix().middle_cols(0, D), dx.matrix());
      add_rows(both.matrix().middle_cols(D, D), de.matrix());
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
