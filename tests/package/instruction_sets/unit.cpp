// Compiled once per instruction set; VARIANT is part of the name of its one function.
#include "unit.hpp"

#include <limen/limen.hpp>

#define NAME_OF(variant) run_##variant
#define NAME(variant) NAME_OF(variant)

Result NAME(VARIANT)() {
  using Layer = limen::Linear<limen::LinearConfig{.d_in = 67, .d_out = 19}>;
  limen::Random random(3);
  const auto layer = Layer::initialized(random);
  limen::Sequence<float, 67> x(6);
  for (limen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const auto y = limen::forward(layer, x);

  Result result{};
  result.isa = limen::isa;
  for (limen::Index i = 0; i < y.size(); ++i) result.y[i] = y.data()[i];
  return result;
}
