#pragma once
/// @file  A network of which a share of the channels is enough: one set of weights, several widths.
///
///   at width a:  h_l = relu(norm_a(W_l[:n, :m] h_{l-1} + b_l[:n])),  n = slim(a H), m likewise
///                z = V[:, :n] h + c                  input and output keep their size
///
///     constexpr SlimmableConfig c{.d_in = 64, .d_hidden = 256, .d_out = 10,
///                                 .widths = {0.25, 0.5, 0.75, 1.0}};
///     const auto fast = prepare(net);
///     const auto z = fast.run(x, 1);             // all rows at widths[1]
///     const auto w = fast.run(x, chosen);        // each row at its own
///
/// The faces of a layer give all widths side by side, [T x K C], narrow to wide: the losses of
/// exit/exit_loss.hpp train them together, the widest teaching the others. A norm has statistics
/// for each width, which `settle` moves, and with `.switchable` also its own scale and shift; a
/// width that is not listed has none and is refused. With many widths a step trains some of them,
/// and statistics are measured at the end: exit/sandwich.hpp.
///
/// Yu et al., "Slimmable neural networks", arXiv:1812.08928; Yu & Huang, "Universally slimmable
/// networks", arXiv:1903.05134.

#include <array>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>

#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/exit/sandwich.hpp>
#include <limen/exit/slimmable_shape.hpp>
#include <limen/kernel/norm.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

template <SlimmableConfig C, class S = float>
struct Slimmable;

template <SlimmableConfig C, class S>
  requires(!is_prepared<S>)
struct Slimmable<C, S> {
  using Shape = detail::SlimmableShape<C>;
  static constexpr SlimmableConfig config = C;
  static constexpr Index I = Shape::I, H = Shape::H, O = Shape::O, L = Shape::L, K = Shape::K;
  static constexpr Index A = C.switchable ? K : 1;  ///< scales
  static constexpr Index in = I, out = K * O;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = Slimmable<C, T>;

