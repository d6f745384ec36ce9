// Attention over rings, with first rows that stay, and with a cache in bfloat16.
#include <limen/attention/multi_head_attention.hpp>

#include <vector>

#include "../laws.hpp"

using namespace limen;

namespace {

constexpr AttentionConfig ring{.d_model = 8,
                               .n_heads = 2,
                               .n_kv_heads = 1,
                               .window = 3,
                               .rollback = 2,
                               .rope = {.base = 50},
                               .alibi = true};
constexpr AttentionConfig one_back{.d_model = 3, .n_heads = 1, .window = 1, .sink = true};
constexpr AttentionConfig with_first{.d_model = 12,
                                     .n_heads = 2,
                                     .n_kv_heads = 2,
                                     .window = 3,
                                     .first = 2,
                                     .rope = {.base = 50, .width = 4, .scale = 1.25},
                                     .gate = {.position = GatePosition::G2, .headwise = true},
                                     .sink = true};
constexpr AttentionConfig halves{
    .d_model = 32, .n_heads = 2, .capacity = 64, .bfloat16 = true, .rope = {.base = 100}};

}  // namespace

TEMPLATE_TEST_CASE_SIG("Attention with a window keeps the laws of layers", "[attention][laws]",
                       ((AttentionConfig C), C), (ring), (one_back), (with_first)) {
  laws::hold_in_double_and_float<Attention<C>>({.state_has_slope = false});
}

namespace {

/// Slopes of a chunk behind what a state holds, which is constant.
template <AttentionConfig C>
void check_slopes_from_a_state() {
  using L = Attention<C, double>;
  Random random(7);
  L layer = L::initialized(random), gradient;
  const auto noise = [&](Index rows) {
    Sequence<double, L::D> x(rows);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
    return x;
  };
  std::vector<typename L::State> held(3);
  layer.forward(noise(6), held[0]);
  layer.forward(noise(1), held[2]);
  const Index offsets[] = {0, 2, 4, 7};
  auto x = noise(7);
  const auto r = noise(7);
  typename L::Cache cache;
  const auto loss = [&] {
    auto states = held;
    const auto y = layer.forward(
        Sequence(x), Batch(std::span<typename L::State>(states), std::span<const Index>(offsets)),
        cache);
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  loss();
  const auto dx = layer.backward(r, from_rest(offsets), cache, gradient);
  const auto check = [&](double* values, const double* slopes, Index n) {
    for (Index i = 0; i < n; ++i) {
      const double before = values[i], h = 1e-6;
      values[i] = before + h;
      const double above = loss();
      values[i] = before - h;
      const double below = loss();
      values[i] = before;
      REQUIRE(std::abs((above - below) / (2 * h) - slopes[i]) < 1e-7 * (1 + std::abs(slopes[i])));
    }
  };
  check(x.data(), dx.data(), x.size());
  for_each_tensor([&](auto& value, auto& slope) { check(value.data(), slope.data(), value.size); },
                  layer, gradient);
}

}  // namespace

TEST_CASE("Training goes on from a state, which is constant then", "[attention]") {
  check_slopes_from_a_state<ring>();
  check_slopes_from_a_state<with_first>();
}

TEST_CASE("A cache in bfloat16 keeps the laws as well as it rounds", "[attention][laws]") {
  Random random(1);
  laws::hold(Attention<halves, float>::initialized(random),
             {.tolerance = 2e-2, .state_has_slope = false});
  STATIC_REQUIRE(sizeof(Attention<halves, float>::State) < 2 * 64 * 32 * 2 + 128);
  STATIC_REQUIRE(std::is_same_v<Attention<halves, double>::Stored, double>);
}

TEST_CASE("With first rows and without rotation, keys are those of the window and the first",
          "[attention]") {
  constexpr AttentionConfig C{.d_model = 4, .n_heads = 1, .window = 3, .first = 2, .sink = true};
  Random random(5);
  auto layer = Attention<C, double>::initialized(random);
  layer.sinks[0] = 0.3;
  Sequence<double, 4> x(9);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto y = forward(layer, x);
  const auto q = linear(x, layer.q_proj), k = linear(x, layer.k_proj), v = linear(x, layer.v_proj);
  for (Index t = 0; t < 9; ++t) {
    Vector<double, 4> o{};
    double sum = std::exp(0.3);
    for (Index j = 0; j <= t; ++j) {
      if (j >= 2 && j <= t - 3) continue;
      double s = 0;
      for (Index c = 0; c < 4; ++c) s += q(t, c) * k(j, c);
      s = std::exp(s / 2);
      sum += s;
      for (Index c = 0; c < 4; ++c) o[c] += s * v(j, c);
    }
    for (double& value : o.values) value /= sum;
    const auto expected = linear(o, layer.o_proj);
    for (Index c = 0; c < 4; ++c) REQUIRE(std::abs(y(t, c) - expected[c]) < 1e-12);
  }
}

TEST_CASE("First rows look as near as the window lets them", "[attention]") {
  // Where all tokens but the first two are equal, a row far behind sees what the row at position
  // first + W - 1 sees.
  constexpr AttentionConfig C{
      .d_model = 4, .n_heads = 1, .window = 3, .first = 2, .rope = {.base = 3}};
  Random random(6);
  const auto layer = Attention<C, double>::initialized(random);
  Attention<C, double>::State state{};
  const Vector<double, 4> tokens[] = {{-1, 0.5, 2, 1}, {0.5, 2, -1, 0}, {1, -0.5, 0.25, 2}};
  Vector<double, 4> near{};
  for (Index t = 0; t < 40; ++t) {
    const auto y = layer.step(tokens[std::min<Index>(t, 2)], state);
    if (t == 4) near = y;
    for (Index c = 0; t > 4 && c < 4; ++c) REQUIRE(std::abs(y[c] - near[c]) < 1e-12);
  }
}
