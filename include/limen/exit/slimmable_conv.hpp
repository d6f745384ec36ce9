#pragma once
/// @file  Convolutions of which a share of the channels is enough: one set of weights, several
/// widths.
///
///   at width a:  h_l = relu(norm_a(conv(W_l[:n, :m], h_{l-1}))),  n = slim(a H), m likewise
///                z = V[:, :n] mean_p h_L + c        image and classes keep their size
///
///     constexpr SlimmableConvConfig c{.image = {8, 8}, .d_in = 1, .d_hidden = 32, .d_out = 10,
///                                     .depth = 3, .stride = {1, 2, 2}};
///
///   x [T x H' W' I]  ->  [T x K C], narrow to wide; W_l [H, H, kh kw] as PyTorch stores it
///
/// Runs, training and statistics are those of exit/slimmable.hpp and exit/sandwich.hpp.
///
/// Yu et al., "Slimmable neural networks", arXiv:1812.08928; Yu & Huang, "Universally slimmable
/// networks", arXiv:1903.05134.

#include <cmath>
#include <span>
#include <utility>

#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/prepared.hpp>
#include <limen/exit/sandwich.hpp>
#include <limen/exit/slimmable_conv_shape.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/norm.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

template <SlimmableConvConfig C, class S = float>
struct SlimmableConv;

template <SlimmableConvConfig C, class S>
  requires(!is_prepared<S>)
struct SlimmableConv<C, S> {
  using Shape = detail::SlimmableConvShape<C>;
  static constexpr SlimmableConvConfig config = C;
  static constexpr Index I = Shape::I, H = Shape::H, O = Shape::O, L = Shape::L, K = Shape::K;
  static constexpr Index A = C.switchable ? K : 1;  ///< scales
  static constexpr Index taps = Shape::taps;
  static constexpr Index in = C.image.height * C.image.width * I, out = K * O;
  using Scalar = S;
  using Real = S;
  template <class T>
  using with_scalar = SlimmableConv<C, T>;

  // ── What it has learned, and measured ──────────────────────────────────────────────────────────
  Tensor<Real, H, I, taps> first;                           ///< W_1
  Optional<(L > 1), Tensor<Real, L - 1, H, H, taps>> deep;  ///< W_2 to W_L
  Tensor<Real, O, H> last;                                  ///< V
  Tensor<Real, O> bias;                                     ///< c
  Tensor<Real, L, A, H> scale;                              ///< of the norms
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

  static SlimmableConv initialized(Random& random) {
    SlimmableConv net;
    fill_uniform(net.first, 1 / std::sqrt(double{I * taps}), random);
    if constexpr (L > 1) fill_uniform(net.deep, 1 / std::sqrt(double{H * taps}), random);
    fill_fan_in(net.last, random);
    fill(net.scale, 1);
    fill(net.running_var, 1);
    return net;
  }

  /// All widths; of one: Shape::macs(k) for an image.
  static constexpr Index macs(Index rows) {
    Index sum = 0;
    for (Index k = 0; k < K; ++k) sum += rows * Shape::macs(k);
    return sum;
  }

