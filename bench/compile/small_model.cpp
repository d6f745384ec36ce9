// What most programs are at first: a few layers, one training step, one step of a stream.
#include <limen/compose/sequential.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/loss.hpp>

#include <cstdio>

using namespace limen;

constexpr LinearConfig in{.d_in = 16, .d_out = 32}, out{.d_in = 32, .d_out = 10};
constexpr ActivateConfig bend{.d = 32, .activation = Activation::silu};
using Model =
    Sequential<Linear<in>, LayerNorm<LayerNormConfig{.d = 32}>, Activate<bend>, Linear<out>>;

int main() {
  Random random(1);
  auto model = Model::initialized(random);
  Sequence<float, 16> x(3);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const int labels[] = {1, 2, 3};

  Model gradient;
  Model::Cache cache;
  AdamW<Model> optimizer({.rate = 1e-3});
  const auto loss = cross_entropy(forward(model, Sequence<float, 16>(x), cache), labels);
  backward(model, loss.dy, cache, gradient);
  optimizer.update(model, gradient);

  const auto fast = prepare(model);
  Model::State state{};
  std::printf("%g %g\n", loss.value, double(fast.step(x.row(0), state)[0]));
}