  // ── What it has learned, and measured ──────────────────────────────────────────────────────────
  Tensor<Real, H, I> first;                           ///< W_1
  Optional<(L > 1), Tensor<Real, L - 1, H, H>> deep;  ///< W_2 to W_L
  Tensor<Real, O, H> last;                            ///< V
  Tensor<Real, O> bias;                               ///< c
  Tensor<Real, L, A, H> scale;                        ///< of the norms
  Tensor<Real, L, A, H> shift;
  Statistic<Real, L, K, H> running_mean;
  Statistic<Real, L, K, H> running_var;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    f("first", m.first...);
    f("deep", m.deep...);
    f("last", m.last...);
    f("bias", m.bias...);
    f("scale", m.scale...);
    f("shift", m.shift...);
    f("running_mean", m.running_mean...);
    f("running_var", m.running_var...);
  }

  static Slimmable initialized(Random& random) {
    Slimmable net;
    fill_fan_in(net.first, random);
    if constexpr (L > 1) fill_uniform(net.deep, 1 / std::sqrt(double{H}), random);
    fill_fan_in(net.last, random);
    fill(net.scale, 1);
    fill(net.running_var, 1);
    return net;
  }

  /// All widths; of one: Shape::macs(k) for a row.
  static constexpr Index macs(Index rows) {
    Index sum = 0;
    for (Index k = 0; k < K; ++k) sum += rows * Shape::macs(k);
    return sum;
  }

  // ── At one width ───────────────────────────────────────────────────────────────────────────────
  Sequence<Real, O> run(SequenceView<Real, I> x, Index k) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, k);
  }
  Sequence<Real, O> run(SequenceView<Real, I> x, std::span<const Index> widths) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, widths);
  }

  /// y [T x C] from x [T x I] at width k; `room` holds 2 T H numbers. Allocates nothing for one
  /// row.
  void at(Index k, MatrixView<const Real> x, MatrixView<Real> y, Real* room) const {
    Shape::walk(k, x, y, room, [&](Index l, MatrixView<const Real> from, MatrixView<Real> to) {
      product_nt<Real>(from, weight(*this, l, k), to, {.bias = l == L ? bias.data() : nullptr});
      if (l == L) return;
      const Index n = (l * K + k) * H;
      normalize_columns<Real>(to, running_mean.data() + n, running_var.data() + n,
                              scale.data() + affine(l, k), shift.data() + affine(l, k), config.eps,
                              to);
      detail::activate_rows(Activation::relu, to);
    });
  }

  // ── All widths: whole sequence, and step by step ───────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    return Shape::forward(*this, x);
  }
  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    return Shape::step(*this, x);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Layer {
    Buffer<Real> z;          ///< [T x n], in front of the norm
    Buffer<Real> h;          ///< [T x n], behind the relu
    Buffer<Real> mean, var;  ///< [n], of the batch
  };
  struct Cache {
    Sequence<Real, I> x;
    ChosenWidths<K> ran;
    Layer at[K][L];
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State>, Cache& cache) const {
    return forward_some(std::move(x), ChosenWidths<K>::all(), cache);
  }

  /// Only some widths; y of the others is 0, and backward passes them by.
  Sequence<Real, out> forward_some(Sequence<Real, in> x, const ChosenWidths<K>& chosen,
                                   Cache& cache) const {
    const FlushDenormals guard;
    const Index T = x.rows();
    auto y = Sequence<Real, out>::zeros(T);
    cache.ran = chosen;
    for (Index k = 0; k < K && T > 0; ++k) {
      if (!chosen[k]) continue;
      const Index n = Shape::channels(k);
      MatrixView<const Real> from = x.matrix();
      for (Index l = 0; l < L; ++l) {
        Layer& c = cache.at[k][l] = {Buffer<Real>(T * n), Buffer<Real>(T * n), Buffer<Real>(n),
                                     Buffer<Real>(n)};
        const MatrixView<Real> z{c.z.data(), T, n, n}, h{c.h.data(), T, n, n};
        product_nt<Real>(from, weight(*this, l, k), z);
        column_moments<Real>(z, c.mean.data(), c.var.data());
        normalize_columns<Real>(z, c.mean.data(), c.var.data(), scale.data() + affine(l, k),
                                shift.data() + affine(l, k), config.eps, h);
        detail::activate_rows(Activation::relu, h);
        from = h;
      }
      product_nt<Real>(from, weight(*this, L, k), y.matrix().middle_cols(k * O, O),
                       {.bias = bias.data()});
    }
    cache.x = std::move(x);
    return y;
  }

  /// At each width as of a network of its own; what the widths share sums up.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Slimmable& gradient) const {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const Index T = dy.rows();
    auto dx = Sequence<Real, in>::zeros(T);
    if (T == 0) return dx;
    Buffer<Real> dh(T * H), dz(T * H);
    for (Index k = 0; k < K; ++k) {
      if (!cache.ran[k]) continue;
      const Index n = Shape::channels(k);
      const MatrixView<Real> dhk{dh.data(), T, n, n}, dzk{dz.data(), T, n, n};
      const auto h = [&](Index l) -> MatrixView<const Real> {  // what layer l takes
        if (l == 0) return cache.x.matrix();
        return {cache.at[k][l - 1].h.data(), T, n, n};
      };
      const MatrixView<const Real> d = dy.matrix().middle_cols(k * O, O);
      add_product_tn<Real>(d, h(L), weight(gradient, L, k));
      add_column_sums<Real>(d, gradient.bias.data());
      product_nn<Real>(d, weight(*this, L, k), dhk);
      for (Index l = L - 1; l >= 0; --l) {
        const MatrixView<const Real> y = h(l + 1);
        for (Index i = 0; i < T * n; ++i) dh[i] = y.data[i] > 0 ? dh[i] : 0;
        norm_back(l, k, cache.at[k][l], dhk, dzk, gradient);
        add_product_tn<Real>(dzk, h(l), weight(gradient, l, k));
        if (l > 0) {
          product_nn<Real>(dzk, weight(*this, l, k), dhk);
        } else {
          product_nn<Real>(dzk, weight(*this, l, k), dx.matrix(), {.accumulate = true});
        }
      }
    }
    gradient.running_mean.weight += static_cast<Real>(T);
    gradient.running_var.weight += static_cast<Real>(T);
    return dx;
  }

  /// Where scale and shift of layer l at width k lie.
  static constexpr Index affine(Index l, Index k) { return (l * A + (C.switchable ? k : 0)) * H; }

  /// The part of a weight that layer l uses at width k, of a network or a gradient.
  template <class Net>
  static auto weight(Net& net, Index l, Index k) {
    auto* const w = l == 0 ? net.first.data() : l == L ? net.last.data() : deep_at(net, l);
    using Number = std::remove_pointer_t<decltype(w)>;
    return MatrixView<std::remove_reference_t<Number>>{w, Shape::gives(l, k), Shape::takes(l, k),
                                                       l == 0 ? I : H};
  }

 private:
  template <class Net>
  static auto* deep_at(Net& net, Index l) {
    if constexpr (L > 1) {
      return net.deep.data() + (l - 1) * H * H;
    } else {
      return net.first.data();
    }
  }

  void norm_back(Index l, Index k, const Layer& c, MatrixView<const Real> dh, MatrixView<Real> dz,
                 Slimmable& gradient) const {
    detail::slim_norm_back<Real>(dh, c.z.data(), c.mean.data(), c.var.data(), config.eps, dh.rows,
                                 *this, affine(l, k), (l * K + k) * H, dz, gradient);
  }
};

}  // namespace limen::inline LIMEN_ABI

#include <limen/exit/slimmable_prepared.hpp>  // Slimmable<C, Prepared<Real>>