  // ── At one width ───────────────────────────────────────────────────────────────────────────────
  Sequence<Real, O> run(SequenceView<Real, in> x, Index k) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, k);
  }
  Sequence<Real, O> run(SequenceView<Real, in> x, std::span<const Index> widths) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, widths);
  }

  /// y [T x C] from x [T x in] at width k; `room` holds Shape::room(1) numbers and serves one row.
  void at(Index k, MatrixView<const Real> x, MatrixView<Real> y, Real* room) const {
    for (Index t = 0; t < x.rows; ++t) image(k, x.row(t), y.row(t), room);
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
    Buffer<Real> z;          ///< [T P x n], in front of the norm
    Buffer<Real> h;          ///< [T P x n], behind the relu
    Buffer<Real> mean, var;  ///< [n], of the batch
  };
  struct Cache {
    Sequence<Real, in> x;
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
      const Real* from = x.data();
      for (Index l = 0; l < L; ++l) {
        const Index P = Shape::positions(l), rows = T * P;
        Layer& c = cache.at[k][l] = {Buffer<Real>(rows * n), Buffer<Real>(rows * n),
                                     Buffer<Real>(n), Buffer<Real>(n)};
        const MatrixView<Real> z{c.z.data(), rows, n, n}, h{c.h.data(), rows, n, n};
        each_image(from, l, k, T, [&](Index t, MatrixView<Real> X) {
          product_nt<Real>(X, weight(*this, l, k), z.middle_rows(t * P, P));
        });
        column_moments<Real>(z, c.mean.data(), c.var.data());
        normalize_columns<Real>(z, c.mean.data(), c.var.data(), scale.data() + affine(l, k),
                                shift.data() + affine(l, k), config.eps, h);
        detail::activate_rows(Activation::relu, h);
        from = c.h.data();
      }
      const auto pooled = means(from, T, n);
      product_nt<Real>({pooled.data(), T, n, n}, weight(*this, L, k),
                       y.matrix().middle_cols(k * O, O), {.bias = bias.data()});
    }
    cache.x = std::move(x);
    return y;
  }

  /// At each width as of a network of its own; what the widths share sums up.
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              SlimmableConv& gradient) const {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    const Index T = dy.rows();
    auto dx = Sequence<Real, in>::zeros(T);
    for (Index k = 0; k < K && T > 0; ++k) {
      if (!cache.ran[k]) continue;
      const Index n = Shape::channels(k), last_P = Shape::positions(L - 1);
      const MatrixView<const Real> d = dy.matrix().middle_cols(k * O, O);
      const auto pooled = means(cache.at[k][L - 1].h.data(), T, n);
      add_product_tn<Real>(d, {pooled.data(), T, n, n}, weight(gradient, L, k));
      add_column_sums<Real>(d, gradient.bias.data());
      Buffer<Real> mean(T * n), dh(T * last_P * n);
      product_nn<Real>(d, weight(*this, L, k), {mean.data(), T, n, n});
      for (Index r = 0; r < T * last_P; ++r) {
        const Real* of = mean.data() + r / last_P * n;
        for (Index i = 0; i < n; ++i) dh[r * n + i] = of[i] / static_cast<Real>(last_P);
      }
      for (Index l = L - 1; l >= 0; --l) {
        const Layer& c = cache.at[k][l];
        const Index P = Shape::positions(l), rows = T * P;
        for (Index i = 0; i < rows * n; ++i) dh[i] = c.h[i] > 0 ? dh[i] : 0;
        Buffer<Real> dz(rows * n);
        detail::slim_norm_back<Real>({dh.data(), rows, n, n}, c.z.data(), c.mean.data(),
                                     c.var.data(), config.eps, T, *this, affine(l, k),
                                     (l * K + k) * H, {dz.data(), rows, n, n}, gradient);
        const Index size = l == 0 ? in : Shape::positions(l - 1) * n;
        Buffer<Real> below(l == 0 ? 0 : T * size);
        for (Real& v : below) v = 0;
        const Window2d window = Shape::window(l, k);
        Buffer<Real> room(window.columns());
        each_image(l == 0 ? cache.x.data() : cache.at[k][l - 1].h.data(), l, k, T,
                   [&](Index t, MatrixView<Real> X) {
                     const MatrixView<const Real> dzt{dz.data() + t * P * n, P, n, n};
                     add_product_tn<Real>(dzt, X, weight(gradient, l, k));
                     product_nn<Real>(dzt, weight(*this, l, k), X);
                     detail::turn_windows(X.data, P, taps, window.channels, true, room.data());
                     scatter_windows(window, X.data, 0, P,
                                     l == 0 ? dx.row_data(t) : below.data() + t * size);
                   });
        dh = std::move(below);
      }
    }
    gradient.running_mean.weight += static_cast<Real>(T);
    gradient.running_var.weight += static_cast<Real>(T);
    return dx;
  }

  /// Where scale and shift of layer l at width k lie.
  static constexpr Index affine(Index l, Index k) { return (l * A + (C.switchable ? k : 0)) * H; }

  /// The part of a weight that layer l uses at width k, of a network or a gradient: [n x m taps].
  template <class Net>
  static auto weight(Net& net, Index l, Index k) {
    auto* const w = l == 0 ? net.first.data() : l == L ? net.last.data() : deep_at(net, l);
    using Number = std::remove_reference_t<decltype(*w)>;
    const Index n = Shape::channels(k);
    if (l == L) return MatrixView<Number>{w, O, n, H};
    return MatrixView<Number>{w, n, Shape::takes(l, k) * taps, (l == 0 ? I : H) * taps};
  }

 private:
  template <class Net>
  static auto* deep_at(Net& net, Index l) {
    if constexpr (L > 1) {
      return net.deep.data() + (l - 1) * H * H * taps;
    } else {
      return net.first.data();
    }
  }

  /// f(t, windows of image t [P x m taps]) with the channels of a window in the weight's order.
  template <class F>
  static void each_image(const Real* images, Index l, Index k, Index T, F f) {
    const Window2d window = Shape::window(l, k);
    const Index P = Shape::positions(l), columns = window.columns();
    const Index size = window.image.height * window.image.width * window.channels;
    Buffer<Real> X(P * columns), room(columns);
    for (Index t = 0; t < T; ++t) {
      gather_windows(window, images + t * size, 0, P, X.data());
      detail::turn_windows(X.data(), P, taps, window.channels, false, room.data());
      f(t, MatrixView<Real>{X.data(), P, columns, columns});
    }
  }

  static Buffer<Real> means(const Real* h, Index T, Index n) {
    Buffer<Real> pooled(T * n);
    for (Index t = 0; t < T; ++t) {
      detail::mean_rows<Real>({h + t * Shape::positions(L - 1) * n, Shape::positions(L - 1), n, n},
                              pooled.data() + t * n);
    }
    return pooled;
  }

  void image(Index k, const Real* x, Real* y, Real* room) const {
    detail::slim_image<Shape>(k, x, y, room, [&](Index l, MatrixView<Real> X, MatrixView<Real> to) {
      Vector<Real, Shape::columns> turned;
      const Index m = l < L ? Shape::takes(l, k) : 0;
      if (l < L) detail::turn_windows(X.data, X.rows, taps, m, false, turned.data());
      product_nt<Real>(X, weight(*this, l, k), to, {.bias = l == L ? bias.data() : nullptr});
      if (l == L) return;
      const Index s = (l * K + k) * H;
      normalize_columns<Real>(to, running_mean.data() + s, running_var.data() + s,
                              scale.data() + affine(l, k), shift.data() + affine(l, k), config.eps,
                              to);
      detail::activate_rows(Activation::relu, to);
    });
  }
};

}  // namespace limen::inline LIMEN_ABI

#include <limen/exit/slimmable_conv_prepared.hpp>  // SlimmableConv<C, Prepared<Real>>
