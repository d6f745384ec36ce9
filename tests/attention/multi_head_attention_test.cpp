#include <limen/attention/multi_head_attention.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

constexpr AttentionConfig one{.d_model = 1, .n_heads = 1, .capacity = 64};
constexpr AttentionConfig llama{.d_model = 20,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .d_head = 6,
                                .capacity = 64,
                                .rope = {.base = 100}};
constexpr AttentionConfig qwen{.d_model = 17,
                               .n_heads = 3,
                               .n_kv_heads = 1,
                               .d_head = 16,
                               .capacity = 64,
                               .bias = true,
                               .out_bias = true,
                               .rope = {.base = 1e4, .width = 4, .neighbours = true},
                               .qk_norm = QkNorm::rms_offset,
                               .gate = {.position = GatePosition::G1},
                               .sink = true};
constexpr AttentionConfig bent{
    .d_model = 6, .n_heads = 2, .d_head = 17, .capacity = 64, .soft_cap = 2, .alibi = true};
constexpr AttentionConfig layer_normed{.d_model = 9,
                                       .n_heads = 2,
                                       .n_kv_heads = 1,
                                       .d_head = 4,
                                       .capacity = 64,
                                       .rope = {.base = 100},
                                       .qk_norm = QkNorm::layer,
                                       .norm_eps = 1e-3,
                                       .norm_bias = true};
constexpr AttentionConfig l2_normed{.d_model = 5,
                                    .n_heads = 4,
                                    .n_kv_heads = 2,
                                    .d_head = 18,
                                    .capacity = 64,
                                    .rope = {.base = 100},
                                    .qk_norm = QkNorm::l2};

}  // namespace

TEMPLATE_TEST_CASE_SIG("Attention keeps the laws of layers", "[attention][laws]",
                       ((AttentionConfig C), C), (one), (llama), (qwen), (bent), (layer_normed),
                       (l2_normed)) {
  laws::hold_in_double_and_float<Attention<C>>({.state_has_slope = false});
}

namespace {

/// One head of two channels whose projections are the identity: q = k = v = x.
template <AttentionConfig C>
Attention<C, double> plain() {
  Attention<C, double> layer;
  for (auto* w : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj}) {
    (*w)(0, 0) = (*w)(1, 1) = 1;
  }
  return layer;
}
constexpr AttentionConfig small{.d_model = 2, .n_heads = 1, .capacity = 4};
constexpr AttentionConfig small_gated{
    .d_model = 2, .n_heads = 1, .capacity = 4, .gate = {.position = GatePosition::G1}};
constexpr AttentionConfig small_whole{.d_model = 2, .n_heads = 1, .causal = false};

bool near(double a, double b) { return std::abs(a - b) < 5e-7; }

}  // namespace

TEST_CASE("A row is the mean of values that its scores ask for", "[attention]") {
  auto layer = plain<small>();
  layer.v_proj(0, 0) = 1;  // values [1, 2] and [3, 4] of the unit vectors
  layer.v_proj(0, 1) = 3;
  layer.v_proj(1, 0) = 2;
  layer.v_proj(1, 1) = 4;
  const auto y = forward(layer, Sequence<double, 2>{{1, 0}, {0, 1}});
  REQUIRE(near(y(0, 0), 1));
  REQUIRE(near(y(0, 1), 2));
  REQUIRE(near(y(1, 0), 2.339523));  // softmax of [0, 1 / sqrt 2] is [0.330238, 0.669762]
  REQUIRE(near(y(1, 1), 3.339523));
}

TEST_CASE("Without causality a row sees what comes after it", "[attention]") {
  auto layer = plain<small_whole>();
  layer.v_proj(0, 1) = 3;
  layer.v_proj(1, 0) = 2;
  layer.v_proj(1, 1) = 4;
  const auto y = forward(layer, Sequence<double, 2>{{1, 0}, {0, 1}});
  REQUIRE(near(y(0, 0), 1.660477));
  REQUIRE(near(y(0, 1), 2.660477));
  REQUIRE(near(y(1, 0), 2.339523));
}

TEST_CASE("An open gate is no gate, and a closed one says nothing", "[attention][gate]") {
  auto gated = plain<small_gated>();
  const auto layer = plain<small>();
  const Sequence<double, 2> x{{1, 0.5}, {0.25, 1}};
  for (Index i = 0; i < gated.gate_proj.size; ++i) gated.gate_proj[i] = 1000;
  const auto open = forward(gated, x), free = forward(layer, x);
  for (Index i = 0; i < x.size(); ++i) REQUIRE(open.data()[i] == free.data()[i]);
  for (Index i = 0; i < gated.gate_proj.size; ++i) gated.gate_proj[i] = -1000;
  const auto closed = forward(gated, x);
  for (Index i = 0; i < x.size(); ++i) REQUIRE(closed.data()[i] == 0);
}

