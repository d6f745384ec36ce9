#pragma once
/// @file  A gated recurrent unit: gates decide how much of the state is kept and how much
/// rewritten.
///
///   r = σ(W_ir x + b_ir + W_hr h + b_hr)           reset
///   z = σ(W_iz x + b_iz + W_hz h + b_hz)           update: how much is kept
///   n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn))  candidate
///   h ← (1 - z) ⊙ n + z ⊙ h,   y = h
///
///   x [T x I], h, y [T x H]; weight_ih [3H x I], weight_hh [3H x H], biases [3H], in the order
///   r, z, n of PyTorch's files.
///
/// Cho et al., arXiv:1406.1078; this form (reset after the product) from arXiv:1412.3555.

#include <cstring>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/recurrent.hpp>
#include <limen/kernel/tiny_gates.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct GruConfig {
  Index d_in = 0;      ///< I
  Index d_hidden = 0;  ///< H
  bool bias = true;    ///< add b_i and b_h
};

template <class Real, Index H>
struct GruState {
  Fixed<Real, H> h;  ///< what the unit remembers
};

/// How far the gates of one step open, each in [0, 1].
template <class Real, Index H>
struct GruGates {
  Vector<Real, H> reset;   ///< r
  Vector<Real, H> update;  ///< z: 1 keeps, 0 rewrites
};

template <GruConfig C, class S = float>
struct Gru {
  static_assert(C.d_in > 0, "Gru: .d_in must be positive");
  static_assert(C.d_hidden > 0, "Gru: .d_hidden must be positive");

