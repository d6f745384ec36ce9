#include <limen/attention/linear_attention.hpp>

#include "../goldens/attention_linear.hpp"
#include "../goldens/golden.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

constexpr LinearAttentionConfig one{.d_model = 1};
constexpr LinearAttentionConfig heads{.d_model = 6, .n_heads = 3, .d_head = 5};
constexpr LinearAttentionConfig plain{
    .d_model = 17, .map = FeatureMap::identity, .normalize = false};
constexpr LinearAttentionConfig whole{
    .d_model = 6, .n_heads = 2, .map = FeatureMap::relu, .causal = false};
constexpr LinearAttentionConfig whole_elu{.d_model = 3, .d_head = 16, .causal = false};

}  // namespace

TEMPLATE_TEST_CASE_SIG("LinearAttention keeps the laws of layers", "[attention][linear][laws]",
                       ((LinearAttentionConfig C), C), (one), (heads), (plain)) {
  // Features near 0 make small sums: a division by them is worse conditioned than a softmax.
  laws::hold_in_double_and_float<LinearAttention<C>>({.amplitude = 0.7});
}

TEST_CASE("LinearAttention divides sums by sums", "[attention][linear]") {
  LinearAttention<one, double> layer;
  layer.q_proj[0] = layer.k_proj[0] = layer.o_proj[0] = 1;
  layer.v_proj[0] = 2;
  LinearAttention<one, double>::State state{};
  // q = k = 0 and 1, so φ = 1 and 2; v = 0 and 2. Then sums of k v and k.
  REQUIRE(std::abs(layer.step(Vector<double, 1>{0}, state)[0]) < 1e-12);
  REQUIRE(state.s[1] == 1);
  const double y = layer.step(Vector<double, 1>{1}, state)[0];
  REQUIRE(state.s[0] == 4);  // 1 · 0 + 2 · 2
  REQUIRE(state.s[1] == 3);
  REQUIRE(std::abs(y - 8 / (6 + 1e-6)) < 1e-12);
}

TEST_CASE("Without causality every row reads the same sums", "[attention][linear]") {
  Random random(4);
  const auto layer = LinearAttention<whole, double>::initialized(random);
  Sequence<double, 6> x(5), swapped(5);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const Index order[] = {3, 0, 4, 1, 2};
  for (Index t = 0; t < 5; ++t) std::copy_n(x.row_data(order[t]), 6, swapped.row_data(t));
  const auto y = forward(layer, x), z = forward(layer, swapped);
  for (Index t = 0; t < 5; ++t) {
    for (Index c = 0; c < 6; ++c) REQUIRE(std::abs(z(t, c) - y(order[t], c)) < 1e-12);
  }
}

TEST_CASE("A value that all rows have is read as it is, but for ε", "[attention][linear]") {
  Random random(5);
  LinearAttention<heads, double>::State state{};
  auto layer = LinearAttention<heads, double>::initialized(random);
  for (double& w : layer.v_proj.flat()) w = 0;
  for (Index i = 0; i < 15; ++i) layer.v_proj(i, 0) = 1;
  for (Index t = 0; t < 6; ++t) {
    Vector<double, 6> x{1};
    for (Index c = 1; c < 6; ++c) x[c] = random.normal();
    const auto y = layer.step(x, state);
    Vector<double, 15> ones;
    for (double& v : ones.values) v = 1;
    const auto expected = linear(ones, layer.o_proj);
    for (Index c = 0; c < 6; ++c) REQUIRE(std::abs(y[c] - expected[c]) < 1e-5);
  }
}

// The numbers: tests/goldens/attention.py, linear(): all pairs at once, nothing carried.
TEST_CASE("LinearAttention computes what PyTorch does pair by pair", "[attention][linear][golden]"){
#define LIMEN_LINEAR(name, config)                                                             \
  {                                                                                            \
    namespace g = goldens::attention::name;                                                    \
    golden::check_in_double_and_float<LinearAttention<config>>({g::x, g::y, g::dy, g::dx},     \
                                                               {{g::q_weight, g::d_q_weight},  \
                                                                {g::k_weight, g::d_k_weight},  \
                                                                {g::v_weight, g::d_v_weight},  \
                                                                {g::o_weight, g::d_o_weight}}, \
                                                               1e-4);                          \
  }
    LIMEN_LINEAR(linear_1, one) LIMEN_LINEAR(linear_20, heads) LIMEN_LINEAR(linear_4, plain)
        LIMEN_LINEAR(linear_5, whole) LIMEN_LINEAR(linear_6, whole_elu)
#undef LIMEN_LINEAR
}

TEST_CASE("LinearAttention has a step where it is causal", "[attention][linear]") {
  STATIC_REQUIRE(Layer<LinearAttention<heads>>);
  STATIC_REQUIRE(Preparable<LinearAttention<heads>>);
  STATIC_REQUIRE(Trainable<LinearAttention<whole>>);
  STATIC_REQUIRE(std::is_empty_v<LinearAttention<whole>::State>);
}
