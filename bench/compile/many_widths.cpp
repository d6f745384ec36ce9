// 32 layers in a row, each of a width of its own: products are kernels with run-time sizes, so a
// new width adds a call, not a copy of the kernel.
#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

#include <cstdio>
#include <utility>

namespace {

using namespace limen;

template <Index I>
using Layer = Linear<LinearConfig{.d_in = 16 + 3 * I, .d_out = 19 + 3 * I}>;

template <class>
struct Chain;
template <Index... I>
struct Chain<std::integer_sequence<Index, I...>> {
  using Model = Sequential<Layer<I>...>;
};
using Model = Chain<std::make_integer_sequence<Index, 32>>::Model;

}  // namespace

int main() {
  Random random(1);
  const auto model = Model::initialized(random);
  Sequence<float, Model::in> x(4);
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
