#include <limen/attention/maps.hpp>

#include <limen/core/random.hpp>
#include <limen/kernel/attention.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index B = 2, H = 4, K = 2, d = 3, Tq = 4, Tk = 5;

struct Inputs {
  std::vector<double> q, k, v, y;
  std::vector<AttentionCall<double>> calls;

  Inputs() {
    Random random(3);
    for (Index i = 0; i < B * Tq * H * d; ++i) q.push_back(random.normal());
    for (Index i = 0; i < B * Tk * K * d; ++i) {
      k.push_back(random.normal());
      v.push_back(random.normal());
    }
    y.resize(q.size());
    calls.resize(B);
    for (Index b = 0; b < B; ++b) {
      auto& c = calls[static_cast<std::size_t>(b)];
      c.q = {q.data() + b * Tq * H * d, Tq, H * d, H * d};
      c.k = {k.data() + b * Tk * K * d, Tk, K * d, K * d};
      c.v = {v.data() + b * Tk * K * d, Tk, K * d, K * d};
      c.y = {y.data() + b * Tq * H * d, Tq, H * d, H * d};
    }
  }
};

AttentionRule<double> rule_of(bool causal) {
  AttentionRule<double> rule;
  rule.query_heads = H;
  rule.key_heads = K;
  rule.causal = causal;
  return rule;
}

}  // namespace

TEST_CASE("Maps that nobody edits give what attention gives", "[attention][maps]") {
  const double sinks[] = {0.5, -1, 0, 2}, slopes[] = {0.5, 0.25, 0, 1};
  for (const bool causal : {false, true}) {
    for (const bool bent : {false, true}) {
      Inputs in;
      auto rule = rule_of(causal);
      if (bent) {
        rule.sinks = sinks;
        rule.slopes = slopes;
        rule.soft_cap = 2;
      }
      attention<double>(rule, in.calls);
      const auto expected = in.y;
      const auto maps = attention_maps<double>(rule, in.calls);
      for (Index b = 0; b < B; ++b) {
        read_maps(rule, maps, b, in.calls[static_cast<std::size_t>(b)].v,
                  in.calls[static_cast<std::size_t>(b)].y);
      }
      for (std::size_t i = 0; i < expected.size(); ++i) {
        REQUIRE(std::abs(in.y[i] - expected[i]) < 1e-13);
      }
    }
  }
}

TEST_CASE("Edits do what they say", "[attention][maps]") {
  AttentionMaps<double> maps(2, 1, 2, 3);
  const double rows[2][3] = {{0.7, 0.2, 0.1}, {0.1, 0.3, 0.6}};
  for (Index b = 0; b < 2; ++b) {
    for (Index i = 0; i < 2; ++i) std::copy_n(rows[b == 0 ? i : 1 - i], 3, maps(b, 0).row(i));
  }
  const Index word[] = {1};
  emphasise(maps, 0, word, 0.3);
  REQUIRE(maps(0, 0).row(0)[1] == 0.5);  // [.7, .5, .1]: the row now sums to 1.3
  REQUIRE(maps(0, 0).row(0)[2] == 0.1);
  REQUIRE(maps(1, 0).row(0)[1] == 0.3);
  fade(maps, 1, 1, 2, word, 0.5);
  REQUIRE(maps(1, 0).row(0)[1] == 0.3);
  REQUIRE(maps(1, 0).row(1)[1] == 0.1);
  replace(maps, 0, 1, word);
  REQUIRE(maps(1, 0).row(0)[0] == 0.7);
  REQUIRE(maps(1, 0).row(0)[1] == 0.3);
  REQUIRE(maps(1, 0).row(1)[2] == 0.6);
}

TEST_CASE("Edits refuse what is not there", "[attention][maps]") {
  AttentionMaps<double> maps(1, 1, 2, 3);
  const Index beyond[] = {3}, word[] = {0};
  REQUIRE_THROWS_WITH(emphasise(maps, 0, beyond, 1.0),
                      "column of attention maps: wanted 0 to 2, found 3");
  REQUIRE_THROWS_WITH(replace(maps, 0, 1), "sequence of attention maps: wanted 0 to 0, found 1");
  REQUIRE_THROWS_WITH(fade(maps, 0, 2, 1, word, 1.0),
                      "rows of attention maps: wanted 0 to 2, ascending, found 2 to 1");
}

TEST_CASE("The way back through edited maps is their slope", "[attention][maps]") {
  for (const bool attached : {false, true}) {
    Inputs in;
    const double sinks[] = {0.5, -1, 0, 2};
    auto rule = rule_of(true);
    rule.sinks = sinks;
    const Index words[] = {0, 3}, kept[] = {2};
    Random random(4);
    std::vector<double> r(in.y.size());
    for (double& value : r) value = random.normal();
    const auto fixed = attention_maps<double>(rule, in.calls);  // what a detached copy reads

    const auto loss = [&] {
      auto maps = attention_maps<double>(rule, in.calls);
      emphasise(maps, 0, words, 0.25);
      fade(maps, 0, 1, 3, words, 0.5);
      if (attached) {
        replace(maps, 0, 1, kept);
      } else {
        auto source = fixed.copy();
        emphasise(source, 0, words, 0.25);
        fade(source, 0, 1, 3, words, 0.5);
        for (Index h = 0; h < H; ++h) {
          for (Index i = 0; i < Tq; ++i) {
            for (Index j = 0; j < Tk; ++j) {
              if (j != kept[0]) maps(1, h).row(i)[j] = source(0, h).row(i)[j];
            }
          }
        }
      }
      double sum = 0;
      for (Index b = 0; b < B; ++b) {
        const auto& c = in.calls[static_cast<std::size_t>(b)];
        read_maps(rule, maps, b, c.v, c.y);
      }
      for (std::size_t i = 0; i < r.size(); ++i) sum += r[i] * in.y[i];
      return sum;
    };

    const auto plain = attention_maps<double>(rule, in.calls);
    auto edited = plain.copy();
    emphasise(edited, 0, words, 0.25);
    fade(edited, 0, 1, 3, words, 0.5);
    replace(edited, 0, 1, kept);
    AttentionMaps<double> dp(B, H, Tq, Tk);
    std::vector<double> dq(in.q.size()), dk(in.k.size()), dv(in.v.size());
    for (Index b = 0; b < B; ++b) {
      read_maps_backward<double>(
          rule, edited, b, in.calls[static_cast<std::size_t>(b)].v,
          MatrixView<const double>{r.data() + b * Tq * H * d, Tq, H * d, H * d}, dp,
          {dv.data() + b * Tk * K * d, Tk, K * d, K * d});
    }
    replace_backward(dp, 0, 1, kept, attached);
    fade(dp, 0, 1, 3, words, 0.5);
    for (Index b = 0; b < B; ++b) {
      maps_backward<double>(rule, in.calls[static_cast<std::size_t>(b)], plain, b, dp,
                            {dq.data() + b * Tq * H * d, Tq, H * d, H * d},
                            {dk.data() + b * Tk * K * d, Tk, K * d, K * d});
    }
    const auto check = [&](std::vector<double>& x, const std::vector<double>& slopes) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double before = x[i], h = 1e-6;
        x[i] = before + h;
        const double above = loss();
        x[i] = before - h;
        const double below = loss();
        x[i] = before;
        REQUIRE(std::abs((above - below) / (2 * h) - slopes[i]) < 1e-7);
      }
    };
    check(in.q, dq);
    check(in.k, dk);
    check(in.v, dv);
  }
}
