// The numbers: tests/goldens/attention.py, plain() and frequencies().
#include <limen/attention/multi_head_attention.hpp>

#include "../goldens/attention_layers.hpp"
#include "../goldens/golden.hpp"

using namespace limen;
using golden::check_in_double_and_float;

namespace {

constexpr AttentionConfig whole(Index d_model, Index H, Index d) {
  return {.d_model = d_model, .n_heads = H, .d_head = d, .causal = false};
}
constexpr AttentionConfig bent(Index d_model, Index H, Index d) {
  return {.d_model = d_model,
          .n_heads = H,
          .d_head = d,
          .capacity = 1,
          .soft_cap = 1.5,
          .alibi = true,
          .sink = true};
}

}  // namespace

TEST_CASE("Attention that is not causal computes what PyTorch does", "[attention][golden]") {
  {
    namespace g = goldens::attention::whole_4;
    check_in_double_and_float<Attention<whole(3, 1, 3)>>({g::x, g::y, g::dy, g::dx},
                                                         {{g::q_weight, g::d_q_weight},
                                                          {g::k_weight, g::d_k_weight},
                                                          {g::v_weight, g::d_v_weight},
                                                          {g::o_weight, g::d_o_weight}});
  }
  {
    namespace g = goldens::attention::whole_6;
    check_in_double_and_float<Attention<whole(8, 2, 4)>>({g::x, g::y, g::dy, g::dx},
                                                         {{g::q_weight, g::d_q_weight},
                                                          {g::k_weight, g::d_k_weight},
                                                          {g::v_weight, g::d_v_weight},
                                                          {g::o_weight, g::d_o_weight}});
  }
  {
    namespace g = goldens::attention::whole_5;
    check_in_double_and_float<Attention<whole(3, 3, 17)>>({g::x, g::y, g::dy, g::dx},
                                                          {{g::q_weight, g::d_q_weight},
                                                           {g::k_weight, g::d_k_weight},
                                                           {g::v_weight, g::d_v_weight},
                                                           {g::o_weight, g::d_o_weight}});
  }
}

TEST_CASE("Soft-cap, ALiBi and sinks are PyTorch's in the order of the equations",
          "[attention][golden]") {
  {
    namespace g = goldens::attention::bent_4;
    check_in_double_and_float<Attention<bent(3, 1, 3)>>({g::x, g::y, g::dy, g::dx},
                                                        {{g::q_weight, g::d_q_weight},
                                                         {g::k_weight, g::d_k_weight},
                                                         {g::v_weight, g::d_v_weight},
                                                         {g::o_weight, g::d_o_weight},
                                                         {g::sinks, g::d_sinks}});
  }
  {
    namespace g = goldens::attention::bent_6;
    check_in_double_and_float<Attention<bent(8, 2, 4)>>({g::x, g::y, g::dy, g::dx},
                                                        {{g::q_weight, g::d_q_weight},
                                                         {g::k_weight, g::d_k_weight},
                                                         {g::v_weight, g::d_v_weight},
                                                         {g::o_weight, g::d_o_weight},
                                                         {g::sinks, g::d_sinks}});
  }
  {
    namespace g = goldens::attention::bent_5;
    check_in_double_and_float<Attention<bent(3, 3, 17)>>({g::x, g::y, g::dy, g::dx},
                                                         {{g::q_weight, g::d_q_weight},
                                                          {g::k_weight, g::d_k_weight},
                                                          {g::v_weight, g::d_v_weight},
                                                          {g::o_weight, g::d_o_weight},
                                                          {g::sinks, g::d_sinks}});
  }
}

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
  constexpr auto with = [](RopeScaling scaling) {
    return RopeConfig{.base = 1e4, .scaling = scaling, .factor = 4, .trained = 128};
  };
  using enum RopeScaling;
  check.operator()<with(linear)>(g::linear, g::linear_scale[0]);
  check.operator()<with(yarn)>(g::yarn, g::yarn_scale[0]);
  check.operator()<with(llama3)>(g::llama3, g::llama3_scale[0]);
}

TEST_CASE("NTK scaling slows the slowest pair by the factor", "[attention][rope]") {
  constexpr RopeConfig C{.base = 1e4, .scaling = RopeScaling::ntk, .factor = 4};
  const RopeRule rule = rope_rule<C, 32>(), plain = rope_rule<RopeConfig{.base = 1e4}, 32>();
  REQUIRE(rule.frequencies[0] == 1);
  REQUIRE(std::abs(rule.frequencies[15] * 4 / plain.frequencies[15] - 1) < 1e-12);
}

TEST_CASE("Pairs turn by their position", "[attention][rope]") {
  const double f[] = {1, 0.01};
  const auto turned = [&](RopeRule rule) {
    std::vector<double> x{1, 2, 3, 4};
    rope<double>(rule, 1, 1, 1, {x.data(), 1, 4, 4});
    auto back = x;
    rope<double>(rule, 1, 1, -1, {back.data(), 1, 4, 4});
    for (std::size_t i = 0; i < 4; ++i)
      REQUIRE(std::abs(back[i] - static_cast<double>(i + 1)) < 1e-14);
    return x;
  };
  const auto near = [](const std::vector<double>& x, std::initializer_list<double> expected) {
    const double* e = expected.begin();
    for (const double value : x) REQUIRE(std::abs(value - *e++) < 5e-7);
  };
  near(turned({f, 4, 4, false}), {-1.984111, 1.959901, 2.462378, 4.019800});
  near(turned({f, 4, 4, true}), {-1.142640, 1.922076, 2.959851, 4.029800});
  near(turned({f, 2, 4, false}), {-1.142640, 1.922076, 3, 4});
}

TEST_CASE("Angles stay exact over long sequences", "[attention][rope]") {
  // Recurred rows against single ones, also backwards and far out.
  const auto check = [](std::int64_t first, Index step) {
    const RopeRule rule = rope_rule<RopeConfig{.base = 1e4}, 16>();
    constexpr Index T = 150;
    std::vector<double> x(T * 16, 1.0), one(16);
    rope<double>(rule, first, step, 1, {x.data(), T, 16, 16});
    for (Index t = 0; t < T; ++t) {
      std::fill(one.begin(), one.end(), 1.0);
      rope<double>(rule, first + t * step, 1, 1, {one.data(), 1, 16, 16});
      for (std::size_t i = 0; i < 16; ++i) {
        REQUIRE(std::abs(x[static_cast<std::size_t>(t) * 16 + i] - one[i]) <
                1e-13 + 1e-15 * std::abs(static_cast<double>(first)));
        if (i < 8) {
          const double phi = static_cast<double>(first + t * step) * rule.frequencies[i];
          REQUIRE(std::abs(one[i] - (std::cos(phi) - std::sin(phi))) < 1e-14);
        }
      }
    }
  };
  check(0, 1);
  check(1'000'000, 1);
  check(-3, -1);
}
