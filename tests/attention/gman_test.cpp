#include <limen/attention/gman.hpp>

#include <cmath>
#include <memory>

#include "gman_model.hpp"

using namespace limen;
using steps::keeps_the_laws;
using steps::noise;
using steps::readings;

namespace {

constexpr GmanConfig wide{.nodes = 2, .heads = 1, .d_head = 17, .horizon = 1, .slots = 7};
constexpr GmanConfig deep{
    .nodes = 3, .heads = 2, .d_head = 2, .blocks = 2, .horizon = 2, .slots = 7, .causal = true};

}  // namespace

TEST_CASE("Gman keeps the laws of layers", "[attention][gman][laws]") {
  static_assert(check::names_every_member<Gman<deep>>);
  keeps_the_laws<Gman<wide>>({.tokens = 3, .causal = false});
  keeps_the_laws<Gman<deep>>({.tokens = 3, .causal = false});
}

TEST_CASE("Gman has the slopes of readings, and looks at none of the future", "[attention][gman]") {
  using M = Gman<deep, double>;
  Random random(3);
  const M model = M::initialized(random);
  const Index offsets[] = {0, 7, 9, 10};
  auto x = readings<M>(10, random);
  const auto r = noise<M::out>(10, random);
  const auto loss = [&] {
    const auto y = model.forward(x, from_rest(offsets));
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  M::Cache cache;
  M gradient;
  const auto y = model.forward(Sequence<double, M::in>(x), from_rest(offsets), cache);
  const auto dx = model.backward(r, from_rest(offsets), cache, gradient);
  double size = 0;
  for (Index t = 0; t < 10; ++t) {
    const bool past = t < 5;  // 5 + 2, 0 + 2 and 0 + 1 steps
    for (Index n = 0; n < M::N; ++n) {
      REQUIRE((y(t, n) != 0) == !past);
      const double before = x(t, n), h = 1e-6;
      x(t, n) = before + h;
      const double above = loss();
      x(t, n) = before - h;
      const double below = loss();
      x(t, n) = before;
      INFO("row " << t << ", node " << n);
      REQUIRE(std::abs(dx(t, n) - (above - below) / (2 * h)) < 1e-7);
      if (!past) REQUIRE(dx(t, n) == 0);
      size += std::abs(dx(t, n));
    }
    REQUIRE((dx(t, M::N) == 0 && dx(t, M::N + 1) == 0));
  }
  REQUIRE(size > 0.1);
}

TEST_CASE("Gman gives the same bits on two threads", "[attention][gman]") {
  constexpr GmanConfig c{.nodes = 12, .heads = 4, .d_head = 8, .horizon = 12, .slots = 24};
  using M = Gman<c, double>;
  Random random(4);
  const M model = M::initialized(random);
  const Index offsets[] = {0, 24, 48, 60};
  const auto x = readings<M>(60, random);
  const auto r = noise<M::out>(60, random);
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    M::Cache cache;
    auto gradient = std::make_unique<M>();
    model.forward(Sequence<double, M::in>(x), from_rest(offsets), cache);
    model.backward(r, from_rest(offsets), cache, *gradient);
    return gradient;
  };
  const auto one = run(1), two = run(2);
  for_each_tensor([](const auto& a, const auto& b) { REQUIRE(a == b); }, *one, *two);
}

static_assert(Trainable<Gman<deep>> && !Streaming<Gman<deep>>);