  static constexpr GruConfig config = C;
  static constexpr Index I = C.d_in, H = C.d_hidden, in = I, out = H;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = Gru<C, T>;
  static constexpr Index macs(Index rows) { return rows * 3 * H * (I + H); }

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, 3 * H, I> weight_ih;               ///< W_i
  Tensor<Real, 3 * H, H> weight_hh;               ///< W_h
  Optional<C.bias, Tensor<Real, 3 * H>> bias_ih;  ///< b_i
  Optional<C.bias, Tensor<Real, 3 * H>> bias_hh;  ///< b_h

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight_ih", l.weight_ih...);
    f("weight_hh", l.weight_hh...);
    f("bias_ih", l.bias_ih...);
    f("bias_hh", l.bias_hh...);
  }

  /// All uniform with limit 1 / sqrt(H).
  static Gru initialized(Random& random) {
    Gru layer;
    for_each_tensor([&](auto& tensor) { fill_uniform(tensor, 1 / std::sqrt(double{H}), random); },
                    layer);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = GruState<Real, H>;

  Sequence<Real, H> forward(SequenceView<Real, I> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return run<false>(x, batch, [](Index, Real*) { return GruKept<Real>{}; }).y;
  }

  /// Allocates nothing.
  Vector<Real, H> step(VectorView<Real, I> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, H> y;
    Real* const h = state.h.data();
    const Vector<Real, 3 * H> gi = linear(x, weight_ih, data_or_null(bias_ih)),
                              p = recurrent(state);
    gru_units<false, false>(H, gi.data(), p.data(), h, h, y.data());
    return y;
  }

  /// How the gates of the next step will stand; moves nothing.
  GruGates<Real, H> gates(VectorView<Real, I> x, State state) const noexcept {
    const FlushDenormals guard;
    GruGates<Real, H> gates;
    Vector<Real, H> n, q, before, y;
    Real* const h = state.h.data();
    const Vector<Real, 3 * H> gi = linear(x, weight_ih, data_or_null(bias_ih)),
                              p = recurrent(state);
    gru_units<false, true>(
        H, gi.data(), p.data(), h, h, y.data(),
        {gates.reset.data(), gates.update.data(), n.data(), q.data(), before.data()});
    return gates;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, I> x;
    Sequence<Real, 3 * H> gates;  ///< r, z, n
    Sequence<Real, H> q;          ///< W_hn h + b_hn
    Sequence<Real, H> before;     ///< h_{t-1}

    GruKept<const Real> row(Index t) const {
      const Real* r = gates.data() + t * 3 * H;
      return {r, r + H, r + 2 * H, q.data() + t * H, before.data() + t * H};
    }
  };

  Sequence<Real, H> forward(Sequence<Real, I> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.q = Sequence<Real, H>(x.rows());
    cache.before = Sequence<Real, H>(x.rows());
    auto [y, gates] = run<true>(x, batch, [&](Index t, Real* r) {
      return GruKept<Real>{r, r + H, r + 2 * H, cache.q.row_data(t), cache.before.row_data(t)};
    });
    cache.gates = std::move(gates);
    cache.x = std::move(x);
    return std::move(y);
  }

  /// Back through time with d = (dr, dz, dn) and dp = (dr, dz, dn ⊙ r), see gru_units_backward:
  ///   dh_{t-1} = dh_t ⊙ z + dp W_h,  dx = d W_i
  ///   dW_i = dᵀ x,  db_i = Σ_t d,  dW_h = dpᵀ h_{t-1},  db_h = Σ_t dp
  Sequence<Real, I> backward(SequenceView<Real, H> dy, Batch<State> batch, const Cache& cache,
                             Gru& gradient) const {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, 3 * H> d(dy.rows());
    Sequence<Real, H> dq(dy.rows());
    const auto w = Panels<Real>::pack_transposed(weight_hh.matrix());
    share_sequences(batch, dy.rows(), 2 * work_ns(dy.rows()), [&](const ByLength& sequences) {
      const Index count = sequences.count();
      Buffer<Real> dh(count * H), dp(count * 3 * H);
      gather_states<Real>(sequences, batch, {dh.data(), count, H, H}, h_of);
      sequences.backwards([&](Index t, Index n) {
        for (Index i = 0; i < n; ++i) {
          const Index row = sequences.first(i) + t;
          gru_units_backward(H, cache.row(row), dy.row(row).data(), dh.data() + i * H,
                             d.row_data(row), dp.data() + i * 3 * H, dq.row_data(row));
        }
        product_nt<Real>({dp.data(), n, 3 * H, 3 * H}, w.view(), {dh.data(), n, H, H},
                         {.accumulate = true});
      });
      scatter_states<Real>(sequences, batch, {dh.data(), count, H, H}, h_of);
    });
    const auto reset_update = d.matrix().middle_cols(0, 2 * H);
    const auto dw = gradient.weight_hh.matrix();
    add_product_tn<Real>(reset_update, cache.before.matrix(), dw.middle_rows(0, 2 * H));
    add_product_tn<Real>(dq.matrix(), cache.before.matrix(), dw.middle_rows(2 * H, H));
    add_linear_weight_gradient<Real, 3 * H, I>(d, cache.x, gradient.weight_ih);
    if constexpr (C.bias) {
      add_column_sums<Real>(d.matrix(), gradient.bias_ih.data());
      add_column_sums<Real>(reset_update, gradient.bias_hh.data());
      add_column_sums<Real>(dq.matrix(), gradient.bias_hh.data() + 2 * H);
    }
    return linear_input_gradient<Real, 3 * H, I>(d, weight_ih);
  }

 private:
  static Real* h_of(State& state) { return state.h.data(); }
  static constexpr double work_ns(Index rows) { return detail::recurrence_ns<Real>(rows, 3, H); }

  Vector<Real, 3 * H> recurrent(const State& state) const noexcept {
    return linear(VectorView<Real, H>(state.h), weight_hh, data_or_null(bias_hh));
  }

  struct Ran {
    Sequence<Real, H> y;
    Sequence<Real, 3 * H> gates;
  };

  /// `kept(row, r)` says where a row leaves its gates, which may be r: the input's share of them.
  template <bool Keep, class Kept>
  Ran run(SequenceView<Real, I> x, const Batch<State>& batch, Kept kept) const {
    // Packed for any number of rows: the bits of a sequence shall not depend on its company.
    const auto w_i = Panels<Real>::pack(weight_ih.matrix());
    const auto w_h = Panels<Real>::pack(weight_hh.matrix());
    Ran ran{Sequence<Real, H>(x.rows()), Sequence<Real, 3 * H>(x.rows())};
    product_nt(x.matrix(), w_i.view(), ran.gates.matrix(), {.bias = data_or_null(bias_ih)});
    share_sequences(batch, x.rows(), work_ns(x.rows()), [&](const ByLength& sequences) {
      Buffer<Real> h(sequences.count() * H);
      const MatrixView<Real> states{h.data(), sequences.count(), H, H};
      gather_states<Real>(sequences, batch, states, h_of);
      recur<Real>(sequences, {w_h.view(), data_or_null(bias_hh)}, states,
                  [&](Index i, Index t, const Real* p) {
                    Real* const gi = ran.gates.row_data(t);
                    gru_units<false, Keep>(H, gi, p, states.row(i), states.row(i),
                                           ran.y.row_data(t), kept(t, gi));
                  });
      scatter_states<Real>(sequences, batch, states, h_of);
    });
    return ran;
  }
};

