#include <limen/attention/learned_query_attention.hpp>

#include "../goldens/attention_local.hpp"
#include "../goldens/golden.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

using Config = LearnedQueryAttentionConfig;
constexpr Config one{.d_model = 1, .behind = 1};
constexpr Config back{.d_model = 6, .d_out = 5, .n_heads = 2, .behind = 3};
constexpr Config wide{
    .d_model = 5, .n_heads = 3, .d_head = 17, .behind = 2, .bias = false, .out_bias = false};
constexpr Config around{.d_model = 4, .n_heads = 2, .behind = 1, .ahead = 2};

template <Config C, class Real>
LearnedQueryAttention<C, Real> made() {
  Random random(1);
  auto layer = LearnedQueryAttention<C, Real>::initialized(random);
  fill_normal(layer.by_place, 1, random);
  return layer;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("LearnedQueryAttention keeps the laws of layers", "[attention][local][laws]",
                       ((Config C), C), (one), (back), (wide)) {
  STATIC_REQUIRE(limen::check::names_every_member<LearnedQueryAttention<C>>);
  laws::hold(made<C, double>(), {.state_has_slope = false});
  laws::hold(made<C, float>(), {.state_has_slope = false});
}

TEST_CASE("LearnedQueryAttention that looks ahead keeps the laws that apply",
          "[attention][local][laws]") {
  laws::hold(made<around, double>(), {.causal = false});
  laws::hold(made<around, float>(), {.causal = false});
}

TEST_CASE("A row reads its neighbours by their scores, at the ends those that are there",
          "[attention][local]") {
  const double s[] = {0, std::log(2.0), 0}, v[] = {1, 2, 4}, flat[] = {0, 0, 0};
  double y[3], w[9];
  const LocalRule<double> rule{1, 1, 1, flat};
  local_attention<double>(rule, {s, 3, 1, 1}, {v, 3, 1, 1}, MatrixView<double>{y, 3, 1, 1}, w);
  const double expected[] = {5.0 / 3, 9.0 / 4, 8.0 / 3};
  for (Index i = 0; i < 3; ++i) REQUIRE(std::abs(y[i] - expected[i]) < 1e-12);
  REQUIRE(w[0] == 0);  // nobody stands before the first
}

TEST_CASE("Scores far from each other stay finite", "[attention][local]") {
  // Relative to the largest of the sequence the second window would be 0 / 0.
  const float s[] = {200, 0, -200, -201}, v[] = {1, 2, 3, 4}, flat[] = {0, 0};
  float y[4], w[8];
  const LocalRule<float> rule{1, 1, 0, flat};
  local_attention<float>(rule, {s, 4, 1, 1}, {v, 4, 1, 1}, MatrixView<float>{y, 4, 1, 1}, w);
  REQUIRE(y[0] == 1);
  REQUIRE(y[1] == 1);
  REQUIRE(y[2] == 2);
  REQUIRE(std::abs(y[3] - (3 + 1 / (1 + std::exp(1.0F)))) < 1e-6F);
}

TEST_CASE("Only the direction of a learned query matters", "[attention][local]") {
  auto layer = made<back, double>();
  Sequence<double, 6> x(5);
  Random random(2);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const auto y = forward(layer, x);
  for (double& q : layer.query.flat()) q *= 8;
  const auto scaled = forward(layer, x);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(y.data()[i] - scaled.data()[i]) < 1e-5);  // but for ε
  }
  for (double& q : layer.query.flat()) q = 0;  // defined: no score
  LearnedQueryAttention<back, double> gradient;
  LearnedQueryAttention<back, double>::Cache cache;
  forward(layer, Sequence<double, 6>(x), cache);
  backward(layer, Sequence<double, 5>::zeros(5), cache, gradient);
  for (const double g : gradient.query.flat()) REQUIRE(std::isfinite(g));
}

// The numbers: tests/goldens/attention.py, local(): windows written out.
TEST_CASE("LearnedQueryAttention computes what PyTorch does window by window",
          "[attention][local][golden]"){
#define LIMEN_LOCAL(name, ...)                                                    \
  {                                                                               \
    namespace g = goldens::attention::name;                                       \
    golden::check_in_double_and_float<LearnedQueryAttention<Config __VA_ARGS__>>( \
        {g::x, g::y, g::dy, g::dx}, {{g::query, g::d_query},                      \
                                     {g::k_weight, g::d_k_weight},                \
                                     {g::v_weight, g::d_v_weight},                \
                                     {g::v_bias, g::d_v_bias},                    \
                                     {g::o_weight, g::d_o_weight},                \
                                     {g::o_bias, g::d_o_bias},                    \
                                     {g::by_place, g::d_by_place}});              \
  }
    LIMEN_LOCAL(local_1, {.d_model = 2, .behind = 2})
        LIMEN_LOCAL(local_8, {.d_model = 4, .d_out = 3, .n_heads = 2, .d_head = 3, .behind = 3})
            LIMEN_LOCAL(local_5, {.d_model = 6, .n_heads = 3, .behind = 1, .ahead = 1})
#undef LIMEN_LOCAL
}

TEST_CASE("LearnedQueryAttention has a step where it does not look ahead", "[attention][local]") {
  STATIC_REQUIRE(Layer<LearnedQueryAttention<back>>);
  STATIC_REQUIRE(Preparable<LearnedQueryAttention<back>>);
  STATIC_REQUIRE(Trainable<LearnedQueryAttention<around>>);
  STATIC_REQUIRE_FALSE(Streaming<LearnedQueryAttention<around>>);
  STATIC_REQUIRE(std::is_empty_v<LearnedQueryAttention<around>::State>);
}
