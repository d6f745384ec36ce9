#pragma once
/// @file  A recurrent network whose neurons leak, each with a time constant that it learns.
///
///   s_t = W_i x_t + b_i + W_h h_{t-1} + b_h
///   h_t = φ((1 - 1/τ) ⊙ h_{t-1} + s_t / τ)         Leak::inside
///   h_t = (1 - 1/τ) ⊙ h_{t-1} + φ(s_t) / τ         Leak::outside
///   h_t = φ(s_t)                                   Leak::none: the RNN of PyTorch, with its names
///
///   x [T x I], h, y [T x H], y = h; W_i [H x I], W_h [H x H], τ [H] >= 1.
///
/// W_h has no diagonal: what it holds there is ignored and gets no gradient, since a neuron's
/// memory of its own shall be its τ alone. (`.self_connections` gives it one.) τ is max(tau, 1), as
/// in the paper, where a tau below 1 has no gradient and never recovers, or 1 + softplus(rho).
///
/// Khajehabdollahi, Zeraati, Giannakakis, Schäfer, Martius & Levina, Emergent mechanisms for long
/// timescales depend on training curriculum and affect performance in memory tasks,
/// arXiv:2309.12927, equations 1 and 2.

#include <cmath>
#include <cstring>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/leaky.hpp>
#include <limen/kernel/recurrent.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

enum class TimeConstant {
  clamped,  ///< τ = max(tau, 1)
  softplus  ///< τ = 1 + log(1 + e^rho)
};

struct RnnConfig {
  Index d_in = 0;                                      ///< I
  Index d_hidden = 0;                                  ///< H
  Leak leak = Leak::inside;                            ///< where the leak stands
  TimeConstant time_constant = TimeConstant::clamped;  ///< how τ is learned
  double hold = 1;  ///< each input is held for so many steps: all time constants are so much longer
  Activation activation = Activation::leaky_relu;  ///< φ
  bool self_connections = false;                   ///< use the diagonal of W_h
  bool bias = true;                                ///< add b_i and b_h
  double first = 0;  ///< `first_state` draws h_0 uniformly from [0, first); the paper has 0.1
};

template <class Real, Index H>
struct RnnState {
  Fixed<Real, H> h;  ///< activity of the neurons
};

/// W_h in panels, without its diagonal.
template <class Real, Index H, bool Diagonal>
class PackedRecurrentWeight {
 public:
  using Scalar = Real;
  void prepare_from(const Tensor<Real, H, H>& w) { panels_ = pack(w.matrix()); }
  PanelsView<Real> view() const { return panels_.view(); }

  static Panels<Real> pack(MatrixView<const Real> w, bool transposed = false) {
    Buffer<Real> copy(Diagonal ? 0 : H * H);
    if constexpr (!Diagonal) {
      const MatrixView<Real> without{copy.data(), H, H, H};
      copy_without_diagonal(w, without);
      w = without;
    }
    return transposed ? Panels<Real>::pack_transposed(w) : Panels<Real>::pack(w);
  }

 private:
  Panels<Real> panels_;
};

template <RnnConfig C, class S = float>
struct Rnn {
  static_assert(C.d_in > 0, "Rnn: .d_in must be positive");
  static_assert(C.d_hidden > 0, "Rnn: .d_hidden must be positive");
  static_assert(C.hold >= 1, "Rnn: .hold must be at least 1");
  static_assert(C.first >= 0, "Rnn: .first must not be negative");

