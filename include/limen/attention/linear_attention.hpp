#pragma once
/// @file  Attention without a softmax: a sum over the past that is kept, not computed again.
///
///   q, k = φ(x W_q), φ(x W_k),  v = x W_v                          for each of H heads
///   S_t = S_{t-1} + k_t v_tᵀ,   z_t = z_{t-1} + k_t
///   o_t = S_tᵀ q_t / (z_t·q_t + ε),   y = W_o o                     without .normalize no division
///
///   T time   D d_model   d d_head   v, o [T x H d]   q, k [T x H F]   S [H][F][d], z [H][F]
///
/// F features of a head: d, or .features.
/// z is one more column of S, whose value is always 1. The cost of a step and the size of the state
/// do not depend on t. Without .causal all rows are summed up first and every row reads the same S.
///
/// φ: feature_maps.hpp. Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236,
/// equation 7.

#include <limen/attention/feature_maps.hpp>
#include <limen/attention/linear_sums.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

template <LinearAttentionConfig C, class S = float>
struct LinearAttention {
  static_assert(C.d_model > 0, "LinearAttention: .d_model must be positive");
  static_assert(C.n_heads > 0 && (C.d_head > 0 || C.d_model % C.n_heads == 0),
                "LinearAttention: .n_heads must divide .d_model, or .d_head be given");
  static_assert(!C.normalize || C.map != FeatureMap::identity,
                "LinearAttention: what is normalised must not change its sign: "
                "take another .map, or .normalize = false");
  static_assert(C.map != FeatureMap::softmax || (!C.normalize && !C.causal),
                "LinearAttention: softmax needs all rows (.causal = false), and nothing is left to "
                "divide by (.normalize = false)");
  static_assert(C.features == 0 || C.map == FeatureMap::random,
                "LinearAttention: .features is for random ones; other maps have one a channel");
  static_assert(C.eps > 0, "LinearAttention: .eps must be positive");

