#pragma once
/// @file  A long short-term memory: a cell that is kept, written and shown by three gates.
///
///   i = σ(W_ii x + b_ii + W_hi h + b_hi)      input: how much is written
///   f = σ(W_if x + b_if + W_hf h + b_hf)      forget: how much is kept
///   g = tanh(W_ig x + b_ig + W_hg h + b_hg)   what is written
///   o = σ(W_io x + b_io + W_ho h + b_ho)      output: how much is shown
///   c ← f ⊙ c + i ⊙ g,  h ← o ⊙ tanh(c),  y = h
///
///   x [T x I], h, c, y [T x H]; weight_ih [4H x I], weight_hh [4H x H], biases [4H], in the order
///   i, f, g, o of PyTorch's files.
///
/// Hochreiter & Schmidhuber, Neural Computation 9 (1997); the forget gate from Gers et al., Neural
/// Computation 12 (2000).

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/recurrent.hpp>
#include <limen/kernel/tiny_gates.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct LstmConfig {
  Index d_in = 0;          ///< I
  Index d_hidden = 0;      ///< H
  bool bias = true;        ///< add b_i and b_h
  double forget_bias = 0;  ///< added to b_if at the start: 1 remembers from the beginning
};

template <class Real, Index H>
struct LstmState {
  Fixed<Real, H> h;  ///< what was shown
  Fixed<Real, H> c;  ///< the cell
};

template <LstmConfig C, class S = float>
struct Lstm {
  static_assert(C.d_in > 0, "Lstm: .d_in must be positive");
  static_assert(C.d_hidden > 0, "Lstm: .d_hidden must be positive");
  static_assert(C.bias || C.forget_bias == 0, "Lstm: .forget_bias needs .bias");

