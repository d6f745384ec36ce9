// Attention over rings, with first rows that stay, and with a cache in bfloat16.
#include <limen/attention/multi_head_attention.hpp>

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
  // In a stream of equal tokens the far row sees what a row at position first + W - 1 sees.
  constexpr AttentionConfig C{
      .d_model = 4, .n_heads = 1, .window = 3, .first = 2, .rope = {.base = 3}};
  Random random(6);
  const auto layer = Attention<C, double>::initialized(random);
  Attention<C, double>::State state{};
  const Vector<double, 4> token{1, -0.5, 0.25, 2};
  Vector<double, 4> near{};
  for (Index t = 0; t < 40; ++t) {
    const auto y = layer.step(token, state);
    if (t == 4) near = y;
    for (Index c = 0; t > 4 && c < 4; ++c) REQUIRE(std::abs(y[c] - near[c]) < 1e-12);
  }
}
