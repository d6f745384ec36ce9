// 32 blocks that are one type: a Repeat costs what one block costs.
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/rms_norm.hpp>

#include <cstdio>

using namespace limen;

#if !defined(DEPTH)
#define DEPTH 32
#endif

using Block = Residual<
    Sequential<RmsNorm<RmsNormConfig{.d = 24}>, Linear<LinearConfig{.d_in = 24, .d_out = 48}>,
               Linear<LinearConfig{.d_in = 48, .d_out = 24}>>>;
using Model = Repeat<DEPTH, Block>;

int main() {
  Random random(1);
  const auto model = Model::initialized(random);
  Sequence<float, 24> x(4);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());

  Model::State state{};
  const auto y_t = model.step(x.row(0), state);
  const auto y = forward(model, x);
  Model::Cache cache;
  Model gradient;
  const auto trained = forward(model, std::move(x), cache);
  const auto dx = backward(model, trained, cache, gradient);
  std::printf("%g %g %g\n", double(y_t[0]), double(y(0, 0)), double(dx(0, 0)));
}
