#pragma once
/// @file  The inference form of SlimmableConv: panels for each width, norms folded in.

#include <array>

#include <limen/core/prepared.hpp>
#include <limen/exit/slimmable_conv.hpp>
#include <limen/exit/slimmable_fold.hpp>

namespace limen::inline LIMEN_ABI {

template <SlimmableConvConfig C, class S>
  requires is_prepared<S>
struct SlimmableConv<C, S> {
  using Shape = detail::SlimmableConvShape<C>;
  using Real = real_of<S>;
  using Learned = SlimmableConv<C, Real>;
  static constexpr Index I = Shape::I, H = Shape::H, O = Shape::O, L = Shape::L, K = Shape::K;
  static constexpr Index in = Learned::in, out = K * O;
  using Scalar = Real;
  template <class T>
  using with_scalar = SlimmableConv<C, T>;
  static constexpr Index macs(Index rows) { return Learned::macs(rows); }

  std::array<std::array<Panels<Real>, L + 1>, K> panels;
  std::array<Tensor<Real, L + 1, (H > O ? H : O)>, K> bias;

  void prepare_from(const Learned& learned) {
    for (Index k = 0; k < K; ++k) {
      for (Index l = 0; l <= L; ++l) {
        const auto w = Learned::weight(learned, l, k);
        const auto folded =
            detail::fold_norm(learned, l, k, bias[static_cast<std::size_t>(k)].matrix().row(l));
        Buffer<Real> placed(l < L ? folded.size() : 0);
        if (l < L) {
          taps_first(folded.data(), w.rows, Shape::takes(l, k), Shape::taps, placed.data());
        }
        panels[static_cast<std::size_t>(k)][static_cast<std::size_t>(l)] =
            Panels<Real>::pack({(l < L ? placed : folded).data(), w.rows, w.cols, w.cols});
      }
    }
  }

  Sequence<Real, O> run(SequenceView<Real, in> x, Index k) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, k);
  }
  Sequence<Real, O> run(SequenceView<Real, in> x, std::span<const Index> widths) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, widths);
  }

  void at(Index k, MatrixView<const Real> x, MatrixView<Real> y, Real* room) const {
    if (x.rows == 1) return image(k, x.row(0), y.row(0), room);
    const double work_ns = 0.02 * static_cast<double>(Shape::macs(k) * x.rows);
    parallel_for(x.rows, work_ns, [&](Index t) {
      Buffer<Real> own(Shape::room(1));
      image(k, x.row(t), y.row(t), own.data());
    });
  }

  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    return Shape::forward(*this, x);
  }
  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    return Shape::step(*this, x);
  }

 private:
  void image(Index k, const Real* x, Real* y, Real* room) const {
    const auto& w = panels[static_cast<std::size_t>(k)];
    const auto& b = bias[static_cast<std::size_t>(k)];
    detail::slim_image<Shape>(k, x, y, room, [&](Index l, MatrixView<Real> X, MatrixView<Real> to) {
      product_nt<Real>(X, w[static_cast<std::size_t>(l)].view(), to,
                       {.bias = b.matrix().row(l),
                        .activation = l < L ? Activation::relu : Activation::identity});
    });
  }
};

}  // namespace limen::inline LIMEN_ABI