  static constexpr LstmConfig config = C;
  static constexpr Index I = C.d_in, H = C.d_hidden, in = I, out = H;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = Lstm<C, T>;
  static constexpr Index macs(Index rows) { return rows * 4 * H * (I + H); }

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, 4 * H, I> weight_ih;               ///< W_i
  Tensor<Real, 4 * H, H> weight_hh;               ///< W_h
  Optional<C.bias, Tensor<Real, 4 * H>> bias_ih;  ///< b_i
  Optional<C.bias, Tensor<Real, 4 * H>> bias_hh;  ///< b_h

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight_ih", l.weight_ih...);
    f("weight_hh", l.weight_hh...);
    f("bias_ih", l.bias_ih...);
    f("bias_hh", l.bias_hh...);
  }

  /// All uniform with limit 1 / sqrt(H).
  static Lstm initialized(Random& random) {
    Lstm layer;
    for_each_tensor([&](auto& tensor) { fill_uniform(tensor, 1 / std::sqrt(double{H}), random); },
                    layer);
    if constexpr (C.bias) {
      for (Index j = H; j < 2 * H; ++j) layer.bias_ih[j] += static_cast<Real>(config.forget_bias);
    }
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = LstmState<Real, H>;

  Sequence<Real, H> forward(SequenceView<Real, I> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    return run<false>(x, batch, [](Index, Real*) { return LstmKept<Real>{}; }).y;
  }

  /// Allocates nothing.
  Vector<Real, H> step(VectorView<Real, I> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, H> y;
    Real* const h = state.h.data();
    const Vector<Real, 4 * H> gi = linear(x, weight_ih, data_or_null(bias_ih));
    const Vector<Real, 4 * H> p =
        linear(VectorView<Real, H>(state.h), weight_hh, data_or_null(bias_hh));
    lstm_units<false, false>(H, gi.data(), p.data(), h, h, state.c.data(), y.data());
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, I> x;
    Sequence<Real, 4 * H> gates;  ///< i, f, g, o
    Sequence<Real, H> m;          ///< tanh(c_t)
    Sequence<Real, H> h, c;       ///< h_{t-1}, c_{t-1}

    LstmKept<const Real> row(Index t) const {
      const Real* i = gates.data() + t * 4 * H;
      return {i, i + H, i + 2 * H, i + 3 * H, m.data() + t * H, h.data() + t * H, c.data() + t * H};
    }
  };

  Sequence<Real, H> forward(Sequence<Real, I> x, Batch<State> batch, Cache& cache) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.m = Sequence<Real, H>(x.rows());
    cache.h = Sequence<Real, H>(x.rows());
    cache.c = Sequence<Real, H>(x.rows());
    auto [y, gates] = run<true>(x, batch, [&](Index t, Real* i) {
      return LstmKept<Real>{i,
                            i + H,
                            i + 2 * H,
                            i + 3 * H,
                            cache.m.row_data(t),
                            cache.h.row_data(t),
                            cache.c.row_data(t)};
    });
    cache.gates = std::move(gates);
    cache.x = std::move(x);
    return std::move(y);
  }

  /// Back through time with d, the gradient before the gates (see lstm_units_backward):
  ///   dh_{t-1} = d W_h,  dx = d W_i,  dW_i = dᵀ x,  dW_h = dᵀ h_{t-1},  db_i = db_h = Σ_t d
  Sequence<Real, I> backward(SequenceView<Real, H> dy, Batch<State> batch, const Cache& cache,
                             Lstm& gradient) const {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, 4 * H> d(dy.rows());
    const auto w = Panels<Real>::pack_transposed(weight_hh.matrix());
    share_sequences(batch, dy.rows(), 2 * work_ns(dy.rows()), [&](const ByLength& sequences) {
      const Index count = sequences.count();
      Buffer<Real> dh(count * H), dc(count * H), dp(count * 4 * H);
      gather_states<Real>(sequences, batch, {dh.data(), count, H, H}, h_of);
      gather_states<Real>(sequences, batch, {dc.data(), count, H, H}, c_of);
      sequences.backwards([&](Index t, Index n) {
        for (Index i = 0; i < n; ++i) {
          const Index row = sequences.first(i) + t;
          lstm_units_backward(H, cache.row(row), dy.row(row).data(), dh.data() + i * H,
                              dc.data() + i * H, d.row_data(row), dp.data() + i * 4 * H);
        }
        product_nt<Real>({dp.data(), n, 4 * H, 4 * H}, w.view(), {dh.data(), n, H, H});
      });
      scatter_states<Real>(sequences, batch, {dh.data(), count, H, H}, h_of);
      scatter_states<Real>(sequences, batch, {dc.data(), count, H, H}, c_of);
    });
    add_linear_weight_gradient<Real, 4 * H, H>(d, cache.h, gradient.weight_hh);
    add_linear_weight_gradient<Real, 4 * H, I>(d, cache.x, gradient.weight_ih);
    if constexpr (C.bias) {
      add_bias_gradient<Real, 4 * H>(d, gradient.bias_ih);
      add_bias_gradient<Real, 4 * H>(d, gradient.bias_hh);
    }
    return linear_input_gradient<Real, 4 * H, I>(d, weight_ih);
  }

 private:
  static Real* h_of(State& state) { return state.h.data(); }
  static Real* c_of(State& state) { return state.c.data(); }
  static constexpr double work_ns(Index rows) { return detail::recurrence_ns<Real>(rows, 4, H); }

  struct Ran {
    Sequence<Real, H> y;
    Sequence<Real, 4 * H> gates;
  };

  /// `kept(row, i)` says where a row leaves its gates, which may be i: the input's share of them.
  template <bool Keep, class Kept>
  Ran run(SequenceView<Real, I> x, const Batch<State>& batch, Kept kept) const {
    // Packed for any number of rows: the bits of a sequence shall not depend on its company.
    const auto w_i = Panels<Real>::pack(weight_ih.matrix());
    const auto w_h = Panels<Real>::pack(weight_hh.matrix());
    Ran ran{Sequence<Real, H>(x.rows()), Sequence<Real, 4 * H>(x.rows())};
    product_nt(x.matrix(), w_i.view(), ran.gates.matrix(), {.bias = data_or_null(bias_ih)});
    share_sequences(batch, x.rows(), work_ns(x.rows()), [&](const ByLength& sequences) {
      const Index count = sequences.count();
      Buffer<Real> h(count * H), c(count * H);
      const MatrixView<Real> hs{h.data(), count, H, H}, cs{c.data(), count, H, H};
      gather_states<Real>(sequences, batch, hs, h_of);
      gather_states<Real>(sequences, batch, cs, c_of);
      recur<Real>(sequences, {w_h.view(), data_or_null(bias_hh)}, hs,
                  [&](Index i, Index t, const Real* p) {
                    Real* const gi = ran.gates.row_data(t);
                    lstm_units<false, Keep>(H, gi, p, hs.row(i), hs.row(i), cs.row(i),
                                            ran.y.row_data(t), kept(t, gi));
                  });
      scatter_states<Real>(sequences, batch, hs, h_of);
      scatter_states<Real>(sequences, batch, cs, c_of);
    });
    return ran;
  }
};

