#include <limen/attention/measures.hpp>
#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/tap.hpp>

#include <limits>

#include "../catch.hpp"

using namespace limen;

namespace {
constexpr AttentionConfig C{.d_model = 6,
                            .n_heads = 3,
                            .capacity = 32,
                            .rope = {.base = 100},
                            .gate = {.position = GatePosition::G1}};
bool near(double a, double b) { return std::abs(a - b) < 1e-12; }
}  // namespace

TEST_CASE("Measures are those of a handful of numbers", "[attention][measures]") {
  AttentionMeasures measures;
  double p[] = {0.5, 0.2, 0.2, 0.1}, g[] = {0.0005, 0.005, 0.05, 0.9};
  measures.at("blocks.3.first_token", MatrixView<double>{p, 2, 2, 2});
  measures.at("blocks.3.gate", MatrixView<double>{g, 1, 4, 4});
  measures.at("blocks.3.else", MatrixView<double>{g, 1, 4, 4});
  REQUIRE(measures.layers().size() == 1);
  const auto& layer = measures.layers()[0];
  REQUIRE(layer.name == "blocks.3");
  REQUIRE(near(layer.first_token(0), 0.35));
  REQUIRE(near(layer.first_token(), 0.25));
  REQUIRE(near(layer.sink_rate(), 0.5));
  REQUIRE(near(layer.sink_rate(0.4), 0));
  REQUIRE(near(layer.openness(), 0.9555 / 4));
  REQUIRE(near(layer.closed(0), 0.25));
  REQUIRE(near(layer.closed(1), 0.5));
  REQUIRE(near(layer.closed(), 0.75));
  REQUIRE(layer.histogram[45] == 1);
  REQUIRE(layer.histogram[0] == 2);

  double beyond[] = {std::numeric_limits<double>::quiet_NaN(), -0.5, 1, 7};
  measures.at("silu.gate", MatrixView<double>{beyond, 1, 4, 4});
  REQUIRE(measures.layers()[1].histogram[0] == 2);
  REQUIRE(measures.layers()[1].histogram[49] == 2);
}

TEST_CASE("A listener hears the probability of token 0, and changes nothing by listening",
          "[attention][measures]") {
  Random random(8);
  const auto layer = Attention<C, double>::initialized(random);
  Sequence<double, 6> x(7);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const Index offsets[] = {0, 4, 7};
  AttentionMeasures measures;
  Context run{.taps = &measures};
  const auto y = layer.forward(x, from_rest(offsets, &run)),
             quiet = layer.forward(x, from_rest(offsets));
  for (Index i = 0; i < y.size(); ++i) REQUIRE(near(y.data()[i], quiet.data()[i]));

  REQUIRE(measures.layers().size() == 1);
  const auto& heard = measures.layers()[0];
  REQUIRE(heard.rows == 5);  // 3 and 2: the first rows see nothing else
  REQUIRE(heard.gates == 7 * 6);
  const auto z = linear(x, layer.gate_proj);
  double open = 0;
  for (Index i = 0; i < z.size(); ++i) open += 1 / (1 + std::exp(-z.data()[i]));
  REQUIRE(near(heard.openness(), open / 42));
}

TEST_CASE("The probability of token 0 is what its value alone would be read with",
          "[attention][measures]") {
  // Values: token 0 has v = x W_v with a single 1, all others zeros; W_o the identity, no gate.
  constexpr AttentionConfig plain{
      .d_model = 4, .n_heads = 2, .window = 3, .first = 1, .sink = true};
  Random random(9);
  auto layer = Attention<plain, double>::initialized(random);
  layer.sinks[1] = 0.7;
  for (double& w : layer.v_proj.flat()) w = 0;
  for (double& w : layer.o_proj.flat()) w = 0;
  for (Index i = 0; i < 4; ++i) layer.v_proj(i, 3) = layer.o_proj(i, i) = 1;
  Sequence<double, 4> x(8);
  for (Index t = 0; t < 8; ++t) {
    for (Index c = 0; c < 3; ++c) x(t, c) = random.normal();
    x(t, 3) = t == 0 ? 1 : 0;
  }
  AttentionMeasures measures;
  Context run{.taps = &measures};
  Attention<plain, double>::State state{};
  const auto first = layer.forward(middle_rows(x, 0, 3), Batch(state, &run));
  const auto then = layer.forward(middle_rows(x, 3, 5), Batch(state, &run));
  double expected[2] = {0, 0};
  for (Index t = 1; t < 8; ++t) {
    for (Index h = 0; h < 2; ++h) {
      expected[h] += t < 3 ? first(t, 2 * h) : then(t - 3, 2 * h);
    }
  }
  const auto& heard = measures.layers()[0];
  REQUIRE(heard.rows == 7);
  REQUIRE(near(heard.first[0], expected[0]));
  REQUIRE(near(heard.first[1], expected[1]));
}

TEST_CASE("Layers are heard by the names of their taps", "[attention][measures]") {
  using Model = Repeat<2, Tap<"attention", Attention<C, double>>>;
  Random random(1);
  const auto model = Model::initialized(random);
  AttentionMeasures measures;
  Context run{.taps = &measures};
  const Index offsets[] = {0, 3};
  model.forward(Sequence<double, 6>::zeros(3), from_rest(offsets, &run));
  REQUIRE(measures.layers().size() == 2);
  REQUIRE(measures.layers()[1].name == "1.attention");
}
