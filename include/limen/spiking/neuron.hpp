#pragma once
/// @file  The faces of a layer of neurons, made from its unit (kernel/neurons.hpp).
///
/// A layer says what its neurons compute with (`unit`), how many numbers of that each of them has
/// of its own (`own_numbers`), and what a state holds (`arrays`); the four faces are then one line
/// each. See spiking/lif.hpp.

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/math.hpp>
#include <limen/kernel/neurons.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/spiking/spike.hpp>

namespace limen::inline LIMEN_ABI {

/// What backward reads: the matrices of the unit, and x if it wants it.
template <class Unit, Index D>
struct NeuronCache {
  using Real = typename Unit::Real;
  Index rows = 0;
  Sequence<Real, D> x;
  std::array<Sequence<Real, D>, static_cast<std::size_t>(Unit::keeps)> kept;  ///< each [T x D]
};

/// x [T x D] -> spikes [T x D]
template <class Unit, class Real, Index D, class State>
Sequence<Real, D> neurons_forward(const Unit& unit, SequenceView<Real, D> x,
                                  const Batch<State>& batch) {
  if (!batch.fits(x.rows())) return {};
  const FlushDenormals guard;
  Sequence<Real, D> s(x.rows());
  run_neurons<false>(unit, x.matrix(), batch, [](State& state) { return state.arrays(); },
                     s.matrix(), {});
  return s;
}

/// x [D] -> spikes [D].  Allocates nothing.
template <class Unit, class Real, Index D, class State>
Vector<Real, D> neurons_step(const Unit& unit, VectorView<Real, D> x, State& state) noexcept {
  const FlushDenormals guard;
  Vector<Real, D> s;
  step_neurons<false>(unit, 0, D, x.data(), state.arrays(), s.data(), {});
  return s;
}

/// Keeps what backward wants. x becomes the first of it, unless x itself is wanted.
template <class Unit, class Real, Index D, class State>
Sequence<Real, D> neurons_forward(const Unit& unit, Sequence<Real, D> x, const Batch<State>& batch,
                                  NeuronCache<Unit, D>& cache) {
  if (!batch.fits(x.rows())) return {};
  const FlushDenormals guard;
  cache.rows = x.rows();
  cache.x = std::move(x);
  NeuronArrays<Real, Unit::keeps> keep{};
  for (std::size_t k = 0; k < keep.size(); ++k) {
    const bool is_x = k == 0 && !Unit::wants_x;
    cache.kept[k] = Sequence<Real, D>(is_x ? 0 : cache.rows);
    keep[k] = is_x ? cache.x.data() : cache.kept[k].data();
  }
  Sequence<Real, D> s(cache.rows);
  run_neurons<true>(
      unit, std::as_const(cache.x).matrix(), batch, [](State& state) { return state.arrays(); },
      s.matrix(), keep);
  return s;
}

/// ds -> dx; `d_sums` [sums][D] is filled.
template <class Unit, class Real, Index D, class State>
Sequence<Real, D> neurons_backward(const Unit& unit, SequenceView<Real, D> ds,
                                   const Batch<State>& batch, const NeuronCache<Unit, D>& cache,
                                   Buffer<Real>& d_sums) {
  if (!batch.fits(ds.rows()) || !fits_cache(ds.rows(), cache.rows)) return {};
  const FlushDenormals guard;
  NeuronArrays<const Real, Unit::keeps> keep{};
  for (std::size_t k = 0; k < keep.size(); ++k) {
    keep[k] = k == 0 && !Unit::wants_x ? cache.x.data() : cache.kept[k].data();
  }
  d_sums = Buffer<Real>(Unit::sums * D);
  for (Real& sum : d_sums) sum = 0;
  NeuronArrays<Real, Unit::sums> sums{};
  for (std::size_t k = 0; k < sums.size(); ++k) sums[k] = d_sums.data() + static_cast<Index>(k) * D;
  Sequence<Real, D> dx(ds.rows());
  run_neurons_back(
      unit, ds.matrix(), cache.x.data(), keep, batch, [](State& state) { return state.arrays(); },
      sums, dx.matrix());
  return dx;
}

// ── The same of a layer ──────────────────────────────────────────────────────────────────────────

template <class L>
concept HasUnit = requires(const L layer, typename L::Scalar* room) {
  { L::own_numbers } -> std::convertible_to<Index>;
  layer.unit(room);
};

template <HasUnit L, class Real, Index D, class State>
Sequence<Real, D> neurons_forward(const L& layer, SequenceView<Real, D> x,
                                  const Batch<State>& batch) {
  Buffer<Real> own(L::own_numbers * D);
  return neurons_forward(layer.unit(own.data()), x, batch);
}

template <HasUnit L, class Real, Index D, class State>
Vector<Real, D> neurons_step(const L& layer, VectorView<Real, D> x, State& state) noexcept {
  if constexpr (L::own_numbers == 0) {
    return neurons_step(layer.unit(nullptr), x, state);
  } else {
    Vector<Real, L::own_numbers * D> own;
    return neurons_step(layer.unit(own.data()), x, state);
  }
}

template <HasUnit L, class Unit, class Real, Index D, class State>
Sequence<Real, D> neurons_forward(const L& layer, Sequence<Real, D> x, const Batch<State>& batch,
                                  NeuronCache<Unit, D>& cache) {
  Buffer<Real> own(L::own_numbers * D);
  return neurons_forward(layer.unit(own.data()), std::move(x), batch, cache);
}

template <HasUnit L, class Unit, class Real, Index D, class State>
Sequence<Real, D> neurons_backward(const L& layer, SequenceView<Real, D> ds,
                                   const Batch<State>& batch, const NeuronCache<Unit, D>& cache,
                                   L& gradient) {
  Buffer<Real> own(L::own_numbers * D), sums;
  const Unit unit = layer.unit(own.data());
  auto dx = neurons_backward(unit, ds, batch, cache, sums);
  if (sums.size() > 0) layer.add_gradients(unit, sums.data(), gradient);
  return dx;
}

// ── Numbers of neurons, learned or not ───────────────────────────────────────────────────────────

/// What is left of a state in a step, of the inference form: σ taken once, when it was made.
template <class Real, Index N>
class FoldedDecay {
 public:
  void prepare_from(const Tensor<Real, N>& learned) {
    simd::transform(learned.data(), a_.data(), N,
                    [](const simd::Vec<Real>& v) { return math::sigmoid(v); });
  }
  const Real* folded() const { return a_.data(); }