/// The inference form: weights as the kernels want them, with the factors of 2^v in them.
template <LstmConfig C, class R>
struct Lstm<C, Prepared<R>> {
  static constexpr LstmConfig config = C;
  static constexpr Index I = C.d_in, H = C.d_hidden, in = I, out = H;
  static constexpr bool tiny = I <= tiny_width && H <= tiny_width;  ///< in steps
  /// In sequences too, where all weights stay in the first-level cache.
  static constexpr bool tiny_forward = I <= tiny_width / 2 && H <= tiny_width / 2;
  using Scalar = R;
  using Real = R;
  using State = LstmState<Real, H>;
  template <class T>
  using with_scalar = Lstm<C, T>;
  static constexpr Index macs(Index rows) { return rows * 4 * H * (I + H); }

  void prepare_from(const Lstm<C, Real>& learned) {
    constexpr Real sigma = -math::detail::log2_e<Real>,
                   factors[] = {sigma, sigma, 2 * sigma, sigma};
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
    share_recurrence<Real, tiny_forward ? 1 : 4, H>(
        batch, x.rows(), [&](const ByLength& sequences) {
          const Index count = sequences.count();
          Buffer<Real> buffer(2 * count * H);
          const MatrixView<Real> h{buffer.data(), count, H, H}, c{h.row(count), count, H, H};
          gather_states<Real>(sequences, batch, h, h_of);
          gather_states<Real>(sequences, batch, c, c_of);
          if constexpr (tiny_forward) {
            sequences.forwards([&](Index t, Index n) {
              for (Index i = 0; i < n; ++i) {
                const Index row = sequences.first(i) + t;
                tiny_lstm<I, H>(small, x.row(row).data(), h.row(i), c.row(i), y.row_data(row));
              }
            });
          } else {
            recur(sequences, x.matrix(), large.input, large.state, h,
                  [&](Index i, Index row, const Real* gi, const Real* p, const Real* now,
                      Real* next, Index u0, Index u1) {
                    Real *const to = y.row_data(row), *const cell = c.row(i);
                    for_each_block<Blocks>(u0, u1, [&](Index j, Index W) {
                      lstm_units<true, false>(W, gi + 4 * j, p + 4 * j, now + j, next + j, cell + j,
                                              to + j);
                    });
                  });
          }
          scatter_states<Real>(sequences, batch, h, h_of);
          scatter_states<Real>(sequences, batch, c, c_of);
        });
    return y;
  }

  /// Allocates nothing.
  Vector<Real, H> step(VectorView<Real, I> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, H> y;
    Real *const h = state.h.data(), *const c = state.c.data();
    if constexpr (tiny) {
      tiny_lstm<I, H>(small, x.data(), h, c, y.data());
    } else {
      Vector<Real, 4 * H> gi, p;
      large.input.product(x.matrix(), gi.matrix());
      large.state.product({h, 1, H, H}, p.matrix());
      for_each_block<Blocks>(0, Blocks::blocks, [&](Index j, Index W) {
        lstm_units<true, false>(W, gi.data() + 4 * j, p.data() + 4 * j, h + j, h + j, c + j,
                                y.data() + j);
      });
    }
    return y;
  }

 private:
  using Blocks = GateBlocks<Real, 4, H>;
  struct Large {
    Blocks input, state;
  };

  static Real* h_of(State& state) { return state.h.data(); }
  static Real* c_of(State& state) { return state.c.data(); }

  Optional<tiny, TinyLstm<Real, I, H>> small;
  Optional<!tiny_forward, Large> large;
};

}  // namespace limen::inline LIMEN_ABI
