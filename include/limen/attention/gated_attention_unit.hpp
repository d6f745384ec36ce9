#pragma once
/// @file  Attention and a gated linear unit in one layer, with a single head and no softmax.
///
///   u = silu(x W_u),  v = silu(x W_v),  z = silu(x W_z)
///   q = z ⊙ γ_0 + β_0,  k = z ⊙ γ_1 + β_1                     then turned, if .rope is on
///   a_ij = max(0, q_i·k_j / n_i + b_{i-j})²                    n_i: the keys that row i sees
///   y = W_o (u ⊙ (a v))
///
/// With .chunk = C (FLASH) a row sees the rows of its chunk so, with n = C, and all chunks before
/// its own as one sum, by another two pairs of γ and β, which make p and l of the same z:
///
///   y = W_o (u ⊙ (a v + p S_g)),  S_g = Σ_{h < g} l_hᵀ v_h / C;  without .causal Σ over all, / T
///
///   T time   D d_model   E d_value   S d_key   u, v [T x E]   z, q, k, p, l [T x S]
///
/// The state is a KvCache, or with .chunk two sums [S x E] and the rows of the chunk under way:
/// its size does not depend on t. What a state holds is constant in training.
///
/// Hua et al., "Transformer Quality in Linear Time", arXiv:2202.10447.

#include <algorithm>
#include <limits>

#include <limen/attention/held.hpp>
#include <limen/attention/unit_sums.hpp>
#include <limen/core/denormals.hpp>
#include <limen/kernel/gated.hpp>
#include <limen/kernel/scale_shift.hpp>
#include <limen/kernel/squared_attention_step.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

template <GatedAttentionUnitConfig C, class W = float>
struct GatedAttentionUnit {
  static_assert(C.d_model > 0, "GatedAttentionUnit: .d_model must be positive");
  static_assert(C.d_key > 0 && C.d_value >= 0, "GatedAttentionUnit: needs .d_key, .d_value");
  static_assert(!C.causal || (C.chunk > 0) != (C.capacity > 0),
                "GatedAttentionUnit: .capacity must say how many tokens a state has room for, or "
                ".chunk be given, one of them");
  static_assert(C.chunk == 0 || C.length == 0,
                "GatedAttentionUnit: in a chunk .length is that of the chunk");

