// 32 layers, each of a width of its own: products are kernels with run-time sizes, so a new width
// adds a call, not a copy of the kernel.
#include <limen/core/batch.hpp>
#include <limen/nn/linear.hpp>

#include <utility>

namespace {

template <limen::Index I>
float one_layer(limen::Random& random) {
  using Layer = limen::Linear<limen::LinearConfig{.d_in = 16 + 3 * I, .d_out = 19 + 3 * I}>;
  const auto layer = Layer::initialized(random);
  limen::Sequence<float, Layer::in> x(4);
  for (limen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i);

  typename Layer::State state;
  const auto step = layer.step(x.row(0), state);
  typename Layer::Cache cache;
  Layer gradient{};
  const auto y = layer.forward(std::move(x), limen::Batch<limen::NoState>(), cache);
  const auto dx = layer.backward(y, limen::Batch<limen::NoState>(), cache, gradient);
  return step[0] + dx(0, 0) + gradient.weight[0];
}

template <limen::Index... I>
float all_layers(std::integer_sequence<limen::Index, I...>) {
  limen::Random random(1);
  return (one_layer<I>(random) + ...);
}

}  // namespace

int main() { return all_layers(std::make_integer_sequence<limen::Index, 32>()) > 0 ? 0 : 1; }
