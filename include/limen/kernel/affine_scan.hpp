#pragma once
/// @file  The scan of linear recurrences whose state is one number per channel.
///
///   h_t = a_t ⊙ h_{t-1} + b_t                       a, b, h [T x C], h_0 the state of the sequence
///
///   affine_scan(a, b, h, states)                    coefficients that lie in memory
///   affine_scan_backward(a, h, before, dh, ...)     their gradients
///   scan_affine(..., coefficients)                  coefficients made on the spot: gates, decays
///   scan_affine_back(..., gradients)
///
/// A step costs one multiply-add per channel, so the scan is bound by memory: making a and b from
/// what they depend on, and turning λ into its gradients, in the same pass saves most of the time.
/// Time is sequential, lanes are channels, a few steps keep their state in registers. Associative
/// (parallel) forms do more work than that and gain nothing on lanes that are busy already.
///
/// Sequences are those of a batch; `states` is its part that holds the first number of each state:
/// batch.part([](State& s) -> Real& { return s.h[0]; }).

#include <cstring>
#include <type_traits>

#include <limen/core/batch.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// The coefficients of one step, for a vector of channels.
template <class V>
struct Affine {
  V a, b;
};

namespace detail {

/// So many steps pass over a vector of channels before the next: its state is loaded once for all.
/// (1, 3 or 4 took up to 1.3 times as long where the rows lie in L3, 8 twice: too many streams.)
inline constexpr Index scan_steps = 2;

/// f(b, c0, c1) for every sequence b and channels c0..c1, shared out by channels: every thread then
/// has as much to do, however long the sequences are. Few channels are shared out by sequences.
template <class Real, class F>
void share_scan(const Batch<Real>& batch, Index channels, double work_ns, F&& f) {
  constexpr Index lanes = simd::lanes<Real>;
  const Index threads = Threads::allowed(), vectors = (channels + lanes - 1) / lanes;
  if (vectors >= 2 * threads || batch.count() == 1) {
    const Index pieces = vectors < threads ? 1 : threads;
    parallel_for(pieces, work_ns, [&](Index i) {
      const Index c0 = vectors * i / pieces * lanes, c1 = vectors * (i + 1) / pieces * lanes;
      for (Index b = 0; b < batch.count(); ++b) f(b, c0, c1 < channels ? c1 : channels);
    });
  } else {
    parallel_for(batch.count(), work_ns, [&](Index b) { f(b, Index{0}, channels); });
  }
}

/// f(c, load, store) over channels c0..c1 by vectors.
template <class Real, class F>
LIMEN_INLINE void for_channels(Index c0, Index c1, F&& f) {
  simd::for_each<Real>(c1 - c0, [&](Index c, auto load, auto store)
                                    __attribute__((always_inline)) { f(c0 + c, load, store); });
}

/// `count` steps of one vector of channels, unrolled where there are scan_steps of them.
template <class F>
LIMEN_INLINE void for_steps(Index count, F&& f) {
  if (count == scan_steps) {
    LIMEN_UNROLL for (Index i = 0; i < scan_steps; ++i) f(i);
  } else {
    for (Index i = 0; i < count; ++i) f(i);
  }
}

/// Rows first..last of one sequence, channels c0..c1, from `state` (null: from rest) and to it.
template <class Real, class F>
LIMEN_INLINE void scan_sequence(Index first, Index last, Index c0, Index c1, Real* state,
                                MatrixView<Real> h, F&& coefficients) {
  using V = simd::Vec<Real>;
  const Real* before = state;
  for (Index t0 = first; t0 < last; t0 += scan_steps) {
    const Index count = last - t0 < scan_steps ? last - t0 : scan_steps;
    for_channels<Real>(c0, c1, [&](Index c, auto load, auto store) __attribute__((always_inline)) {
      V s = before == nullptr ? V(Real(0)) : load(before + c);
      for_steps(count, [&](Index i) __attribute__((always_inline)) {
        const Affine<V> k = coefficients(t0 + i, c, load, store);
        s = simd::fma(k.a, s, k.b);
        store(h.row(t0 + i) + c, s);
      });
    });
    before = h.row(t0 + count - 1);
  }
  if (state == nullptr || first == last || c0 == c1) return;
  std::memcpy(state + c0, h.row(last - 1) + c0, static_cast<std::size_t>(c1 - c0) * sizeof(Real));
}

/// The way back. `carry` comes in as the gradient of the last state and goes out as that of the
/// first.
template <class Real, class F>
LIMEN_INLINE void scan_sequence_back(Index first, Index last, Index c0, Index c1,
                                     const Real* before, MatrixView<const Real> h,
                                     MatrixView<const Real> dh, Real* carry, F&& gradients) {
  using V = simd::Vec<Real>;
  for (Index t1 = last; t1 > first; t1 -= scan_steps) {
    const Index count = t1 - first < scan_steps ? t1 - first : scan_steps;
    for_channels<Real>(c0, c1, [&](Index c, auto load, auto store) __attribute__((always_inline)) {
      V d = load(carry + c);
      for_steps(count, [&](Index i) __attribute__((always_inline)) {
        const Index t = t1 - 1 - i;
        const Real* from = t > first ? h.row(t - 1) : before;
        const V previous = from == nullptr ? V(Real(0)) : load(from + c);
        const V lambda = load(dh.row(t) + c) + d;
        d = lambda * gradients(t, c, lambda, previous, load, store);
      });
      store(carry + c, d);
    });
  }
}

}  // namespace detail

