#pragma once
/// @file  Experts that see mixtures of all rows of a sequence, instead of some of the rows.
///
///   L = a X̂ Φ̂ᵀ             X [T x D], Φ [n x D], n = E p slots;  v̂ = v / sqrt(Σ v² + 1e-6) of a
///   row A = softmax of L over rows      what a slot sees:  Z = Aᵀ X [n x D] B = softmax of L over
///   slots     what a row gets:   Y = B f(Z), expert e serves slots e p ... e p + p-1
///
/// No choice, so no balance to keep, and slopes everywhere. Each slot sees the whole sequence:
/// there is no step. All experts run on p rows of each sequence, whatever its length.
///
/// Puigcerver, Riquelme, Mustafa & Houlsby, "From sparse to soft mixtures of experts",
/// arXiv:2308.00951, section 2 and algorithm 2.

#include <cmath>
#include <utility>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/moe/experts.hpp>

namespace limen::inline LIMEN_ABI {

struct SoftMixtureConfig {
  Index d_model = 0;           ///< D
  Index n_experts = 0;         ///< E
  Index slots_per_expert = 1;  ///< p
};

template <SoftMixtureConfig C, class... Layers>
struct SoftMixtureOfExperts {
  static_assert(C.d_model > 0, "SoftMixtureOfExperts: .d_model must be positive");
  static_assert(C.n_experts > 0, "SoftMixtureOfExperts: .n_experts must be positive");
  static_assert(C.slots_per_expert > 0, "SoftMixtureOfExperts: .slots_per_expert must be positive");
  static_assert(sizeof...(Layers) > 0, "SoftMixtureOfExperts: needs at least one expert");
  static_assert(detail::compose<Layers...>() && detail::fit_as_experts<Layers...>());
  static_assert((std::is_empty_v<typename Layers::State> && ...),
                "SoftMixtureOfExperts: a slot is no time step, experts must have no memory");
  using Set = detail::Experts<C.n_experts, Layers...>;
  using First = typename detail::FirstOf<Layers...>::type;
  static_assert(First::in == C.d_model,
                "SoftMixtureOfExperts: .d_model must be the width that the experts take");

  static constexpr SoftMixtureConfig config = C;
  static constexpr Index D = C.d_model, E = C.n_experts, p = C.slots_per_expert, N = E * p;
  static constexpr Index in = D, out = First::out;
  using Scalar = typename First::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = SoftMixtureOfExperts<C, typename Layers::template with_scalar<T>...>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  Tensor<Real, N, D> slots;  ///< Φ
  Tensor<Real, 1> scale;     ///< a
  Set experts;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("slots", m.slots...);
    f("scale", m.scale...);
    f("experts", m.experts...);
  }

  static SoftMixtureOfExperts initialized(Random& random) {
    SoftMixtureOfExperts layer;
    fill_normal(layer.slots, 1 / std::sqrt(static_cast<double>(D)), random);
    layer.scale[0] = 1;
    layer.experts = Set::initialized(random);
    return layer;
  }

  static constexpr bool work_depends_on_data = true;  // E p rows for each sequence, however long