  static constexpr LinearAttentionConfig config = C;
  static constexpr Index D = C.d_model, H = C.n_heads, d = C.head_width();
  static constexpr Index F = C.feature_width();  ///< features
  static constexpr Index P = C.sum_width();      ///< values, and the 1
  static constexpr bool is_random = C.map == FeatureMap::random;
  static constexpr bool is_softmax = C.map == FeatureMap::softmax;
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = LinearAttention<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H * d, D> q_proj, k_proj, v_proj;           ///< W_q, W_k, W_v
  Weight<S, D, H * d> o_proj;                           ///< W_o
  Optional<is_random, Statistic<Real, F, d>> features;  ///< ω, drawn and not learned

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("q_proj.weight", l.q_proj...);
    f("k_proj.weight", l.k_proj...);
    f("v_proj.weight", l.v_proj...);
    f("o_proj.weight", l.o_proj...);
    f("features", l.features...);
  }

  static LinearAttention initialized(Random& random) {
    LinearAttention layer;
    for (auto* w : {&layer.q_proj, &layer.k_proj, &layer.v_proj}) fill_fan_in(*w, random);
    fill_fan_in(layer.o_proj, random);
    if constexpr (is_random) draw_orthogonal_features(layer.features, random);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return rows * (4 * D * H * d + 2 * H * F * P + (is_random ? 2 * H * F * d : 0));
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State =
      std::conditional_t<!C.causal, NoState,
                         std::conditional_t<is_random, RandomAttentionState<Real, H, F, P>,
                                            LinearAttentionState<Real, H, F, P>>>;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Cache cache;
    return run(x, batch, cache, nullptr);
  }

  /// x [D] -> y [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept
    requires(C.causal)
  {
    const FlushDenormals guard;
    const auto q_in = linear(x, q_proj), k_in = linear(x, k_proj);
    auto v = linear(x, v_proj);
    Vector<Real, H * P> wide, o;
    Vector<Real, H * F> q, k;
    Vector<Real, H> decay;
    Sums::widen(v.matrix(), wide.matrix());
    if constexpr (is_random) {
      random_features().queries(q_in.matrix(), q.matrix());
      random_features().keys(k_in.matrix(), state.most.data(), decay.data(), k.matrix());
    } else {
      map(q_in.data(), q.data(), H * d);
      map(k_in.data(), k.data(), H * d);
    }
    sums_of(q, k, wide, decay.data()).step(state.s.data(), o.data());
    Sums::divide(o.matrix(), v.matrix());
    return linear(v, o_proj);
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
    Sequence<Real, D> x;               ///< [T x D]
    Sequence<Real, H * d> q_in, k_in;  ///< before φ
    Sequence<Real, H * F> q, k;        ///< after it
    Buffer<Real> decay;                ///< [T][H], of random features
    Sequence<Real, H * P> v;           ///< [v, 1]
    Sequence<Real, H * P> sums;        ///< Sᵀ q, and z·q
    Sequence<Real, H * d> o;           ///< what the heads say
    KeptStates<Real> states;           ///< S every 128 rows, or all sums of the sequences
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    auto y = run(SequenceView<Real, D>(x), batch, cache, &cache.states);
    cache.x = std::move(x);
    return y;
  }

  /// With m = z·q + ε:  d(Sᵀq) = do / m,  d(z·q) = -(do·o) / m;  dq, dk, dv through the sums
  /// (kernel/ssd.hpp), then through φ.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                             LinearAttention& gradient) const
    requires(!is_prepared<S>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, c.x.rows())) return {};
    const FlushDenormals guard;
    add_linear_weight_gradient<Real, D, H * d>(dy, c.o, gradient.o_proj);
    const auto d_o = linear_input_gradient<Real, D, H * d>(dy, o_proj);
    Sequence<Real, H * P> ds(T), dw(T);
    Sums::divide_back(d_o.matrix(), c.o.matrix(), c.sums.matrix(), ds.matrix());
    Sequence<Real, H * F> dq_mapped(T), dk_mapped(T);
    sums_of(c.q, c.k, c.v, c.decay.data())
        .back(batch, c.states, ds.matrix(), dq_mapped.matrix(), dk_mapped.matrix(), dw.matrix());
    Sequence<Real, H * d> dv(T);
    Sums::narrow(dw.matrix(), dv.matrix());
    if constexpr (is_softmax) {
      detail::for_each_sequence(batch, T, [&](auto rows) {
        detail::softmax_columns_backward<Real>(rows(c.k.matrix()), rows(dk_mapped.matrix()));
      });
    }
    const auto dq = map_back(c.q_in, c.q, std::move(dq_mapped), is_softmax);
    const auto dk = map_back(c.k_in, c.k, std::move(dk_mapped), false);
    Sequence<Real, D> dx = linear_input_gradient<Real, H * d, D>(dq, q_proj);
    add_linear_weight_gradient<Real, H * d, D>(dq, c.x, gradient.q_proj);
    add_linear_weight_gradient<Real, H * d, D>(dk, c.x, gradient.k_proj);
    add_linear_weight_gradient<Real, H * d, D>(dv, c.x, gradient.v_proj);
    add_linear_input_gradient<Real, H * d, D>(dk, k_proj, dx);
    add_linear_input_gradient<Real, H * d, D>(dv, v_proj, dx);
    return dx;
  }

 private:
  using Sums = detail::LinearSums<C, Real>;

  /// `decay`: of random features; others keep all.
  static Sums sums_of(const auto& q, const auto& k, const auto& wide, const Real* decay) noexcept {
    return {q.matrix(), k.matrix(), wide.matrix(), is_random ? decay : nullptr};
  }
  detail::RandomFeatures<Real> random_features() const noexcept { return {features.matrix(), H}; }

  static void map(const Real* from, Real* to, Index n) noexcept {
    simd::transform(from, to, n,
                    [](const auto& v) { return detail::feature<C.map>(v, config.floor); });
  }
  /// The gradient of what went into φ; `of_rows`: it was a softmax over the channels of a head.
  Sequence<Real, H * d> map_back(const Sequence<Real, H * d>& before,
                                 const Sequence<Real, H * F>& after, Sequence<Real, H * F> dy,
                                 [[maybe_unused]] bool of_rows) const {
    if constexpr (is_random) {
      Sequence<Real, H * d> dx(dy.rows());
      random_features().backward(before.matrix(), after.matrix(), dy.matrix(), dx.matrix());
      return dx;
    } else {
      if (of_rows) {
        const MatrixView<Real> heads{dy.data(), dy.rows() * H, d, d};
        softmax_backward<Real>({after.data(), dy.rows() * H, d, d}, heads, heads);
      } else if constexpr (!is_softmax) {
        simd::for_each<Real>(dy.size(), [&](Index i, auto load, auto store) {
          store(dy.data() + i,
                load(dy.data() + i) * detail::feature_slope<C.map>(load(before.data() + i)));
        });
      }
      return dy;
    }
  }

  void map_all(const Batch<State>& batch, Cache& c) const {
    const Index T = c.q.rows();
    if constexpr (is_random) {
      random_features().queries(c.q_in.matrix(), c.q.matrix());
      c.decay = Buffer<Real>(C.causal ? T * H : 0);
      for (Index b = 0; b < batch.count(); ++b) {
        const Index first = batch.begin(b), rows = batch.end(b, T) - first;
        const auto from = c.k_in.matrix().middle_rows(first, rows);
        const auto to = c.k.matrix().middle_rows(first, rows);
        Fixed<Real, H> resting;
        if constexpr (C.causal) {
          random_features().keys(from, (batch.carries() ? batch[b].most : resting).data(),
                                 c.decay.data() + first * H, to);
        } else {
          random_features().keys(from, resting.data(), to);
        }
      }
    } else if constexpr (is_softmax) {
      softmax<Real>({c.q_in.data(), T * H, d, d}, {c.q.data(), T * H, d, d});
      std::copy_n(c.k_in.data(), T * H * d, c.k.data());
      detail::for_each_sequence(
          batch, T, [&](auto rows) { detail::softmax_columns<Real>(rows(c.k.matrix())); });
    } else {
      map(c.q_in.data(), c.q.data(), c.q.size());
      map(c.k_in.data(), c.k.data(), c.k.size());
    }
  }

  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c,
                        KeptStates<Real>* kept) const {
    const Index T = x.rows();
    c.q_in = linear(x, q_proj);
    c.k_in = linear(x, k_proj);
    c.o = linear(x, v_proj);
    c.v = Sequence<Real, H * P>(T);
    Sums::widen(c.o.matrix(), c.v.matrix());
    c.q = Sequence<Real, H * F>(T);
    c.k = Sequence<Real, H * F>(T);
    map_all(batch, c);
    c.sums = Sequence<Real, H * P>(T);
    sums_of(c.q, c.k, c.v, c.decay.data()).read(batch, c.sums.matrix(), kept);
    Sums::divide(c.sums.matrix(), c.o.matrix());
    return linear(c.o, o_proj);
  }
};

}  // namespace limen::inline LIMEN_ABI
