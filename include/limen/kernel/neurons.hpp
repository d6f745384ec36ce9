#pragma once
/// @file  Neurons side by side: the loops over sequences, time and neurons of all spiking layers.
///
/// What one vector of neurons does in one step is a unit (kernel/lif.hpp is the first), which has
///
///   states   arrays of D numbers in its state; the first is the membrane
///   keeps    arrays [T x D] that its way back reads
///   sums     gradients of parameters, one number for each neuron
///   wants_x  whether its way back reads x as well
///
///   s  = forward(at, x, state, keep)                     moves `state` on
///   dx = backward(at, ds, x, kept, d_state, d_sums)      turns `d_state` back, adds to `d_sums`
///
/// all on vectors, `at(p)` being what an array of D numbers holds for these neurons. Lanes are
/// neurons, time is outside, so a step is a row of a sequence, bit for bit. What a neuron does
/// depends on nothing but itself, so they are shared out to threads by neurons, and every sum runs
/// in the same order for any number of threads.

#include <array>

#include <limen/core/batch.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// A number that all neurons share, or that each has of its own.
template <class Real, bool Each>
struct NeuronNumber {
  std::conditional_t<Each, const Real*, Real> value{};

  template <class At>
  LIMEN_INLINE simd::Vec<Real> operator()(const At& at) const {
    if constexpr (Each) {
      return at(value);
    } else {
      return simd::Vec<Real>(value);
    }
  }
};

template <class Real, int N>
using NeuronArrays = std::array<Real*, static_cast<std::size_t>(N)>;

/// One step of neurons first..first + count. `keep` is not touched unless Keep.
template <bool Keep, class Unit, class Real>
void step_neurons(const Unit& unit, Index first, Index count, const Real* x,
                  const NeuronArrays<Real, Unit::states>& state, Real* s,
                  const NeuronArrays<Real, Unit::keeps>& keep) noexcept {
  using V = simd::Vec<Real>;
  const Unit own = unit;  // what is stored cannot change it: its numbers stay in registers
  simd::for_each<Real>(count, [&](Index j, auto load, auto store) __attribute__((always_inline)) {
    const Index c = first + j;
    const auto at = [load, c](const Real* p) __attribute__((always_inline)) { return load(p + c); };
    std::array<V, Unit::states> now;
    std::array<V, Unit::keeps> kept;
    for (std::size_t k = 0; k < now.size(); ++k) now[k] = at(state[k]);
    const V spikes = own.forward(at, at(x), now, kept);
    for (std::size_t k = 0; k < now.size(); ++k) store(state[k] + c, now[k]);
    for (std::size_t k = 0; Keep && k < kept.size(); ++k) store(keep[k] + c, kept[k]);
    store(s + c, spikes);
  });
}

/// The same step back. `x` is not read unless the unit wants it.
template <class Unit, class Real>
void step_neurons_back(const Unit& unit, Index first, Index count, const Real* ds, const Real* x,
                       const NeuronArrays<const Real, Unit::keeps>& keep,
                       const NeuronArrays<Real, Unit::states>& d_state,
                       const NeuronArrays<Real, Unit::sums>& d_sums, Real* dx) noexcept {
  using V = simd::Vec<Real>;
  const Unit own = unit;  // what is stored cannot change it: its numbers stay in registers
  simd::for_each<Real>(count, [&](Index j, auto load, auto store) __attribute__((always_inline)) {
    const Index c = first + j;
    const auto at = [load, c](const Real* p) __attribute__((always_inline)) { return load(p + c); };
    std::array<V, Unit::keeps> kept;
    std::array<V, Unit::states> d;
    std::array<V, Unit::sums> sums;
    for (std::size_t k = 0; k < kept.size(); ++k) kept[k] = at(keep[k]);
    for (std::size_t k = 0; k < d.size(); ++k) d[k] = at(d_state[k]);
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] = at(d_sums[k]);
    V input(Real(0));
    if constexpr (Unit::wants_x) input = at(x);
    const V d_input = own.backward(at, at(ds), input, kept, d, sums);
    for (std::size_t k = 0; k < d.size(); ++k) store(d_state[k] + c, d[k]);
    for (std::size_t k = 0; k < sums.size(); ++k) store(d_sums[k] + c, sums[k]);
    store(dx + c, d_input);
  });
}

