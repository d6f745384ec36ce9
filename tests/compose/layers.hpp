#pragma once
// Small layers to compose, and what tests of combinators ask of a model.

#include <limen/core/parameters.hpp>
#include <limen/core/random.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/rms_norm.hpp>

#include <cstring>
#include <string>

namespace parts {

using namespace limen;

template <Index I, Index O>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}>;
template <Index D>
using Filter = DepthwiseConv<DepthwiseConvConfig{.d = D, .width = 3}>;
template <Index D>
using Norm = RmsNorm<RmsNormConfig{.d = D}>;
template <Index D, Activation A = Activation::tanh>
using Bend = Activate<ActivateConfig{.d = D, .activation = A}>;

/// y = x reversed in time: it has no step.
template <Index D, class S = float>
struct Reverse {
  static constexpr Index in = D, out = D;
  using Scalar = real_of<S>;
  template <class T>
  using with_scalar = Reverse<D, T>;
  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static Reverse initialized(Random&) { return {}; }

  using State = NoState;
  struct Cache {};

  Sequence<Scalar, D> forward(SequenceView<Scalar, D> x, Batch<State> batch) const {
    Sequence<Scalar, D> y(x.rows());
    for (Index b = 0; b < batch.count(); ++b) {
      for (Index t = batch.begin(b), end = batch.end(b, x.rows()); t < end; ++t) {
        std::memcpy(y.row_data(t), x.row(batch.begin(b) + end - 1 - t).data(), sizeof(Scalar) * D);
      }
    }
    return y;
  }
  Sequence<Scalar, D> forward(Sequence<Scalar, D> x, Batch<State> batch, Cache&) const {
    return forward(SequenceView<Scalar, D>(x), batch);
  }
  Sequence<Scalar, D> backward(SequenceView<Scalar, D> dy, Batch<State> batch, const Cache&,
                               Reverse&) const {
    return forward(dy, batch);
  }
};

/// The names of all parameters.
template <class L>
std::string names() {
  std::string all;
  L layer;
  for_each_parameter([&](const std::string& name, auto&) { all += name + ' '; }, layer);
  return all;
}

template <class Real = double, Index D>
Sequence<Real, D> noise(Index rows, Random& random) {
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

template <class A, class B>
bool same_bits(const A& a, const B& b) {
  if (a.rows() != b.rows()) return false;
  for (Index t = 0; t < a.rows(); ++t) {
    for (Index d = 0; d < a.matrix().cols; ++d) {
      if (std::memcmp(&a(t, d), &b(t, d), sizeof(a(t, d))) != 0) return false;
    }
  }
  return true;
}

}  // namespace parts