  // ── Whole sequences ────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    Shares shares;
    return run(x, batch, shares, [](auto& layer, auto&& z, auto where, auto) {
      return layer.forward(SequenceView<Real, D>(z), where);
    });
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const {
    static_assert(detail::never_with<Asked...>,
                  "SoftMixtureOfExperts: slots see whole sequences, there is no step");
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Shares {
    Sequence<Real, D> unit;  ///< X̂
    Tensor<Real, N, D> key;  ///< Φ̂
    Sequence<Real, N> raw;   ///< X̂ Φ̂ᵀ
    Sequence<Real, N> b;     ///< B
    Buffer<Real> a;          ///< Aᵀ: [N x T] of each sequence, one after the other
    Sequence<Real, out>
        f;  ///< f(Z) of all sequences: [count N x out], slots of a sequence together
  };
  struct Cache {
    Sequence<Real, D> x;
    Shares shares;
    typename Set::Caches experts;
  };

  Sequence<Real, out> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires(Trainable<Layers> && ...)
  {
    cache.x = std::move(x);
    return run(cache.x, batch, cache.shares, [&](auto& layer, auto&& z, auto where, auto e) {
      return layer.forward(std::move(z), where, Set::part(cache.experts, e));
    });
  }

  /// With dF = Bᵀ dY, dB = dY Fᵀ, dZ of the experts, dA = X dZᵀ:
  ///   dL = B ⊙ (dB - rowsum(B ⊙ dB)) + A ⊙ (dA - colsum(A ⊙ dA)),   da = ⟨dL, X̂ Φ̂ᵀ⟩
  ///   dX̂ = a dL Φ̂,  dΦ̂ = a dLᵀ X̂,  dX = A dZ + share of X̂;   v̂ = m v:  dv = m (dv̂ - v̂ ⟨v̂, dv̂⟩)
  Sequence<Real, D> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                             SoftMixtureOfExperts& gradient) const
    requires(Trainable<Layers> && ...)
  {
    const Index rows = dy.rows();
    if (!batch.fits(rows) || !fits_cache(rows, cache.x.rows())) return {};
    const FlushDenormals guard;
    const Shares& s = cache.shares;
    auto df = Sequence<Real, out>::zeros(batch.count() * N);
    for_each_sequence(batch, rows, [&](Index b, Index first, Index count) {
      add_product_tn<Real>(s.b.matrix().middle_rows(first, count),
                           dy.matrix().middle_rows(first, count),
                           df.matrix().middle_rows(b * N, N));
    });
    Sequence<Real, D> dz(batch.count() * N);
    if (!serve<out>(batch, df, dz, [&](auto e, Sequence<Real, out>&& mine, auto where) {
          return Set::part(experts.layers, e)
              .backward(mine, where, Set::part(cache.experts, e),
                        Set::part(gradient.experts.layers, e));
        })) {
      return {};
    }
    auto dx = Sequence<Real, D>::zeros(rows);
    Sequence<Real, N> dl(rows);
    for_each_sequence(batch, rows, [&](Index b, Index first, Index count) {
      const auto f = s.f.matrix().middle_rows(b * N, N);
      const auto z = std::as_const(dz).matrix().middle_rows(b * N, N);
      const MatrixView<const Real> a{s.a.data() + first * N, N, count, count};
      const auto mine = dl.matrix().middle_rows(first, count);
      product_nt<Real>(dy.matrix().middle_rows(first, count), f, mine);
      softmax_backward<Real>(s.b.matrix().middle_rows(first, count), mine, mine);
      Buffer<Real> d(N * count);
      const MatrixView<Real> da{d.data(), N, count, count};
      product_nt<Real>(z, cache.x.matrix().middle_rows(first, count), da);
      softmax_backward<Real>(a, da, da);
      for (Index t = 0; t < count; ++t) {
        for (Index i = 0; i < N; ++i) mine(t, i) += da(i, t);
      }
      add_product_tn<Real>(a, z, dx.matrix().middle_rows(first, count));
    });
    Real& da = gradient.scale[0];
    for (Index i = 0; i < dl.size(); ++i) {
      da += dl.data()[i] * s.raw.data()[i];
      dl.data()[i] *= scale[0];
    }
    Sequence<Real, D> dunit(rows), dkey = Sequence<Real, D>::zeros(N);
    product_nn<Real>(dl.matrix(), s.key.matrix(), dunit.matrix());
    add_product_tn<Real>(dl.matrix(), s.unit.matrix(), dkey.matrix());
    for (Index t = 0; t < rows; ++t) {
      add_unit_gradient(cache.x.row(t).data(), s.unit.row(t).data(), dunit.row(t).data(),
                        dx.row_data(t));
    }
    for (Index i = 0; i < N; ++i) {
      add_unit_gradient(slots.data() + i * D, s.key.data() + i * D, dkey.row(i).data(),
                        gradient.slots.data() + i * D);
    }
    return dx;
  }

 private:
  static Real dot(const Real* a, const Real* b) noexcept {
    return reduce_row<Real>(D, [&](Index i, auto load) { return load(a + i) * load(b + i); });
  }
  static Real inverse_length(const Real* v) noexcept {
    return Real(1) / std::sqrt(dot(v, v) + Real(1e-6));
  }
  static void to_unit(const Real* v, Real* unit) noexcept {
    const Real m = inverse_length(v);
    for (Index d = 0; d < D; ++d) unit[d] = m * v[d];
  }
  static void add_unit_gradient(const Real* v, const Real* unit, const Real* dunit,
                                Real* dv) noexcept {
    const Real m = inverse_length(v), along = dot(unit, dunit);
    for (Index d = 0; d < D; ++d) dv[d] += m * (dunit[d] - along * unit[d]);
  }

