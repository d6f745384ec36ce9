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

constexpr LinearAttentionConfig random_exact{
    .d_model = 6, .n_heads = 2, .map = FeatureMap::random, .eps = 1e-12, .features = 5};
constexpr LinearAttentionConfig random_wide{
    .d_model = 3, .d_head = 4, .map = FeatureMap::random, .eps = 1e-12, .features = 17};
constexpr LinearAttentionConfig whole_random{.d_model = 4,
                                             .n_heads = 2,
                                             .map = FeatureMap::random,
                                             .causal = false,
                                             .eps = 1e-12,
                                             .features = 3};
constexpr LinearAttentionConfig efficient{.d_model = 6,
                                          .n_heads = 2,
                                          .d_head = 5,
                                          .map = FeatureMap::softmax,
                                          .normalize = false,
                                          .causal = false};

}  // namespace

TEMPLATE_TEST_CASE_SIG("LinearAttention of random features keeps the laws of layers",
                       "[attention][linear][laws]", ((LinearAttentionConfig C), C), (random_exact),
                       (random_wide)) {
  // c in a state is no free number: with it the sums are scaled.
  laws::hold_in_double_and_float<LinearAttention<C>>({.amplitude = 0.7, .state_has_slope = false});
}

TEMPLATE_TEST_CASE_SIG("LinearAttention that sees the future keeps the laws that apply",
                       "[attention][linear][laws]", ((LinearAttentionConfig C), C), (whole_elu),
                       (whole_random), (efficient)) {
  laws::hold_in_double_and_float<LinearAttention<C>>({.amplitude = 0.7, .causal = false});
}

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

TEST_CASE("Efficient attention reads columns of keys by rows of queries", "[attention][linear]") {
  constexpr LinearAttentionConfig C{
      .d_model = 2, .map = FeatureMap::softmax, .normalize = false, .causal = false};
  LinearAttention<C, double> layer;
  for (auto* w : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj}) {
    (*w)(0, 0) = (*w)(1, 1) = 1;
  }
  // x [[ln 3, 0], [0, 0]]: q = [[3/4, 1/4], [1/2, 1/2]], k = [[3/4, 1/2], [1/4, 1/2]],
  // kᵀ v = [[3/4 ln 3, 0], [1/2 ln 3, 0]].
  const double ln3 = std::log(3.0);
  const auto y = forward(layer, Sequence<double, 2>{{ln3, 0}, {0, 0}});
  REQUIRE(std::abs(y(0, 0) - (9.0 / 16 + 1.0 / 8) * ln3) < 1e-12);
  REQUIRE(std::abs(y(1, 0) - (3.0 / 8 + 1.0 / 4) * ln3) < 1e-12);
  REQUIRE(y(0, 1) == 0);
}

TEST_CASE("Sums of random features stay in range where their exponentials would not",
          "[attention][linear]") {
  Random random(7);
  const auto layer = LinearAttention<random_wide, float>::initialized(random);
  Sequence<float, 3> x(40);
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(random.normal()) * (i < 60 ? 1.0F : 30.0F);
  }
  const auto y = forward(layer, x);
  LinearAttention<random_wide, float>::State state{};
  for (Index t = 0; t < 40; ++t) {
    const auto row = layer.step(x.row(t), state);
    for (Index c = 0; c < 3; ++c) {
      REQUIRE(std::isfinite(y(t, c)));
      REQUIRE(std::abs(row[c] - y(t, c)) < 1e-3F * (1 + std::abs(y(t, c))));
    }
  }
}

// The numbers: tests/goldens/attention.py, random_features(): all pairs at once. There the gradient
// goes through c too, which ours takes for constant: but for ε, it cancels.
TEMPLATE_TEST_CASE_SIG("LinearAttention of random features computes what PyTorch does",
                       "[attention][linear][golden]", ((bool causal), causal), true, false) {
  namespace g = goldens::attention::random_9;
  namespace w = goldens::attention::random_6;
  constexpr LinearAttentionConfig C{.d_model = 4,
                                    .n_heads = 2,
                                    .d_head = 3,
                                    .map = FeatureMap::random,
                                    .causal = causal,
                                    .eps = 1e-12,
                                    .features = 5};
  using L = LinearAttention<C, double>;
  using Numbers = std::span<const double>;
  const auto pick = [](Numbers a, Numbers b) { return causal ? a : b; };
  L layer, gradient;
  const auto put = [](Numbers from, auto& to) {
    REQUIRE(static_cast<Index>(from.size()) == to.size);
    std::copy(from.begin(), from.end(), to.data());
  };
  put(pick(g::q_weight, w::q_weight), layer.q_proj);
  put(pick(g::k_weight, w::k_weight), layer.k_proj);
  put(pick(g::v_weight, w::v_weight), layer.v_proj);
  put(pick(g::o_weight, w::o_weight), layer.o_proj);
  put(pick(g::features, w::features), layer.features);
  const auto rows = [](Numbers from) {
    Sequence<double, 4> x(static_cast<Index>(from.size()) / 4);
    std::copy(from.begin(), from.end(), x.data());
    return x;
  };
  typename L::Cache cache;
  const auto y = forward(layer, rows(pick(g::x, w::x)), cache);
  golden::same("y", y, pick(g::y, w::y), 1e-10);
  const auto dx = backward(layer, rows(pick(g::dy, w::dy)), cache, gradient);
  golden::same("dx", dx, pick(g::dx, w::dx), 1e-8);
  golden::same("q", gradient.q_proj.flat(), pick(g::d_q_weight, w::d_q_weight), 1e-8);
  golden::same("k", gradient.k_proj.flat(), pick(g::d_k_weight, w::d_k_weight), 1e-8);
  golden::same("v", gradient.v_proj.flat(), pick(g::d_v_weight, w::d_v_weight), 1e-10);
  for (const double w0 : gradient.features.flat()) REQUIRE(w0 == 0);
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
            LIMEN_LINEAR(linear_7, efficient)
#undef LIMEN_LINEAR
}

TEST_CASE("LinearAttention has a step where it is causal", "[attention][linear]") {
  STATIC_REQUIRE(Layer<LinearAttention<heads>>);
  STATIC_REQUIRE(Preparable<LinearAttention<heads>>);
  STATIC_REQUIRE(Trainable<LinearAttention<whole>>);
  STATIC_REQUIRE(std::is_empty_v<LinearAttention<whole>::State>);
  STATIC_REQUIRE_FALSE(Streaming<LinearAttention<efficient>>);
  STATIC_REQUIRE(sizeof(LinearAttention<one>::State) == 2 * sizeof(float));
}
