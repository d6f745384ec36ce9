#pragma once
// The networks that tests of probes look into.

#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/compose/tap.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/depthwise_conv.hpp>
#include <limen/nn/linear.hpp>

#include <span>

namespace probed {

using namespace limen;

template <Index I, Index O, bool Bias = true>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O, .bias = Bias}, double>;
template <Index D, Activation A = Activation::identity>
using Bend = Activate<ActivateConfig{.d = D, .activation = A}, double>;

/// The network of tests/goldens/probe.py.
using Block = Residual<Sequential<Tap<"in", Bend<4>>, Map<4, 6>,
                                  Tap<"hidden", Bend<6, Activation::tanh>>, Tap<"mlp", Map<6, 4>>>>;
using Filter = DepthwiseConv<DepthwiseConvConfig{.d = 4, .width = 3}, double>;
using Net = Sequential<Tap<"embed", Map<3, 4>>, Residual<Tap<"mix", Filter>>,
                       Tap<"blocks", Repeat<2, Block>>, Map<4, 3>>;

/// y = r + a + m,  a = r / 2,  m = 2 (r + a)
using Stream = Sequential<Residual<Tap<"a", Map<1, 1, false>>>,
                          Residual<Sequential<Tap<"in", Bend<1>>, Tap<"m", Map<1, 1, false>>>>>;
inline Stream stream() {
  Stream s;
  get<0>(s.layers).inner.inner.weight[0] = 0.5;
  get<1>(get<1>(s.layers).inner.layers).inner.weight[0] = 2;
  return s;
}

template <class L>
void set_parameters(L& model, std::span<const double> values) {
  std::size_t next = 0;
  for_each_tensor(
      [&](auto& tensor) {
        for (auto& v : tensor.flat()) v = values[next++];
      },
      model);
}

template <Index D>
Sequence<double, D> rows(std::span<const double> values) {
  Sequence<double, D> x(static_cast<Index>(values.size()) / D);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = values[static_cast<std::size_t>(i)];
  return x;
}

/// Of one row.
struct First {
  double operator()(SequenceView<double, 1> y) const { return y(0, 0); }
};

}  // namespace probed