  static constexpr RnnConfig config = C;
  static constexpr Index I = C.d_in, H = C.d_hidden, in = I, out = H;
  static constexpr bool leaks = C.leak != Leak::none;
  static constexpr bool clamps = C.time_constant == TimeConstant::clamped;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Rnn<C, T>;
  using PackedRecurrent = PackedRecurrentWeight<Real, H, C.self_connections>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Weight<S, H, I> weight_ih;                                                          ///< W_i
  std::conditional_t<is_prepared<S>, PackedRecurrent, Tensor<Real, H, H>> weight_hh;  ///< W_h
  Optional<C.bias, Tensor<Real, H>> bias_ih;                                          ///< b_i
  Optional<C.bias, Tensor<Real, H>> bias_hh;                                          ///< b_h
  Optional<leaks && clamps, Tensor<Real, H>> tau;   ///< τ where above 1
  Optional<leaks && !clamps, Tensor<Real, H>> rho;  ///< τ = 1 + softplus(rho)

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight_ih", l.weight_ih...);
    f("weight_hh", l.weight_hh...);
    f("bias_ih", l.bias_ih...);
    f("bias_hh", l.bias_hh...);
    f("tau", l.tau...);
    f("rho", l.rho...);
  }

  /// Weights and biases uniform with the limit of a Linear, τ uniform in [1, 2).
  static Rnn initialized(Random& random) {
    Rnn layer;
    fill_fan_in(layer.weight_ih, random);
    fill_fan_in(layer.weight_hh, random);
    for (Index i = 0; i < H && !C.self_connections; ++i) layer.weight_hh(i, i) = 0;
    if constexpr (C.bias) fill_uniform(layer.bias_ih, 1 / std::sqrt(double{I}), random);
    if constexpr (C.bias) fill_uniform(layer.bias_hh, 1 / std::sqrt(double{H}), random);
    for (Index i = 0; leaks && i < H; ++i) {
      const double above_one = random.uniform(1e-3, 1.0);
      if constexpr (leaks && clamps) layer.tau[i] = static_cast<Real>(1 + above_one);
      if constexpr (leaks && !clamps) {
        layer.rho[i] = static_cast<Real>(above_one + std::log(-std::expm1(-above_one)));
      }
    }
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * H * (I + H); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = RnnState<Real, H>;

  /// A state to start from: at rest, or as `.first` wants it.
  static State first_state(Random& random) {
    State state{};
    for (Index i = 0; i < H && config.first > 0; ++i) {
      state.h[i] = static_cast<Real>(random.uniform(0.0, config.first));
    }
    return state;
  }

  /// x [T x I] -> h [T x H]
  Sequence<Real, H> forward(SequenceView<Real, I> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    auto u = input_share(x);
    return run<false>(u, batch, nullptr);
  }

  /// x [I] -> h [H].  Allocates nothing.
  Vector<Real, H> step(VectorView<Real, I> x, State& state) const noexcept {
    const FlushDenormals guard;
    const auto u = linear(x, weight_ih, data_or_null(bias_ih));
    Vector<Real, H> q{}, k, h;
    const Real* b = data_or_null(bias_hh);
    const MatrixView<const Real> past{state.h.data(), 1, H, H};
    if constexpr (is_prepared<S>) {
      product_nt(past, weight_hh.view(), q.matrix(), {.bias = b});
    } else if constexpr (C.self_connections) {
      product_nt(past, weight_hh.matrix(), q.matrix(), {.bias = b});
    } else {
      if (b != nullptr) std::memcpy(q.values, b, sizeof q.values);
      add_product_without_diagonal<Real>(weight_hh.matrix(), past.data, q.data());
    }
    leaks_of(k.data());
    leaky_units<C.leak, C.activation, false, Real>(H, k.data(), u.data(), q.data(), state.h.data(),
                                                   h.data(), nullptr);
    return h;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, I> x;       ///< [T x I]
    Sequence<Real, H> s;       ///< [T x H], drives
    Sequence<Real, H> before;  ///< [T x H], h_{t-1}
  };

  Sequence<Real, H> forward(Sequence<Real, I> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.s = input_share(x);
    cache.before = Sequence<Real, H>(x.rows());
    cache.x = std::move(x);
    return run<true>(cache.s, batch, cache.before.data());
  }

  /// Back through time, with k = 1 / τ and λ what arrives at h_t: see leaky_units_backward for ds,
  /// dk and what reaches h_{t-1} past W_h; W_hᵀ ds is added to that. Then
  ///   dW_i = dsᵀ x,  dW_h = dsᵀ h_{t-1} off the diagonal,  db_i = db_h = Σ_t ds,  dx = ds W_i
  ///   dτ = -k² Σ_t dk,  dtau = dτ where tau is not clamped,  drho = dτ σ(rho)
  Sequence<Real, I> backward(SequenceView<Real, H> dy, Batch<State> batch, const Cache& cache,
                             Rnn& gradient) const
    requires(!is_prepared<S>)
  {
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, H> ds(dy.rows()), dk(leaks ? dy.rows() : 0);
    Buffer<Real> k(H);
    leaks_of(k.data());
    const auto w = PackedRecurrent::pack(weight_hh.matrix(), true);
    share_sequences(batch, dy.rows(), 2 * work_ns(dy.rows()), [&](const ByLength& sequences) {
      const Index count = sequences.count();
      Buffer<Real> dh(count * H), beside(count * H);
      gather_states<Real>(sequences, batch, {dh.data(), count, H, H}, h_of);
      sequences.backwards([&](Index t, Index n) {
        for (Index i = 0; i < n; ++i) {
          const Index row = sequences.first(i) + t;
          leaky_units_backward<C.leak, C.activation, Real>(
              H, k.data(), cache.s.row(row).data(), cache.before.row(row).data(),
              dy.row(row).data(), dh.data() + i * H, ds.row_data(row), beside.data() + i * H,
              leaks ? dk.row_data(row) : nullptr);
        }
        product_nt<Real>({beside.data(), n, H, H}, w.view(), {dh.data(), n, H, H},
                         {.accumulate = true});
      });
      scatter_states<Real>(sequences, batch, {dh.data(), count, H, H}, h_of);
    });
    add_recurrent_gradient(ds, cache.before, gradient.weight_hh);
    add_linear_weight_gradient<Real, H, I>(ds, cache.x, gradient.weight_ih);
    if constexpr (C.bias) {
      add_bias_gradient<Real, H>(ds, gradient.bias_ih);
      add_bias_gradient<Real, H>(ds, gradient.bias_hh);
    }
    if constexpr (leaks) add_time_constant_gradient(k.data(), dk, gradient);
    return linear_input_gradient<Real, H, I>(ds, weight_ih);
  }

 private:
  static Real* h_of(State& state) { return state.h.data(); }
  static constexpr double work_ns(Index rows) { return detail::recurrence_ns<Real>(rows, 1, H); }

  /// k = 1 / τ
  void leaks_of(Real* k) const noexcept {
    using V = simd::Vec<Real>;
    const V one(Real(1)), hold(static_cast<Real>(config.hold));
    simd::for_each<Real>(leaks ? H : 0, [&](Index i, auto load, auto store) {
      if constexpr (leaks && clamps) {
        store(k + i, one / simd::max(one, load(tau.data() + i) * hold));  // NaN stays
      } else if constexpr (leaks) {
        store(k + i, one / (hold * (one + math::softplus(load(rho.data() + i)))));
      }
    });
  }

  Sequence<Real, H> input_share(SequenceView<Real, I> x) const {
    return linear(x, weight_ih, data_or_null(bias_ih));
  }

  /// `u`: the input's share of the drives; with Keep it becomes the drives themselves.
  template <bool Keep>
  Sequence<Real, H> run(Sequence<Real, H>& u, const Batch<State>& batch, Real* before) const {
    Sequence<Real, H> y(u.rows());
    Buffer<Real> k(H);
    leaks_of(k.data());
    Panels<Real> packed;
    PanelsView<Real> w;
    if constexpr (is_prepared<S>) {
      w = weight_hh.view();
    } else {
      packed = PackedRecurrent::pack(weight_hh.matrix());
      w = packed.view();
    }
    share_sequences(batch, u.rows(), work_ns(u.rows()), [&](const ByLength& sequences) {
      Buffer<Real> h(sequences.count() * H);
      const MatrixView<Real> states{h.data(), sequences.count(), H, H};
      gather_states<Real>(sequences, batch, states, h_of);
      recur<Real>(sequences, {w, data_or_null(bias_hh)}, states,
                  [&](Index i, Index t, const Real* q) {
                    leaky_units<C.leak, C.activation, Keep, Real>(H, k.data(), u.row_data(t), q,
                                                                  states.row(i), y.row_data(t),
                                                                  Keep ? before + t * H : nullptr);
                  });
      scatter_states<Real>(sequences, batch, states, h_of);
    });
    return y;
  }

  static void add_recurrent_gradient(const Sequence<Real, H>& ds, const Sequence<Real, H>& before,
                                     Tensor<Real, H, H>& dw) {
    Buffer<Real> diagonal(C.self_connections ? 0 : H);
    for (Index i = 0; i < diagonal.size(); ++i) diagonal[i] = dw(i, i);
    add_linear_weight_gradient<Real, H, H>(ds, before, dw);
    for (Index i = 0; i < diagonal.size(); ++i) dw(i, i) = diagonal[i];
  }

  void add_time_constant_gradient(const Real* k, const Sequence<Real, H>& dk, Rnn& gradient) const {
    Buffer<Real> sums(H);
    for (Real& sum : sums) sum = 0;
    add_column_sums<Real>(dk.matrix(), sums.data());
    for (Index i = 0; i < H; ++i) {
      const Real d = -k[i] * k[i] * sums[i] * static_cast<Real>(config.hold);
      if constexpr (clamps) {
        if (tau[i] * static_cast<Real>(config.hold) > 1) gradient.tau[i] += d;
      } else {
        gradient.rho[i] += d / (1 + std::exp(-rho[i]));
      }
    }
  }
};

}  // namespace limen::inline LIMEN_ABI