  /// f(b, its first row, how many) for the sequences that have rows.
  template <class F>
  static void for_each_sequence(const Batch<State>& batch, Index rows, F f) {
    for (Index b = 0; b < batch.count(); ++b) {
      const Index first = batch.begin(b), count = batch.end(b, rows) - first;
      if (count > 0) f(b, first, count);
    }
  }

  /// call(layer, Z of expert e [count p x D], its batch, e) gives its part of f(Z).
  template <class Call>
  Sequence<Real, out> run(SequenceView<Real, D> x, const Batch<State>& batch, Shares& s,
                          Call call) const {
    const Index rows = x.rows();
    if (!batch.fits(rows)) return {};
    const FlushDenormals guard;
    s.unit = Sequence<Real, D>(rows);
    s.raw = Sequence<Real, N>(rows);
    s.a = Buffer<Real>(rows * N);
    for (Index t = 0; t < rows; ++t) to_unit(x.row(t).data(), s.unit.row_data(t));
    for (Index i = 0; i < N; ++i) to_unit(slots.data() + i * D, s.key.data() + i * D);
    product_nt<Real>(std::as_const(s.unit).matrix(), std::as_const(s.key).matrix(), s.raw.matrix());
    s.b = s.raw;
    for (Index i = 0; i < s.b.size(); ++i) s.b.data()[i] *= scale[0];
    auto z = Sequence<Real, D>::zeros(batch.count() * N);  // 0 where a sequence has no rows
    for_each_sequence(batch, rows, [&](Index b, Index first, Index count) {
      const MatrixView<Real> a{s.a.data() + first * N, N, count, count};
      for (Index t = 0; t < count; ++t) {
        for (Index i = 0; i < N; ++i) a(i, t) = s.b(first + t, i);
      }
      softmax<Real>(a, a);
      product_nn<Real>(a, x.matrix().middle_rows(first, count), z.matrix().middle_rows(b * N, N));
    });
    softmax<Real>(std::as_const(s.b).matrix(), s.b.matrix());
    s.f = Sequence<Real, out>(batch.count() * N);
    if (!serve<D>(batch, z, s.f, [&](auto e, Sequence<Real, D>&& mine, auto where) {
          return call(Set::part(experts.layers, e), std::move(mine), where, e);
        })) {
      return {};
    }
    Sequence<Real, out> y(rows);
    for_each_sequence(batch, rows, [&](Index b, Index first, Index count) {
      product_nn<Real>(std::as_const(s.b).matrix().middle_rows(first, count),
                       std::as_const(s.f).matrix().middle_rows(b * N, N),
                       y.matrix().middle_rows(first, count));
    });
    return y;
  }

  /// to = run(position, rows of `from` that are slots of the expert, their batch), for each expert.
  template <Index W, Index V, class Run>
  static bool serve(const Batch<State>& batch, const Sequence<Real, W>& from, Sequence<Real, V>& to,
                    Run run) {
    const Index count = batch.count(), part = count * p;
    Buffer<Index> offsets(count + 1), order(part);
    for (Index b = 0; b <= count; ++b) offsets[b] = b * p;
    bool all = true;
    for (Index e = 0; e < E && all && part > 0; ++e) {
      for (Index i = 0; i < part; ++i) order[i] = i / p * N + e * p + i % p;
      Sequence<Real, W> mine(part);
      gather_rows<Real>(from.matrix(), order.data(), mine.matrix());
      Set::at(e, [&](auto position) {
        const auto result = run(position, std::move(mine), batch_of(batch, position, offsets));
        all = result.rows() == part;
        if (all) scatter_rows<Real>(result.matrix(), order.data(), to.matrix());
      });
    }
    return all;
  }

  template <class Position>
  static auto batch_of(const Batch<State>& batch, Position, const Buffer<Index>& offsets) {
    using Expert = std::remove_cvref_t<decltype(Set::part(std::declval<Set&>().layers,
                                                          std::declval<Position>()))>;
    return Batch<typename Expert::State>(
        std::span<const Index>(offsets.data(), static_cast<std::size_t>(offsets.size())),
        batch.context);
  }
};

}  // namespace limen::inline LIMEN_ABI