  static constexpr GatedAttentionUnitConfig config = C;
  static constexpr Index D = C.d_model, E = C.value_width(), S = C.d_key;
  static constexpr bool causal = C.causal, chunked = C.chunk > 0, biased = C.distances > 0;
  static constexpr Index pairs = chunked ? 4 : 2;  ///< of γ and β
  static constexpr Index in = D, out = D;
  using Scalar = real_of<W>;
  using Real = Scalar;
  template <class T>
  using with_scalar = GatedAttentionUnit<C, T>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<W, E, D> u_proj, v_proj;  ///< W_u, W_v
  Weight<W, S, D> z_proj;          ///< W_z
  Weight<W, D, E> o_proj;          ///< W_o
  Tensor<Real, pairs, S> scale;    ///< γ: of q, k, and with .chunk of p, l
  Tensor<Real, pairs, S> shift;    ///< β
  Optional<C.bias, Tensor<Real, E>> u_bias, v_bias;
  Optional<C.bias, Tensor<Real, S>> z_bias;
  /// b at distances 0 .. R - 1; without .causal 1 - R .. R - 1
  static constexpr Index table = causal ? C.distances : 2 * C.distances - 1;
  Optional<biased, Tensor<Real, biased ? table : 1>> distance_bias;

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("u_proj.weight", l.u_proj...);
    f("u_proj.bias", l.u_bias...);
    f("v_proj.weight", l.v_proj...);
    f("v_proj.bias", l.v_bias...);
    f("z_proj.weight", l.z_proj...);
    f("z_proj.bias", l.z_bias...);
    f("o_proj.weight", l.o_proj...);
    f("scale", l.scale...);
    f("shift", l.shift...);
    f("distance_bias", l.distance_bias...);
  }

  /// γ starts at 1, β and biases at 0.
  static GatedAttentionUnit initialized(Random& random) {
    GatedAttentionUnit layer;
    for (auto* w : {&layer.u_proj, &layer.v_proj}) fill_fan_in(*w, random);
    fill_fan_in(layer.z_proj, random);
    fill_fan_in(layer.o_proj, random);
    fill(layer.scale, 1);
    return layer;
  }

  /// Of one sequence.
  static constexpr Index macs(Index rows) {
    const auto scores = [](Index n) { return causal ? n * (n + 1) / 2 : n * n; };
    const Index seen = chunked ? C.chunk : std::max(rows, Index{1});
    const Index scored = rows / seen * scores(seen) + scores(rows % seen);
    return rows * D * (3 * E + S) + (chunked ? 2 * rows * S * E : 0) + scored * (S + E);
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename detail::UnitState<C, Real>::type;

  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows()) || !detail::has_room(batch, x.rows())) return {};
    const FlushDenormals guard;
    Cache c;
    return run<false>(x, batch, c);
  }

  /// x [D] -> y [D].  Allocates nothing; NaN if the cache is full.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept
    requires(C.causal)
  {
    const FlushDenormals guard;
    auto u = linear(x, u_proj, data_or_null(u_bias), Activation::silu);
    const auto v = linear(x, v_proj, data_or_null(v_bias), Activation::silu);
    const auto z = linear(x, z_proj, data_or_null(z_bias), Activation::silu);
    Vector<Real, S> made[pairs];
    for (Index i = 0; i < pairs; ++i) {
      make(i, z.matrix(), made[i].matrix());
      if constexpr (C.rope.on()) limen::rope(rope(), state.seen, 1, 1, made[i].matrix());
    }
    const Index rows = state.held() + 1;
    if (!state.append(made[1].data(), v.data())) {
      Vector<Real, D> y;
      for (Real& value : y.values) value = std::numeric_limits<Real>::quiet_NaN();
      return y;
    }
    Vector<Real, E> read;
    squared_attention_step<Real>(rule(), {state.keys.data(), rows, S, S},
                                 {state.values.data(), rows, E, E}, made[0].data(), read.data());
    if constexpr (chunked) {
      chunk_sums_step<Real>(C.chunk, state.seen - 1, made[2].data(), made[3].data(), v.data(),
                            {state.before.data(), S, E, E}, state.now.data(), read.data());
    }
    gate<Activation::identity>(u.data(), read.data(), u.data(), E);
    return linear(u, o_proj);
  }

  template <class... Asked>
  Vector<Real, D> step(Asked&&...) const
    requires(!C.causal)
  {
    static_assert(C.causal, "step: a unit that is not .causal needs the whole sequence");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> x;              ///< [T x D]
    Sequence<Real, E> u_in, v_in, u;  ///< before silu; u after it
    Sequence<Real, S> z_in, z;        ///< before and after it
    Sequence<Real, S> q, k, p, l;     ///< k: held and new
    Sequence<Real, E> v, v_new;       ///< held and new; new alone, where that is not the same
    Sequence<Real, E> o;              ///< a v + p S
    Buffer<Real> sums;                ///< S_g of all chunks, or of all sequences
    Buffer<detail::SequenceRows> sequences;  ///< where they are

    std::span<const detail::SequenceRows> rows() const {
      return {sequences.data(), static_cast<std::size_t>(sequences.size())};
    }
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<W>)
  {
    if (!batch.fits(x.rows()) || !detail::has_room(batch, x.rows())) return {};
    const FlushDenormals guard;
    auto y = run<true>(SequenceView<Real, D>(x), batch, cache);
    cache.x = std::move(x);
    return y;
  }

  /// With g = dy W_oᵀ:  du = g ⊙ o,  do = g ⊙ u;  dq, dk, dv, dp, dl from do
  /// (kernel/squared_attention.hpp);  dz = Σ of them ⊙ γ,  dγ = Σ of them ⊙ z;  then silu.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& c,
                             GatedAttentionUnit& gradient) const
    requires(!is_prepared<W>)
  {
    const Index T = dy.rows();
    if (!batch.fits(T) || !fits_cache(T, c.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, E> uo = linear_input_gradient<Real, D, E>(dy, o_proj);  // still g
    Sequence<Real, E> du(T), d_o(T);
    gate_backward<Activation::identity>(c.u.data(), c.o.data(), uo.data(), uo.data(), du.data(),
                                        d_o.data(), T * E);
    add_linear_weight_gradient<Real, D, E>(dy, uo, gradient.o_proj);
    Sequence<Real, S> made[4] = {Sequence<Real, S>(T), Sequence<Real, S>::zeros(c.k.rows()),
                                 Sequence<Real, S>(chunked ? T : 0),
                                 Sequence<Real, S>(chunked ? T : 0)};
    auto dv = Sequence<Real, E>::zeros(c.v.rows());
    for (const auto& s : c.rows()) {
      if (s.rows == 0) continue;
      const auto keys = [&](auto& x) { return x.matrix().middle_rows(s.key, s.keys); };
      squared_attention_backward<Real>(rule(), call(c, s), d_o.matrix().middle_rows(s.row, s.rows),
                                       made[0].matrix().middle_rows(s.row, s.rows), keys(made[1]),
                                       keys(dv), data_or_null(gradient.distance_bias));
    }
    made[1] = detail::of_new_rows(std::move(made[1]), c.rows(), T);
    dv = detail::of_new_rows(std::move(dv), c.rows(), T);
    if constexpr (chunked) {
      Sums::back(c.rows(), c.p, c.l, c.v_new, d_o, c.sums, made[2], made[3], dv);
    }
    auto dz = Sequence<Real, S>::zeros(T);
    for (Index i = 0; i < pairs; ++i) {
      if constexpr (C.rope.on()) detail::turn_rows(rope(), c.rows(), -1, made[i].matrix());
      scale_shift_backward<Real>(c.z.matrix(), scale.data() + i * S, made[i].matrix(), dz.matrix(),
                                 gradient.scale.data() + i * S, gradient.shift.data() + i * S);
    }
    auto dx = Sequence<Real, D>::zeros(T);
    const auto back = [&](auto& dh, const auto& before, const auto& w, auto& dw, auto& db) {
      activation_backward<Activation::silu>(before.data(), dh.data(), dh.data(), dh.size());
      add_linear_weight_gradient(dh, c.x, dw);
      if constexpr (C.bias) add_bias_gradient(dh, db);
      add_linear_input_gradient(dh, w, dx);
    };
    back(du, c.u_in, u_proj, gradient.u_proj, gradient.u_bias);
    back(dv, c.v_in, v_proj, gradient.v_proj, gradient.v_bias);
    back(dz, c.z_in, z_proj, gradient.z_proj, gradient.z_bias);
    return dx;
  }

 private:
  using Sums = detail::UnitSums<Real, S, E, C.chunk, C.causal>;

  static RopeRule rope() noexcept { return rope_rule<C.rope, S>(); }

  SquaredRule<Real> rule() const noexcept {
    return {causal, C.chunk, C.length, data_or_null(distance_bias), C.distances};
  }
  static SquaredCall<Real> call(const Cache& c, const detail::SequenceRows& s) {
    return {c.q.matrix().middle_rows(s.row, s.rows), c.k.matrix().middle_rows(s.key, s.keys),
            c.v.matrix().middle_rows(s.key, s.keys)};
  }

  /// z ⊙ γ_i + β_i
  void make(Index i, MatrixView<const Real> z, MatrixView<Real> to) const noexcept {
    scale_shift<Real>(z, scale.data() + i * S, shift.data() + i * S, to);
  }

  /// `Keep`: for backward.
  template <bool Keep>
  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Cache& c) const {
    const Index T = x.rows();
    project<Keep>(x, u_proj, data_or_null(u_bias), c.u_in, c.u);
    project<Keep>(x, v_proj, data_or_null(v_bias), c.v_in, c.v);
    project<Keep>(x, z_proj, data_or_null(z_bias), c.z_in, c.z);
    c.sequences = detail::rows_of(batch, T);
    Index i = 0;
    for (auto* to : {&c.q, &c.k, &c.p, &c.l}) {
      if (i == pairs) break;
      *to = Sequence<Real, S>(T);
      make(i++, c.z.matrix(), to->matrix());
      if constexpr (C.rope.on()) detail::turn_rows(rope(), c.rows(), 1, to->matrix());
    }
    if constexpr (chunked) c.v_new = c.v;
    detail::gather_held(batch, c.sequences, c.k, c.v);
    c.o = Sequence<Real, E>(T);
    for (const auto& s : c.rows()) {
      if (s.rows > 0)
        squared_attention<Real>(rule(), call(c, s), c.o.matrix().middle_rows(s.row, s.rows));
    }
    if constexpr (chunked) {
      c.sums = Sums::template read<Keep>(batch, c.rows(), c.p, c.l, c.v_new, c.o);
    }
    detail::remember(batch, c.rows(), c.k, c.v);
    Sequence<Real, E> uo(T);
    gate<Activation::identity>(c.u.data(), c.o.data(), uo.data(), T * E);
    return linear(uo, o_proj);
  }

  /// y = silu(x W + b), and what it is of.
  template <bool Keep, class Of, Index N>
  static void project(SequenceView<Real, D> x, const Of& w, const Real* b,
                      Sequence<Real, N>& before, Sequence<Real, N>& y) {
    if constexpr (Keep) {
      before = linear(x, w, b);
      y = Sequence<Real, N>(x.rows());
      activate<Activation::silu>(before.data(), y.data(), y.size());
    } else {
      y = linear(x, w, b, Activation::silu);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
