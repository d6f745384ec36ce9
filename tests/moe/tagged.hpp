#pragma once
/// @file  For the laws, which feed layers with noise: a layer behind which the last column holds
/// whole numbers.

#include <limen/compose/sequential.hpp>
#include <limen/core/layer.hpp>

#include <cmath>

/// The last column becomes a whole number below N; its slope is 0.
template <limen::Index D, limen::Index N, class S = float>
struct Tag {
  static constexpr limen::Index in = D + 1, out = D + 1;
  using Scalar = limen::real_of<S>;
  using State = limen::NoState;
  template <class T>
  using with_scalar = Tag<D, N, T>;
  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static Tag initialized(limen::Random&) { return {}; }
  static constexpr limen::Index macs(limen::Index) { return 0; }
  struct Cache {};

  static Scalar number(Scalar x) {
    return static_cast<Scalar>(static_cast<limen::Index>(std::abs(x) * Scalar(3)) % N);
  }
  limen::Sequence<Scalar, in> forward(limen::SequenceView<Scalar, in> x,
                                      limen::Batch<State>) const {
    auto y = x.copy();
    for (limen::Index t = 0; t < y.rows(); ++t) y(t, D) = number(y(t, D));
    return y;
  }
  limen::Vector<Scalar, in> step(limen::VectorView<Scalar, in> x, State&) const noexcept {
    auto y = x.copy();
    y[D] = number(y[D]);
    return y;
  }
  limen::Sequence<Scalar, in> forward(limen::Sequence<Scalar, in> x, limen::Batch<State> batch,
                                      Cache&) const {
    return forward(limen::SequenceView<Scalar, in>(x), batch);
  }
  limen::Sequence<Scalar, in> backward(limen::SequenceView<Scalar, in> dy, limen::Batch<State>,
                                       const Cache&, Tag&) const {
    auto dx = dy.copy();
    for (limen::Index t = 0; t < dx.rows(); ++t) dx(t, D) = 0;
    return dx;
  }
};

template <limen::Index N, class L>
using Tagged = limen::Sequential<Tag<L::in - 1, N, typename L::Scalar>, L>;
