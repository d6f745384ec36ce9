#include <limen/nn/embedding.hpp>

#include <cmath>
#include <vector>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Embedding keeps the laws of layers", "[nn][embedding][laws]",
                       ((EmbeddingConfig C), C), (EmbeddingConfig{.vocabulary = 1, .d = 1}),
                       (EmbeddingConfig{.vocabulary = 5, .d = 3}),
                       (EmbeddingConfig{.vocabulary = 11, .d = 17})) {
  laws::hold_in_double_and_float<Embedding<C>>({.tokens = C.vocabulary});
}

namespace {
constexpr EmbeddingConfig few{.vocabulary = 3, .d = 2};
}

TEST_CASE("Embedding looks up rows, and gathers gradients by token", "[nn][embedding]") {
  Random random(1);
  const auto table = Embedding<few>::initialized(random);
  const std::vector<std::int32_t> tokens{2, 0, 2};
  const auto y = table.lookup(tokens);
  const auto same = forward(table, Sequence<float, 1>{{2}, {0}, {2}});
  for (Index t = 0; t < 3; ++t) {
    for (Index d = 0; d < 2; ++d) {
      REQUIRE(y(t, d) == table.weight(tokens[static_cast<std::size_t>(t)], d));
      REQUIRE(same(t, d) == y(t, d));
    }
  }
  Embedding<few> gradient;
  table.add_gradient(tokens, Sequence<float, 2>{{1, 2}, {10, 20}, {100, 200}}, gradient);
  REQUIRE(gradient.weight(0, 0) == 10);
  REQUIRE(gradient.weight(1, 0) == 0);
  REQUIRE(gradient.weight(2, 1) == 202);
}

TEST_CASE("Embedding refuses what is no token", "[nn][embedding]") {
  const Embedding<few> table;
  const auto message = [](auto&& run) {
    try {
      run();
      return std::string();
    } catch (const Exception& e) {
      return std::string(e.what());
    }
  };
  const std::vector<std::int32_t> three{0, 3}, negative{-1};
  REQUIRE(message([&] { table.lookup(three); }) ==
          "Embedding: token of row 1: wanted a whole number from 0 to 2, found 3");
  REQUIRE(message([&] { table.lookup(negative); }) ==
          "Embedding: token of row 0: wanted a whole number from 0 to 2, found -1");
  for (const float x : {3.0f, -1.0f, 0.5f, 1e30f, INFINITY, NAN}) {
    INFO(x);
    REQUIRE(message([&] { forward(table, Sequence<float, 1>{{0}, {x}}); }).substr(0, 68) ==
            "Embedding: token of row 1: wanted a whole number from 0 to 2, found ");
    NoState state;
    const auto y = table.step(Vector<float, 1>{x}, state);
    REQUIRE(std::isnan(y[0]));
    REQUIRE(std::isnan(y[1]));
  }
  Embedding<few> gradient;
  REQUIRE(message([&] { table.add_gradient(three, Sequence<float, 2>::zeros(1), gradient); }) ==
          "tokens: wanted 1, one for each row of dy, found 2");
}

namespace {
/// Forward over three rows, backward over four and over two.
template <class L>
void refuses_other_rows() {
  Random random(1);
  const L layer = L::initialized(random);
  L gradient;
  typename L::Cache cache;
  forward(layer, Sequence<float, L::in>::zeros(3), cache);
  REQUIRE_THROWS_AS(backward(layer, Sequence<float, L::out>::zeros(4), cache, gradient), Exception);
  REQUIRE_THROWS_AS(backward(layer, Sequence<float, L::out>::zeros(2), cache, gradient), Exception);
  REQUIRE(backward(layer, Sequence<float, L::out>::zeros(3), cache, gradient).rows() == 3);
}
}  // namespace

TEST_CASE("The way back through an Embedding has the rows of the way there", "[nn][embedding]") {
  refuses_other_rows<Embedding<EmbeddingConfig{.vocabulary = 4, .d = 3}>>();
}