TEST_CASE("A full cache refuses: step with NaN and a count, forward before anything is written",
          "[attention][kv_cache]") {
  const auto layer = plain<small>();
  Attention<small, double>::State state{};
  const Sequence<double, 2> three{{1, 0}, {0, 1}, {1, 1}};
  layer.forward(three, state);
  const auto kept = state.save();
  REQUIRE_THROWS_WITH(layer.forward(Sequence<double, 2>{{1, 0}, {0, 1}}, state),
                      "KV cache of sequence 0: wanted at most 4 tokens, found 5");
  REQUIRE(state.save() == kept);
  REQUIRE(std::isfinite(layer.step(three.row(0), state)[0]));
  REQUIRE(state.seen == 4);
  REQUIRE(std::isnan(layer.step(three.row(0), state)[0]));
  REQUIRE(state.refused == 1);
  REQUIRE(state.seen == 4);
  REQUIRE(state.truncate(2));  // and goes on after a step back
  REQUIRE(std::isfinite(layer.step(three.row(2), state)[0]));
}

TEST_CASE("A stream taken back and fed again is the same stream", "[attention][kv_cache]") {
  Random random(3);
  const auto layer = Attention<llama, double>::initialized(random);
  Sequence<double, 20> x(9);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  Attention<llama, double>::State state{};
  const auto y = forward(layer, x);
  layer.forward(x, state);
  REQUIRE(state.truncate(5));
  for (Index t = 4; t < 9; ++t) {
    const auto again = layer.step(x.row(t), state);
    for (Index c = 0; c < 20; ++c) REQUIRE(std::abs(again[c] - y(t, c)) < 1e-12);
  }
}

TEST_CASE("Many streams that decode together are each alone", "[attention][kv_cache]") {
  Random random(4);
  const auto layer = prepare(Attention<qwen, float>::initialized(random));
  using State = Attention<qwen, float>::State;
  std::vector<State> states(3), alone(3);
  Sequence<float, 17> x(12);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  // Lengths before: 0 (a stream that begins), 3, 5. Then a row each, then two guesses each.
  for (std::size_t b = 1; b < 3; ++b) {
    const auto past = middle_rows(x, 0, static_cast<Index>(2 * b + 1));
    layer.forward(past, states[b]);
    layer.forward(past, alone[b]);
  }
  for (const std::vector<Index>& offsets :
       {std::vector<Index>{0, 1, 2, 3}, std::vector<Index>{0, 2, 4, 6}}) {
    for (const int threads : {1, 2}) {
      const Threads allowed(threads);
      auto now = states;
      const auto y = layer.forward(middle_rows(x, 0, offsets.back()),
                                   Batch<State>(std::span<State>(now), offsets));
      for (std::size_t b = 0; b < 3; ++b) {
        State single = alone[b];
        for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
          const auto row = layer.step(x.row(t), single);
          for (Index c = 0; c < 17; ++c) REQUIRE(std::abs(row[c] - y(t, c)) < 1e-5f);
        }
        REQUIRE(now[b].seen == single.seen);
      }
    }
  }
}

TEST_CASE("Attention names its parameters as transformers does", "[attention]") {
  std::string names;
  const Attention<qwen> layer;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names ==
          "q_proj.weight q_proj.bias k_proj.weight k_proj.bias v_proj.weight v_proj.bias "
          "o_proj.weight o_proj.bias q_norm.weight k_norm.weight gate_proj.weight sinks ");
  STATIC_REQUIRE(decltype(layer.q_proj)::shape == std::array<Index, 2>{48, 17});
  STATIC_REQUIRE(decltype(layer.k_proj)::shape == std::array<Index, 2>{16, 17});
  STATIC_REQUIRE(decltype(layer.q_norm)::shape == std::array<Index, 1>{16});
}

TEST_CASE("ALiBi has the published slopes", "[attention]") {
  const auto& six = detail::alibi_slopes<double, 6>;
  const double expected[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  for (std::size_t h = 0; h < 6; ++h) REQUIRE(six[h] == expected[h]);
  const auto& twelve = detail::alibi_slopes<double, 12>;
  REQUIRE(twelve[7] == 0x1p-8);
  REQUIRE(near(twelve[8], 0.707107));
  REQUIRE(near(twelve[11], 0.088388));
}

TEST_CASE("Attention is a layer with a step, unless it is not causal", "[attention]") {
  STATIC_REQUIRE(limen::Layer<Attention<llama>>);
  STATIC_REQUIRE(Preparable<Attention<llama>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Attention<llama>>>);
  STATIC_REQUIRE(std::is_same_v<Attention<llama>::State, prepared_form<Attention<llama>>::State>);
  STATIC_REQUIRE(Trainable<Attention<small_whole>>);
  STATIC_REQUIRE(std::is_empty_v<Attention<small_whole>::State>);
  STATIC_REQUIRE_FALSE(Streaming<Attention<small_whole>>);
  STATIC_REQUIRE(Attention<small>::macs(3) == 3 * 2 * 8 + 2 * 6 * 2);
}