/// The inference form: weights as the kernels want them, with the factors of 2^v in them.
template <GruConfig C, class R>
struct Gru<C, Prepared<R>> {
  static constexpr GruConfig config = C;
  static constexpr Index I = C.d_in, H = C.d_hidden, in = I, out = H;
  static constexpr bool tiny = I <= tiny_width && H <= tiny_width;  ///< in steps
  /// In sequences too, where all weights stay in the first-level cache.
  static constexpr bool tiny_forward = I <= tiny_width / 2 && H <= tiny_width / 2;
  using Scalar = R;
  using Real = R;
  using State = GruState<Real, H>;
  template <class T>
  using with_scalar = Gru<C, T>;
  static constexpr Index macs(Index rows) { return rows * 3 * H * (I + H); }

  void prepare_from(const Gru<C, Real>& learned) {
    constexpr Real sigma = -math::detail::log2_e<Real>, factors[] = {sigma, sigma, 2 * sigma};
    const Real *b_i = data_or_null(learned.bias_ih), *b_h = data_or_null(learned.bias_hh);
    if constexpr (tiny) {
      small.place(learned.weight_ih.data(), learned.weight_hh.data(), b_i, b_h, factors);
    }
    if constexpr (!tiny_forward) {
      large.input.place(learned.weight_ih.matrix(), b_i, factors);
      large.state.place(learned.weight_hh.matrix(), b_h, factors);
    }
  }

  Sequence<Real, H> forward(SequenceView<Real, I> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, H> y(x.rows());
    share_recurrence<Real, tiny_forward ? 1 : 3, H>(
        batch, x.rows(), [&](const ByLength& sequences) {
          const Index count = sequences.count();
          Buffer<Real> buffer(count * H);
          const MatrixView<Real> h{buffer.data(), count, H, H};
          gather_states<Real>(sequences, batch, h, h_of);
          if constexpr (tiny_forward) {
            sequences.forwards([&](Index t, Index n) {
              for (Index i = 0; i < n; ++i) {
                const Index row = sequences.first(i) + t;
                tiny_gru<false, I, H>(small, x.row(row).data(), h.row(i), y.row_data(row));
              }
            });
          } else {
            recur(sequences, x.matrix(), large.input, large.state, h,
                  [&](Index, Index row, const Real* gi, const Real* p, const Real* now, Real* next,
                      Index u0, Index u1) {
                    Real* const to = y.row_data(row);
                    for_each_block<Blocks>(u0, u1, [&](Index j, Index W) {
                      gru_units<true, false>(W, gi + 3 * j, p + 3 * j, now + j, next + j, to + j);
                    });
                  });
          }
          scatter_states<Real>(sequences, batch, h, h_of);
        });
    return y;
  }

  /// Allocates nothing.
  Vector<Real, H> step(VectorView<Real, I> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, H> y;
    move<false>(x.data(), state.h.data(), y.data());
    return y;
  }

  /// How the gates of the next step will stand; moves nothing.
  GruGates<Real, H> gates(VectorView<Real, I> x, State state) const noexcept {
    const FlushDenormals guard;
    GruGates<Real, H> gates;
    Vector<Real, H> y;
    move<true>(x.data(), state.h.data(), y.data(), gates.reset.data(), gates.update.data());
    return gates;
  }

 private:
  using Blocks = GateBlocks<Real, 3, H>;
  struct Large {
    Blocks input, state;
  };

  static Real* h_of(State& state) { return state.h.data(); }

  template <bool Keep>
  void move(const Real* x, Real* h, Real* y, [[maybe_unused]] Real* reset = nullptr,
            [[maybe_unused]] Real* update = nullptr) const noexcept {
    if constexpr (tiny) {
      tiny_gru<Keep, I, H>(small, x, h, y, reset, update);
    } else {
      Vector<Real, 3 * H> gi, p;
      [[maybe_unused]] Vector<Real, H> n, q, before;
      large.input.product({x, 1, I, I}, gi.matrix());
      large.state.product({h, 1, H, H}, p.matrix());
      for_each_block<Blocks>(0, Blocks::blocks, [&](Index j, Index W) {
        GruKept<Real> kept{};
        if constexpr (Keep) kept = {reset + j, update + j, n.data(), q.data(), before.data()};
        gru_units<true, Keep>(W, gi.data() + 3 * j, p.data() + 3 * j, h + j, h + j, y + j, kept);
      });
    }
  }

  Optional<tiny, TinyGru<Real, I, H>> small;
  Optional<!tiny_forward, Large> large;
};

}  // namespace limen::inline LIMEN_ABI
