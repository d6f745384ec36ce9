// The numbers: tests/goldens/attention.py, frequencies().
#include <limen/attention/rope.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../goldens/attention_layers.hpp"
#include "../goldens/golden.hpp"

using namespace limen;

TEST_CASE("Frequencies for longer contexts are those of transformers", "[attention][rope]") {
  namespace g = goldens::attention::frequencies;
  const auto check = []<RopeConfig C>(golden::Numbers expected, double scale) {
    const RopeRule rule = rope_rule<C, 32>();
    REQUIRE(rule.width == 32);
    REQUIRE(std::abs(rule.scale - scale) < 1e-12);
    for (std::size_t i = 0; i < 16; ++i) {  // theirs are floats
      INFO("pair " << i);
      REQUIRE(std::abs(rule.frequencies[i] - expected[i]) <= 1e-6 * expected[i]);
    }
  };
  constexpr auto with = [](RopeScaling scaling, double trained = 128) {
    return RopeConfig{.base = 1e4, .scaling = scaling, .factor = 4, .trained = trained};
  };
  using enum RopeScaling;
  check.operator()<with(linear)>(g::linear, g::linear_scale[0]);
  check.operator()<with(yarn)>(g::yarn, g::yarn_scale[0]);
  check.operator()<with(yarn, 4096)>(g::yarn_far, g::yarn_far_scale[0]);
  check.operator()<with(llama3)>(g::llama3, g::llama3_scale[0]);
}

TEST_CASE("NTK scaling slows the slowest pair by the factor", "[attention][rope]") {
  constexpr RopeConfig C{.base = 1e4, .scaling = RopeScaling::ntk, .factor = 4};
  const RopeRule rule = rope_rule<C, 32>(), plain = rope_rule<RopeConfig{.base = 1e4}, 32>();
  REQUIRE(rule.frequencies[0] == 1);
  REQUIRE(std::abs(rule.frequencies[15] * 4 / plain.frequencies[15] - 1) < 1e-12);
}

namespace {

/// q at position p · k at position r, both turned.
template <RopeConfig C, Index d>
double score(const std::vector<double>& q, const std::vector<double>& k, std::int64_t p,
             std::int64_t r) {
  auto a = q, b = k;
  rope<double>(rope_rule<C, d>(), p, 1, 1, {a.data(), 1, d, d});
  rope<double>(rope_rule<C, d>(), r, 1, 1, {b.data(), 1, d, d});
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

template <RopeConfig C, Index d>
void check_distances() {
  Random random(1);
  std::vector<double> q(d), k(d);
  for (double& x : q) x = random.normal();
  for (double& x : k) x = random.normal();
  for (const std::int64_t apart : {0, 1, 7, -3}) {
    const double near = score<C, d>(q, k, 3 + apart, 3);
    REQUIRE(std::abs(score<C, d>(q, k, 1003 + apart, 1003) - near) < 1e-11);
  }
  REQUIRE(std::abs(score<C, d>(q, k, 5, 1) - score<C, d>(q, k, 1, 5)) > 1e-3);
}

}  // namespace

TEST_CASE("Scores of turned rows depend on how far they are apart", "[attention][rope]") {
  check_distances<RopeConfig{.base = 1e4}, 16>();
  check_distances<RopeConfig{.base = 100, .width = 6, .neighbours = true}, 9>();
  check_distances<RopeConfig{.base = 1e4, .scaling = RopeScaling::yarn, .factor = 8}, 20>();
}

TEST_CASE("Channels behind .width stay, and .scale multiplies those that turn",
          "[attention][rope]") {
  constexpr RopeConfig C{.base = 100, .width = 4, .scale = 1.5};
  const RopeRule rule = rope_rule<C, 7>();
  REQUIRE(rule.width == 4);
  REQUIRE(rule.head == 7);
  std::vector<double> x{1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7};  // two heads
  rope<double>(rule, 9, 1, 1, {x.data(), 1, 14, 14});
  for (const std::size_t h : {std::size_t{0}, std::size_t{7}}) {
    for (std::size_t c = 4; c < 7; ++c) REQUIRE(x[h + c] == static_cast<double>(c + 1));
    REQUIRE(std::abs(x[h] * x[h] + x[h + 2] * x[h + 2] - 1.5 * 1.5 * 10) < 1e-12);
    REQUIRE(std::abs(x[h + 1] * x[h + 1] + x[h + 3] * x[h + 3] - 1.5 * 1.5 * 20) < 1e-12);
  }
}

TEST_CASE("Scaling by nothing is no scaling", "[attention][rope]") {
  using enum RopeScaling;
  const auto plain = rope_frequencies<64>({.base = 1e4});
  for (const auto scaling : {linear, ntk, yarn, llama3}) {
    const auto f = rope_frequencies<64>({.base = 1e4, .scaling = scaling, .factor = 1});
    for (std::size_t i = 0; i < 32; ++i) REQUIRE(std::abs(f[i] / plain[i] - 1) < 1e-14);
  }
}
