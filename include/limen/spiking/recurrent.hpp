#pragma once
/// @file  Neurons that hear each other: any layer of neurons, with its own spikes fed back.
///
///   s_t = neuron(x_t + V s_{t-1} + b)        x, s [T x D], V [D x D], s_{-1} = 0
///
/// The neuron is any layer with as many outputs as inputs whose state is its own: Lif, Synaptic,
/// Alpha and the others of this family, or a layer of yours. V has no diagonal: what it holds there
/// is ignored and gets no gradient, since a neuron's answer to its own spike is its reset.
/// (`.self_connections` gives it one.)
///
/// Bellec et al., arXiv:1803.09574; `RLeaky` and `RSynaptic` of snnTorch, the recurrent cells of
/// Norse.

#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

#include <limen/compose/parts.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/kernel/leaky.hpp>
#include <limen/kernel/recurrent.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/rnn.hpp>

namespace limen::inline LIMEN_ABI {

struct RecurrentConfig {
  bool self_connections = false;  ///< use the diagonal of V
  bool bias = false;              ///< add b
};

template <class Neurons, class Real, Index D>
struct RecurrentState {
  Neurons neuron;
  Fixed<Real, D> s;  ///< last spikes
};

template <class Neuron, RecurrentConfig C = RecurrentConfig{}>
struct Recurrent {
  static_assert(Neuron::in == Neuron::out, "Recurrent: the neuron must be as wide out as in");
  static_assert(!std::is_empty_v<typename Neuron::State>,
                "Recurrent: the neuron must have a state");

  static constexpr RecurrentConfig config = C;
  static constexpr Index D = Neuron::out, in = D, out = D;
  using Scalar = typename Neuron::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Recurrent<typename Neuron::template with_scalar<T>, C>;
  static constexpr bool trains = Trainable<Neuron>;
  using Packed = PackedRecurrentWeight<Real, D, C.self_connections>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Neuron neuron;
  std::conditional_t<trains, Tensor<Real, D, D>, Packed> recurrent;  ///< V
  Optional<C.bias, Tensor<Real, D>> bias;                            ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("neuron", l.neuron...);
    f("recurrent", l.recurrent...);
    f("bias", l.bias...);
  }

  static Recurrent initialized(Random& random) {
    Recurrent layer{.neuron = Neuron::initialized(random), .recurrent = {}, .bias = {}};
    fill_fan_in(layer.recurrent, random);
    for (Index i = 0; i < D && !C.self_connections; ++i) layer.recurrent(i, i) = 0;
    return layer;
  }

  static constexpr Index macs(Index rows) { return rows * D * D + Neuron::macs(rows); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using Inner = typename Neuron::State;
  using State = RecurrentState<Inner, Real, D>;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    return run(x, batch, nullptr, [this](Index, SequenceView<Real, D> u, const Batch<Inner>& now) {
      return neuron.forward(u, now);
    });
  }

