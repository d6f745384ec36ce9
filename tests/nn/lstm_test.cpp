#include <limen/nn/lstm.hpp>

#include <string>
#include <vector>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Lstm keeps the laws of layers", "[nn][lstm][laws]", ((LstmConfig C), C),
                       (LstmConfig{.d_in = 1, .d_hidden = 1, .forget_bias = 1}),
                       (LstmConfig{.d_in = 2, .d_hidden = 3, .bias = false}),
                       (LstmConfig{.d_in = 3, .d_hidden = 17}),
                       (LstmConfig{.d_in = 5, .d_hidden = 32}),
                       (LstmConfig{.d_in = 2, .d_hidden = 70})) {
  laws::hold_in_double_and_float<Lstm<C>>({.most_slopes = 60});
}

TEST_CASE("A cell with half open gates keeps half and writes half", "[nn][lstm]") {
  // i = f = o = 1/2, g = tanh 1 = 0.761594:  c = 0.380797, h = tanh(c) / 2 = 0.181700;
  // then c = 0.571196, h = 0.258118
  Lstm<LstmConfig{.d_in = 1, .d_hidden = 1}, double> layer;
  layer.bias_ih[2] = 1;
  const auto y = forward(layer, Sequence<double, 1>{{3}, {-4}});
  REQUIRE(y(0, 0) == Approx(0.181700).epsilon(2e-6));
  REQUIRE(y(1, 0) == Approx(0.258118).epsilon(2e-6));
}

TEST_CASE("A forget gate that is open keeps the cell", "[nn][lstm]") {
  Lstm<LstmConfig{.d_in = 1, .d_hidden = 1}> layer;
  layer.bias_hh[1] = 40;
  LstmState<float, 1> state{};
  state.c[0] = 0.5f;
  for (int t = 0; t < 100; ++t) layer.step(Vector<float, 1>{1}, state);
  REQUIRE(state.c[0] == 0.5f);
}

TEST_CASE("A forget bias is in the forget gates only", "[nn][lstm]") {
  constexpr LstmConfig plain{.d_in = 2, .d_hidden = 3},
      keeps{.d_in = 2, .d_hidden = 3, .forget_bias = 1};
  Random a(4), b(4);
  const auto without = Lstm<plain>::initialized(a);
  const auto with = Lstm<keeps>::initialized(b);
  REQUIRE(with.bias_hh == without.bias_hh);
  for (Index j = 0; j < 12; ++j) {
    REQUIRE(with.bias_ih[j] == without.bias_ih[j] + (j >= 3 && j < 6 ? 1.f : 0.f));
  }
}

TEMPLATE_TEST_CASE_SIG("An Lstm sequence has the same bits in any company and on two threads",
                       "[nn][lstm][threads]", ((Index I, Index H), I, H), (5, 32), (3, 150)) {
  constexpr LstmConfig c{.d_in = I, .d_hidden = H};
  Random random(2);
  const auto layer = prepare(Lstm<c>::initialized(random));
  const std::vector<Index> offsets{0, 40, 41, 41, 90, 100};
  Sequence<float, I> x(100);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const auto together = layer.forward(x, from_rest(offsets));
  const auto same = [](const float* a, const float* b, Index rows) {
    return rows == 0 || std::memcmp(a, b, static_cast<std::size_t>(rows * H) * sizeof(float)) == 0;
  };
  for (const int threads : {1, 2}) {
    const Threads scope(threads);
    REQUIRE(same(layer.forward(x, from_rest(offsets)).data(), together.data(), 100));
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      const Index first = offsets[b], rows = offsets[b + 1] - first;
      const auto alone = forward(layer, middle_rows(x, first, rows));
      REQUIRE(same(alone.data(), together.data() + first * H, rows));
    }
  }
}

TEST_CASE("Lstm names its parameters as PyTorch's files do", "[nn][lstm]") {
  const Lstm<LstmConfig{.d_in = 3, .d_hidden = 5}> layer;
  std::string names;
  for_each_parameter([&](const std::string& name, const auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "weight_ih weight_hh bias_ih bias_hh ");
  REQUIRE(parameter_count(layer) == 20 * (3 + 5 + 2));
}

// What must not compile: the inference form does not learn.
using Learning = Lstm<LstmConfig{.d_in = 2, .d_hidden = 3}>;
static_assert(Layer<Learning>);
static_assert(Streaming<prepared_form<Learning>> && !Trainable<prepared_form<Learning>>);
