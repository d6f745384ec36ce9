#pragma once
/// @file  The inference form of Slimmable: panels for each width, norms folded in.

#include <limen/core/prepared.hpp>
#include <limen/exit/slimmable.hpp>
#include <limen/exit/slimmable_fold.hpp>
#include <limen/kernel/gemm.hpp>

namespace limen::inline LIMEN_ABI {

template <SlimmableConfig C, class S>
  requires is_prepared<S>
struct Slimmable<C, S> {
  using Shape = detail::SlimmableShape<C>;
  using Real = real_of<S>;
  static constexpr Index I = Shape::I, H = Shape::H, O = Shape::O, L = Shape::L, K = Shape::K;
  static constexpr Index in = I, out = K * O;
  using Scalar = Real;
  template <class T>
  using with_scalar = Slimmable<C, T>;
  static constexpr Index macs(Index rows) { return Slimmable<C, Real>::macs(rows); }

  std::array<std::array<Panels<Real>, L + 1>, K> panels;
  std::array<Tensor<Real, L + 1, (H > O ? H : O)>, K> bias;

  void prepare_from(const Slimmable<C, Real>& learned) {
    using Learned = Slimmable<C, Real>;
    for (Index k = 0; k < K; ++k) {
      for (Index l = 0; l <= L; ++l) {
        const auto w = Learned::weight(learned, l, k);
        const auto folded =
            detail::fold_norm(learned, l, k, bias[static_cast<std::size_t>(k)].matrix().row(l));
        panels[static_cast<std::size_t>(k)][static_cast<std::size_t>(l)] =
            Panels<Real>::pack({folded.data(), w.rows, w.cols, w.cols});
      }
    }
  }

  Sequence<Real, O> run(SequenceView<Real, I> x, Index k) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, k);
  }
  Sequence<Real, O> run(SequenceView<Real, I> x, std::span<const Index> widths) const {
    const FlushDenormals guard;
    return Shape::run(*this, x, widths);
  }

  void at(Index k, MatrixView<const Real> x, MatrixView<Real> y, Real* room) const {
    const auto& w = panels[static_cast<std::size_t>(k)];
    const auto& b = bias[static_cast<std::size_t>(k)];
    Shape::walk(k, x, y, room, [&](Index l, MatrixView<const Real> from, MatrixView<Real> to) {
      product_nt<Real>(from, w[static_cast<std::size_t>(l)].view(), to,
                       {.bias = b.matrix().row(l),
                        .activation = l < L ? Activation::relu : Activation::identity});
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
};

}  // namespace limen::inline LIMEN_ABI
