#pragma once
/// @file  A causal mixer that sees everything: run over several orders of the rows, blended by a
/// gate.
///
///   n = norm(x)        f_p = order_p⁻¹(mixer(order_p(n)))        p: forwards, backwards, shuffled
///   a = softmax(G [mean_t f_1; ...; mean_t f_P])        y_t = x_t + Σ_p a_p f_p,t
///
///   T time   D width   P paths   G [P x P D]; without a gate a_p = 1 / P
///
/// Chen et al., "RSMamba: Remote Sensing Image Classification with State Space Model",
/// arXiv:2403.19654, section 3.3. The mixer is shared: its runs are one batch of P times as many
/// sequences. The shuffled order is drawn anew in each run that has a random generator; without one
/// it depends on the length only, so that an answer can be had twice.

#include <cstring>
#include <numeric>
#include <span>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/macs.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/nn/layer_norm.hpp>

namespace limen::inline LIMEN_ABI {

struct MultiPathConfig {
  bool backwards = true;   ///< a path from the last row to the first
  bool shuffled = true;    ///< a path in random order
  bool gate = true;        ///< weigh the paths by what they found
  double eps = 1e-6;       ///< of the norm
  std::uint64_t seed = 1;  ///< of the order where a run has no generator
};

template <MultiPathConfig C, class Mixer>
struct MultiPath {
  static_assert(Mixer::in == Mixer::out, "MultiPath: the mixer must give the width that it takes");

  static constexpr MultiPathConfig config = C;
  static constexpr Index D = Mixer::in, in = D, out = D;
  static constexpr Index P = 1 + (C.backwards ? 1 : 0) + (C.shuffled ? 1 : 0);
  using Scalar = typename Mixer::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = MultiPath<C, typename Mixer::template with_scalar<T>>;

  // ── What it has learned ────────────────────────────────────────────────────────────────────────
  LayerNorm<LayerNormConfig{.d = D, .eps = config.eps}, Real> norm;
  Mixer mixer;
  Optional<C.gate, Tensor<Real, P, P * D>> gate;  ///< G

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("norm", l.norm...);
    f("mixer", l.mixer...);
    f("gate", l.gate...);
  }

  static MultiPath initialized(Random& random) {
    MultiPath layer;
    layer.norm = decltype(norm)::initialized(random);
    layer.mixer = Mixer::initialized(random);
    if constexpr (C.gate) fill_fan_in(layer.gate, random);
    return layer;
  }

  static constexpr Index macs(Index rows) {
    return limen::macs<Mixer>(P * rows) + 2 * P * D * rows;
  }

  using State = NoState;

  /// Row t of the paths, one path after the other, is row order[t] of x.
  struct Paths {
    Index rows = 0, count = 0;
    Buffer<Index> order;    ///< [P T]
    Buffer<Index> offsets;  ///< [P B + 1]

    Paths() = default;
    Paths(const Batch<State>& batch, Index T)
        : rows(T), count(batch.count()), order(P * T), offsets(P * count + 1) {
      offsets[0] = 0;
      for (Index p = 0; p < P; ++p) {
        for (Index b = 0; b < count; ++b) {
          const Index first = batch.begin(b), n = batch.end(b, T) - first;
          Index* const to = order.data() + p * T + first;
          offsets[p * count + b + 1] = p * T + first + n;
          if (C.backwards && p == 1) {
            for (Index i = 0; i < n; ++i) to[i] = first + n - 1 - i;
          } else {
            std::iota(to, to + n, first);
          }
          if (C.shuffled && p == P - 1) {
            const std::span<Index> all(to, static_cast<std::size_t>(n));
            if (batch.context != nullptr && batch.context->random != nullptr) {
              batch.context->random->shuffle(all);
            } else {
              Random(C.seed).shuffle(all);
            }
          }
        }
      }
    }

    Index begin(Index p, Index b) const { return offsets[p * count + b]; }

    template <class L>
    Batch<typename L::State> batch(const Batch<State>& like) const {
      return Batch<typename L::State>(
          std::span<const Index>(offsets.data(), static_cast<std::size_t>(offsets.size())),
          like.context);
    }

    /// n in all orders [P T x D]
    Sequence<Real, D> along(const Sequence<Real, D>& n) const {
      Sequence<Real, D> all(P * rows);
      for (Index t = 0; t < all.rows(); ++t) {
        std::memcpy(all.row_data(t), n.data() + order[t] * D, sizeof(Real) * std::size_t{D});
      }
      return all;
    }
  };

