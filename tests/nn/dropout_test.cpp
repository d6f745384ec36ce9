#include <limen/nn/dropout.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Dropout keeps the laws of layers", "[nn][dropout][laws]",
                       ((DropoutConfig C), C), (DropoutConfig{.d = 1, .rate = 0.5}),
                       (DropoutConfig{.d = 5, .rate = 0}), (DropoutConfig{.d = 70, .rate = 0.3})) {
  laws::hold_in_double_and_float<Dropout<C>>({.random = true});
  laws::hold_in_double_and_float<Dropout<C>>();
}

namespace {
constexpr DropoutConfig third{.d = 100, .rate = 0.3};
using Third = Dropout<third, double>;

Sequence<double, 100> ones(Index rows) {
  Sequence<double, 100> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = 1;
  return x;
}
}  // namespace

TEST_CASE("Dropout drops its share and keeps the mean", "[nn][dropout]") {
  const Third layer;
  Random random(3);
  Context run{.random = &random};
  Third::Cache cache;
  const auto y = layer.forward(ones(1000), from_rest(std::vector<Index>{0, 1000}, &run), cache);
  double dropped = 0;
  for (Index i = 0; i < y.size(); ++i) {
    if (y.data()[i] == 0) {
      ++dropped;
    } else {
      REQUIRE(y.data()[i] == Approx(1 / 0.7));
    }
  }
  REQUIRE(dropped / 1e5 == Approx(0.3).margin(5 * std::sqrt(0.3 * 0.7 / 1e5)));
}

TEST_CASE("Dropout draws another mask each time, and the same in backward", "[nn][dropout]") {
  const Third layer;
  Third gradient;
  Random random(3);
  Context run{.random = &random};
  const std::vector<Index> offsets{0, 10};
  Third::Cache a, b;
  const auto first = layer.forward(ones(10), from_rest(offsets, &run), a);
  const auto second = layer.forward(ones(10), from_rest(offsets, &run), b);
  const auto back = layer.backward(ones(10), from_rest(offsets), a, gradient);
  bool differs = false;
  for (Index i = 0; i < first.size(); ++i) {
    differs = differs || first.data()[i] != second.data()[i];
    REQUIRE(back.data()[i] == first.data()[i]);
  }
  REQUIRE(differs);
  Random again(3);
  run.random = &again;
  const auto repeated = layer.forward(ones(10), from_rest(offsets, &run), b);
  for (Index i = 0; i < first.size(); ++i) REQUIRE(repeated.data()[i] == first.data()[i]);
}

TEST_CASE("The words behind a mask are those of philox", "[nn][dropout]") {
  std::uint32_t words[64];
  limen::detail::philox_block(0x0123456789abcdef, 0xfffffffa, 42,
                              words);  // counters beyond 32 bits
  for (std::uint64_t k = 0; k < 16; ++k) {
    const auto expected = philox(0x0123456789abcdef, 0xfffffffa + k, 42);
    for (std::size_t j = 0; j < 4; ++j) REQUIRE(words[4 * k + j] == expected[j]);
  }
}