  /// x [D] -> spikes [D].  Allocates nothing.
  Vector<Real, D> step(VectorView<Real, D> x, State& state) const noexcept {
    const FlushDenormals guard;
    Vector<Real, D> u = x.copy();
    const MatrixView<const Real> past{state.s.data(), 1, D, D};
    if constexpr (!trains) {
      product_nt(past, recurrent.view(), u.matrix(), {.accumulate = true});
    } else if constexpr (C.self_connections) {
      product_nt(past, recurrent.matrix(), u.matrix(), {.accumulate = true});
    } else {
      add_product_without_diagonal<Real>(recurrent.matrix(), past.data, u.data());
    }
    for (Index c = 0; C.bias && c < D; ++c) u[c] += data_or_null(bias)[c];
    const auto s = neuron.step(VectorView<Real, D>(u), state.neuron);
    std::memcpy(state.s.data(), s.data(), sizeof s.values);
    return s;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, D> before;                      ///< [T x D], s_{t-1}
    std::vector<detail::cache_of<Neuron>> neuron;  ///< of each step, all sequences together
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires Trainable<Neuron>
  {
    if (!batch.fits(x.rows())) return {};
    cache.before = Sequence<Real, D>(x.rows());
    return run(x, batch, cache.before.data(),
               [&](Index t, SequenceView<Real, D> u, const Batch<Inner>& now) {
                 const auto step = static_cast<std::size_t>(t);
                 if (step >= cache.neuron.size()) cache.neuron.resize(step + 1);
                 return neuron.forward(u.copy(), now, cache.neuron[step]);
               });
  }

  /// From the last step to the first: the neuron gives dx_t for ds_t + Vᵀ dx_{t+1}. Then
  ///   dV = Σ dx_t s_{t-1}ᵀ off the diagonal,  db = Σ dx_t
  Sequence<Real, D> backward(SequenceView<Real, D> ds, Batch<State> batch, const Cache& cache,
                             Recurrent& gradient) const
    requires Trainable<Neuron>
  {
    if (!batch.fits(ds.rows()) || !fits_cache(ds.rows(), cache.before.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, D> dx(ds.rows());
    const ByLength sequences(batch, ds.rows());
    const Index count = sequences.count();
    const auto w = Packed::pack(recurrent.matrix(), true);
    Buffer<Real> back(count * D), from(count * D);
    Buffer<std::byte> inner(count * inner_bytes);
    Buffer<Index> steps = offsets(count);
    gather(sequences, batch, back.data(), inner.data());
    sequences.backwards([&](Index t, Index n) {
      Sequence<Real, D> e(n);
      for (Index i = 0; i < n; ++i) {
        std::memcpy(e.row_data(i), ds.row(sequences.first(i) + t).data(), row_bytes);
      }
      add_rows<Real>(MatrixView<Real>{back.data(), n, D, D}, e.matrix());
      const auto d = neuron.backward(e, states(inner.data(), steps, n, batch),
                                     cache.neuron[static_cast<std::size_t>(t)], gradient.neuron);
      for (Index i = 0; i < n; ++i) {
        std::memcpy(dx.row_data(sequences.first(i) + t), d.row(i).data(), row_bytes);
      }
      product_nt<Real>(d.matrix(), w.view(), {back.data(), n, D, D});
    });
    scatter(sequences, batch, back.data(), inner.data());
    add_recurrent_gradient(dx, cache.before, gradient.recurrent);
    if constexpr (C.bias) add_bias_gradient<Real, D>(dx, gradient.bias);
    return dx;
  }

 private:
  static constexpr Index inner_bytes = static_cast<Index>(sizeof(Inner));
  static constexpr std::size_t row_bytes = static_cast<std::size_t>(D) * sizeof(Real);

  /// For each time step, `step(t, u, states)` gives the spikes of the sequences that run, from
  /// their drives u. `before`: where s_{t-1} is kept, or null.
  template <class Step>
  Sequence<Real, D> run(SequenceView<Real, D> x, const Batch<State>& batch, Real* before,
                        Step&& step) const {
    const FlushDenormals guard;
    Sequence<Real, D> y(x.rows());
    const ByLength sequences(batch, x.rows());
    const Index count = sequences.count();
    Panels<Real> packed;
    PanelsView<Real> w;
    if constexpr (trains) {
      packed = Packed::pack(recurrent.matrix());
      w = packed.view();
    } else {
      w = recurrent.view();
    }
    Buffer<Real> s(count * D), u(count * D);
    Buffer<std::byte> inner(count * inner_bytes);
    Buffer<Index> steps = offsets(count);
    gather(sequences, batch, s.data(), inner.data());
    sequences.forwards([&](Index t, Index n) {
      for (Index i = 0; i < n; ++i) {
        const Index row = sequences.first(i) + t;
        std::memcpy(u.data() + i * D, x.row(row).data(), row_bytes);
        if (before != nullptr) std::memcpy(before + row * D, s.data() + i * D, row_bytes);
      }
      const MatrixView<Real> drive{u.data(), n, D, D};
      product_nt<Real>({s.data(), n, D, D}, w, drive, {.accumulate = true});
      for (Index i = 0; C.bias && i < n; ++i) {
        for (Index c = 0; c < D; ++c) drive(i, c) += data_or_null(bias)[c];
      }
      const auto spikes =
          step(t, SequenceView<Real, D>(u.data(), n), states(inner.data(), steps, n, batch));
      for (Index i = 0; i < n; ++i) {
        std::memcpy(y.row_data(sequences.first(i) + t), spikes.row(i).data(), row_bytes);
        std::memcpy(s.data() + i * D, spikes.row(i).data(), row_bytes);
      }
    });
    scatter(sequences, batch, s.data(), inner.data());
    return y;
  }

  static Buffer<Index> offsets(Index count) {
    Buffer<Index> steps(count + 1);
    for (Index i = 0; i <= count; ++i) steps[i] = i;
    return steps;
  }

  /// The neurons of the first n sequences, one row each.
  static Batch<Inner> states(std::byte* inner, const Buffer<Index>& steps, Index n,
                             const Batch<State>& batch) {
    return Batch<Inner>({reinterpret_cast<Inner*>(inner), static_cast<std::size_t>(n)},
                        {steps.data(), static_cast<std::size_t>(n + 1)}, batch.context);
  }

  /// States in the order of `sequences`: zeros from rest.
  static void gather(const ByLength& sequences, const Batch<State>& batch, Real* s,
                     std::byte* inner) {
    for (Index i = 0; i < sequences.count(); ++i) {
      const State* state = batch.carries() ? &batch[sequences.which(i)] : nullptr;
      if (state == nullptr) {
        std::memset(s + i * D, 0, row_bytes);
        new (inner + i * inner_bytes) Inner{};
      } else {
        std::memcpy(s + i * D, state->s.data(), row_bytes);
        new (inner + i * inner_bytes) Inner(state->neuron);
      }
    }
  }

  static void scatter(const ByLength& sequences, const Batch<State>& batch, const Real* s,
                      const std::byte* inner) {
    for (Index i = 0; batch.carries() && i < sequences.count(); ++i) {
      State& state = batch[sequences.which(i)];
      std::memcpy(state.s.data(), s + i * D, row_bytes);
      state.neuron = *reinterpret_cast<const Inner*>(inner + i * inner_bytes);
    }
  }

  static void add_recurrent_gradient(const Sequence<Real, D>& dx, const Sequence<Real, D>& before,
                                     Tensor<Real, D, D>& dv) {
    Buffer<Real> diagonal(C.self_connections ? 0 : D);
    for (Index i = 0; i < diagonal.size(); ++i) diagonal[i] = dv(i, i);
    add_linear_weight_gradient<Real, D, D>(dx, before, dv);
    for (Index i = 0; i < diagonal.size(); ++i) dv(i, i) = diagonal[i];
  }
};

}  // namespace limen::inline LIMEN_ABI
