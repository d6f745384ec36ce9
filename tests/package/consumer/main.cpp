// A user's first program: a model, one step, and the whole sequence.
#include <limen/limen.hpp>

#include <cmath>
#include <cstdio>

#if defined(EXPECT_OPENMP) != defined(_OPENMP)
#error "OpenMP comes when asked for, and only then"
#endif

int main() {
  using Layer = limen::Linear<limen::LinearConfig{.d_in = 5, .d_out = 3}>;
  limen::Random random(1);
  const auto layer = Layer::initialized(random);

  limen::Sequence<float, 5> x(4);
  for (limen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i) / 10;
  const auto y = limen::forward(layer, x);

  Layer::State state;
  const auto last = layer.step(x.row(3), state);
  for (limen::Index d = 0; d < 3; ++d) {
    if (!(std::abs(last[d] - y(3, d)) <= 1e-5f)) return 1;
  }
  std::printf("limen %s for %s\n", limen::version, limen::isa);
}