 private:
  Tensor<Real, N> a_;
};

/// The member for such a number that may be learned, of which the learning form has the logit.
template <Learned L, class S, Index D>
using LearnedDecay = std::conditional_t<L != Learned::no && is_prepared<S>,
                                        FoldedDecay<real_of<S>, L == Learned::each ? D : 1>,
                                        LearnedNumber<L, real_of<S>, D>>;

/// The number that neurons compute with: the constant, or f of what was learned. Numbers that each
/// neuron has of its own go to `room`; gives the room that is left.
template <class Real, bool Each, class Member, class F>
Real* set_number(NeuronNumber<Real, Each>& number, const Member& learned, double constant, Index D,
                 Real* room, F f) noexcept {
  if constexpr (is_absent<Member>) {
    static_assert(!Each);
    number.value = static_cast<Real>(constant);
    return room;
  } else if constexpr (requires { learned.folded(); }) {
    if constexpr (Each) {
      number.value = learned.folded();
    } else {
      number.value = *learned.folded();
    }
    return room;
  } else if constexpr (Each) {
    simd::transform(learned.data(), room, D, f);
    number.value = room;
    return room + D;
  } else {
    simd::transform(learned.data(), &number.value, 1, f);
    return room;
  }
}

/// The same of σ(learned).
template <class Real, bool Each, class Member>
Real* set_decay(NeuronNumber<Real, Each>& number, const Member& learned, double constant, Index D,
                Real* room) noexcept {
  return set_number(number, learned, constant, D, room,
                    [](const simd::Vec<Real>& v) { return math::sigmoid(v); });
}

template <class T>
void fill_number(T& number, double value) {
  if constexpr (is_tensor<T>) {
    for (auto& v : number.flat()) v = static_cast<typename T::Scalar>(value);
  }
}

/// d += sum: one number for each neuron, or their sum where the neurons share it.
template <class Real, Index N>
void add_neuron_gradient(const Real* sum, Index D, Tensor<Real, N>& d) {
  if constexpr (N == 1) {
    Real all = 0;
    for (Index c = 0; c < D; ++c) all += sum[c];
    d[0] += all;
  } else {
    for (Index c = 0; c < D; ++c) d[c] += sum[c];
  }
}

/// The same through a = σ(decay), from the sum for a, which is used up.
template <class Real, bool Each, Index N>
void add_decay_gradient(const NeuronNumber<Real, Each>& a, Real* sum, Index D,
                        Tensor<Real, N>& d_decay) {
  for (Index c = 0; c < D; ++c) {
    if constexpr (Each) {
      sum[c] *= a.value[c] * (1 - a.value[c]);
    } else {
      sum[c] *= a.value * (1 - a.value);
    }
  }
  add_neuron_gradient(sum, D, d_decay);
}

}  // namespace limen::inline LIMEN_ABI