namespace detail {

/// f(first, count) for the neurons of each thread.
template <class Real, class F>
void share_neurons(Index D, double work_ns, F&& f) {
  constexpr Index lanes = simd::lanes<Real>;
  const Index vectors = (D + lanes - 1) / lanes, threads = Threads::allowed();
  const Index pieces = vectors < threads ? 1 : threads;
  parallel_for(pieces, work_ns, [&](Index i) {
    const Index first = vectors * i / pieces * lanes, last = vectors * (i + 1) / pieces * lanes;
    f(first, (last < D ? last : D) - first);
  });
}

/// The states of one sequence: its own, or zeros in `rest`.
template <class Real, int K, class State, class Arrays>
NeuronArrays<Real, K> neuron_states(const Batch<State>& batch, Index b, Arrays&& arrays, Index D,
                                    Index first, Index count, Buffer<Real>& rest) {
  if (batch.carries()) return arrays(batch[b]);
  NeuronArrays<Real, K> state{};
  for (std::size_t k = 0; k < state.size(); ++k) {
    state[k] = rest.data() + static_cast<Index>(k) * D;
    for (Index c = first; c < first + count; ++c) state[k][c] = Real(0);
  }
  return state;
}

template <class Real, std::size_t N>
std::array<Real*, N> row_of(const std::array<Real*, N>& matrices, Index offset) {
  std::array<Real*, N> rows;
  for (std::size_t k = 0; k < N; ++k) rows[k] = matrices[k] + offset;
  return rows;
}

}  // namespace detail

/// x [T x D] -> s [T x D], whole sequences. `arrays(state)` gives the arrays of a state; `keep` are
/// matrices [T x D] without gaps, of which one may be x itself.
template <bool Keep, class Unit, class Real, class State, class Arrays>
void run_neurons(const Unit& unit, MatrixView<const Real> x, const Batch<State>& batch,
                 Arrays&& arrays, MatrixView<Real> s, const NeuronArrays<Real, Unit::keeps>& keep) {
  const Index D = x.cols;
  Buffer<Real> rest(batch.carries() ? 0 : Unit::states * D);
  detail::share_neurons<Real>(
      D, 0.2 * static_cast<double>(x.rows * D), [&](Index first, Index count) {
        for (Index b = 0; b < batch.count(); ++b) {
          const auto state =
              detail::neuron_states<Real, Unit::states>(batch, b, arrays, D, first, count, rest);
          for (Index t = batch.begin(b); t < batch.end(b, x.rows); ++t) {
            step_neurons<Keep>(unit, first, count, x.row(t), state, s.row(t),
                               Keep ? detail::row_of(keep, t * D) : keep);
          }
        }
      });
}

/// The way back: ds -> dx, both [T x D]. The states of the batch are gradients of states; `d_sums`
/// are arrays of D numbers that are added to.
template <class Unit, class Real, class State, class Arrays>
void run_neurons_back(const Unit& unit, MatrixView<const Real> ds, const Real* x,
                      const NeuronArrays<const Real, Unit::keeps>& keep, const Batch<State>& batch,
                      Arrays&& arrays, const NeuronArrays<Real, Unit::sums>& d_sums,
                      MatrixView<Real> dx) {
  const Index D = ds.cols;
  Buffer<Real> rest(batch.carries() ? 0 : Unit::states * D);
  detail::share_neurons<Real>(
      D, 0.3 * static_cast<double>(ds.rows * D), [&](Index first, Index count) {
        for (Index b = 0; b < batch.count(); ++b) {
          const auto d_state =
              detail::neuron_states<Real, Unit::states>(batch, b, arrays, D, first, count, rest);
          for (Index t = batch.end(b, ds.rows) - 1; t >= batch.begin(b); --t) {
            step_neurons_back(unit, first, count, ds.row(t), Unit::wants_x ? x + t * D : nullptr,
                              detail::row_of(keep, t * D), d_state, d_sums, dx.row(t));
          }
        }
      });
}

}  // namespace limen::inline LIMEN_ABI