  // ── Whole sequences ────────────────────────────────────────────────────────────────────────────
  /// x [T x D] -> y [T x D]
  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const Paths paths(batch, x.rows());
    const auto n = norm.forward(x, batch);
    const auto f = mixer.forward(paths.along(n), paths.template batch<Mixer>(batch));
    return blend(x, f, paths, weights(f, paths));
  }

  /// Later rows change earlier ones: there is nothing to give before the last row is known.
  template <class... A>
  void step(A&&...) const {
    static_assert(sizeof...(A) > 99, "MultiPath: not causal, so it has no step; use forward");
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    typename LayerNorm<LayerNormConfig{.d = D, .eps = config.eps}, Real>::Cache normed;
    typename Mixer::Cache mixed;
    Paths paths;
    Sequence<Real, D> f;  ///< [P T x D], what the mixer found, path by path
    Buffer<Real> a;       ///< [B x P]
  };

  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State> batch, Cache& cache) const
    requires Trainable<Mixer>
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    cache.paths = Paths(batch, x.rows());
    const auto n = norm.forward(Sequence<Real, D>(x), batch, cache.normed);
    cache.f =
        mixer.forward(cache.paths.along(n), cache.paths.template batch<Mixer>(batch), cache.mixed);
    cache.a = weights(cache.f, cache.paths);
    return blend(x, cache.f, cache.paths, cache.a);
  }

  /// For each sequence, with m the means of all paths side by side:
  ///   da_p = Σ_t <dy_t, f_p,t>,  dl = a ⊙ (da - <a, da>),  dG = dl mᵀ,  dm = Gᵀ dl
  ///   df_p = a_p dy + dm_p / T;  what comes out of the mixer goes back to the rows it came from.
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State> batch, const Cache& cache,
                             MultiPath& gradient) const
    requires Trainable<Mixer>
  {
    const Paths& paths = cache.paths;
    if (!batch.fits(dy.rows()) || !fits_cache(dy.rows(), paths.rows)) return {};
    const FlushDenormals guard;
    Sequence<Real, D> df(P * paths.rows);
    for (Index b = 0; b < paths.count; ++b) {
      const Real* a = cache.a.data() + b * P;
      Vector<Real, P * D> dm{};
      if constexpr (C.gate) {
        const auto m = means(cache.f, paths, b);
        Vector<Real, P> dl{};
        for (Index p = 0; p < P; ++p) {
          for (Index t = paths.begin(p, b); t < paths.begin(p, b + 1); ++t) {
            const Real *d = dy.data() + paths.order[t] * dy.stride(), *f = cache.f.data() + t * D;
            dl[p] +=
                reduce_row<Real>(D, [=](Index i, auto load) { return load(d + i) * load(f + i); });
          }
        }
        softmax_backward_row(a, dl.data(), dl.data(), P);
        for (Index p = 0; p < P; ++p) {
          for (Index i = 0; i < P * D; ++i) {
            gradient.gate(p, i) += dl[p] * m[i];
            dm[i] += gate(p, i) * dl[p];
          }
        }
      }
      for (Index p = 0; p < P; ++p) {
        const Index first = paths.begin(p, b), last = paths.begin(p, b + 1);
        const Real share = last > first ? 1 / static_cast<Real>(last - first) : Real(0);
        for (Index t = first; t < last; ++t) {
          const Real* d = dy.data() + paths.order[t] * dy.stride();
          simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
            using V = simd::Vec<Real>;
            store(df.row_data(t) + i,
                  simd::fma(V(a[p]), load(d + i), load(dm.data() + p * D + i) * V(share)));
          });
        }
      }
    }
    const auto along =
        mixer.backward(df, paths.template batch<Mixer>(batch), cache.mixed, gradient.mixer);
    auto dn = Sequence<Real, D>::zeros(paths.rows);
    for (Index t = 0; t < along.rows(); ++t) add(along.data() + t * D, dn.row_data(paths.order[t]));
    auto dx = norm.backward(dn, batch, cache.normed, gradient.norm);
    for (Index t = 0; t < dx.rows(); ++t) add(dy.data() + t * dy.stride(), dx.row_data(t));
    return dx;
  }

 private:
  static void add(const Real* from, Real* to) {
    simd::for_each<Real>(
        D, [&](Index i, auto load, auto store) { store(to + i, load(to + i) + load(from + i)); });
  }

  static Vector<Real, P * D> means(const Sequence<Real, D>& f, const Paths& paths, Index b) {
    Vector<Real, P * D> m{};
    for (Index p = 0; p < P; ++p) {
      const Index first = paths.begin(p, b), last = paths.begin(p, b + 1);
      for (Index t = first; t < last; ++t) add(f.data() + t * D, m.data() + p * D);
      for (Index i = 0; i < D; ++i)
        m[p * D + i] /= static_cast<Real>(last > first ? last - first : 1);
    }
    return m;
  }

  /// a [B x P]
  Buffer<Real> weights(const Sequence<Real, D>& f, const Paths& paths) const {
    Buffer<Real> a(paths.count * P);
    for (Real& w : a) w = Real(1) / Real(P);
    if constexpr (C.gate) {
      for (Index b = 0; b < paths.count; ++b) {
        const auto m = means(f, paths, b);
        product_nt<Real>(m.matrix(), gate.matrix(), MatrixView<Real>{a.data() + b * P, 1, P, P});
        softmax_row(a.data() + b * P, a.data() + b * P, P);
      }
    }
    return a;
  }

  Sequence<Real, D> blend(SequenceView<Real, D> x, const Sequence<Real, D>& f, const Paths& paths,
                          const Buffer<Real>& a) const {
    auto y = x.copy();
    for (Index p = 0; p < P; ++p) {
      for (Index b = 0; b < paths.count; ++b) {
        const simd::Vec<Real> weight(a[b * P + p]);
        for (Index t = paths.begin(p, b); t < paths.begin(p, b + 1); ++t) {
          Real* const to = y.row_data(paths.order[t]);
          simd::for_each<Real>(D, [&](Index i, auto load, auto store) {
            store(to + i, simd::fma(weight, load(f.data() + t * D + i), load(to + i)));
          });
        }
      }
    }
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