/// h_t = a_t ⊙ h_{t-1} + b_t with {a_t, b_t} = coefficients(t, c, load, store), an Affine of the
/// vector of channels from c on; `load` and `store` take pointers to such vectors and mind the
/// ragged end of a row. States come in as the first and go out as the last. `vector_ns`: a guess of
/// what one vector of channels costs.
template <class Real, class F>
void scan_affine(MatrixView<Real> h, const std::type_identity_t<Batch<Real>>& states,
                 double vector_ns, F&& coefficients) {
  const double vectors =
      static_cast<double>(h.rows) * static_cast<double>((h.cols - 1) / simd::lanes<Real> + 1);
  detail::share_scan<Real>(states, h.cols, vectors * vector_ns, [&](Index b, Index c0, Index c1) {
    detail::scan_sequence<Real>(states.begin(b), states.end(b, h.rows), c0, c1,
                                states.carries() ? &states[b] : nullptr, h, coefficients);
  });
}

/// λ_t = dh_t + a_{t+1} ⊙ λ_{t+1},  where a_{T+1} ⊙ λ_{T+1} is the gradient of the last state.
/// a_t = gradients(t, c, λ_t, h_{t-1}, load, store) also stores what follows from λ_t, such as
/// db_t = λ_t and da_t = λ_t ⊙ h_{t-1}. `before` [B x C]: the first states; null: all from rest.
/// `d_states` come in as gradients of the last states and go out as those of the first.
template <class Real, class F>
void scan_affine_back(std::type_identity_t<MatrixView<const Real>> h, const Real* before,
                      std::type_identity_t<MatrixView<const Real>> dh, const Batch<Real>& d_states,
                      double vector_ns, F&& gradients) {
  const Index C = h.cols;
  const double vectors =
      static_cast<double>(h.rows) * static_cast<double>((C - 1) / simd::lanes<Real> + 1);
  Buffer<Real> ends(d_states.carries() ? 0 : C * d_states.count());
  for (Real& end : ends) end = Real(0);
  detail::share_scan<Real>(d_states, C, vectors * vector_ns, [&](Index b, Index c0, Index c1) {
    detail::scan_sequence_back<Real>(d_states.begin(b), d_states.end(b, h.rows), c0, c1,
                                     before == nullptr ? nullptr : before + b * C, h, dh,
                                     d_states.carries() ? &d_states[b] : ends.data() + b * C,
                                     gradients);
  });
}

/// The first states of a batch side by side [B x C], as the way back wants them; empty: from rest.
template <class Real>
Buffer<Real> first_states(const Batch<Real>& states, Index channels) {
  Buffer<Real> all(states.carries() ? states.count() * channels : 0);
  for (Index b = 0; states.carries() && b < states.count(); ++b) {
    std::memcpy(all.data() + b * channels, &states[b],
                static_cast<std::size_t>(channels) * sizeof(Real));
  }
  return all;
}

/// h_t = a_t ⊙ h_{t-1} + b_t.  `h` may be `a` or `b`; an `a` that never changes is a row with
/// stride 0.
template <class Real>
void affine_scan(std::type_identity_t<MatrixView<const Real>> a,
                 std::type_identity_t<MatrixView<const Real>> b, MatrixView<Real> h,
                 const std::type_identity_t<Batch<Real>>& states = {}) {
  scan_affine(h, states, 1.0,
              [&](Index t, Index c, auto load, auto) __attribute__((always_inline)) {
                return Affine<simd::Vec<Real>>{load(a.row(t) + c), load(b.row(t) + c)};
              });
}

/// db_t = λ_t,  da_t = λ_t ⊙ h_{t-1}.  `db` may be `dh`. A `da` with stride 0 gathers: Σ_t da_t is
/// added to that one row.
template <class Real>
void affine_scan_backward(std::type_identity_t<MatrixView<const Real>> a,
                          std::type_identity_t<MatrixView<const Real>> h,
                          const std::type_identity_t<Real>* before,
                          std::type_identity_t<MatrixView<const Real>> dh, MatrixView<Real> da,
                          std::type_identity_t<MatrixView<Real>> db,
                          const std::type_identity_t<Batch<Real>>& d_states = {}) {
  using V = simd::Vec<Real>;
  const auto run = [&](auto gathers, double ns) {
    scan_affine_back<Real>(h, before, dh, d_states, ns,
                           [&](Index t, Index c, V lambda, V previous, auto load, auto store)
                               __attribute__((always_inline)) {
                                 Real* const to = da.row(t) + c;
                                 if constexpr (gathers) {
                                   store(to, simd::fma(lambda, previous, load(to)));
                                 } else {
                                   store(to, lambda * previous);
                                 }
                                 store(db.row(t) + c, lambda);
                                 return load(a.row(t) + c);
                               });
  };
  if (da.stride == 0) {
    run(std::true_type{}, 0.0);  // one thread: sequences share the row
  } else {
    run(std::false_type{}, 1.5);
  }
}

}  // namespace limen::inline LIMEN_ABI
