#include <limen/kernel/attention_backward.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

using Numbers = std::vector<double>;

Numbers draw(Index n, Random& random) {
  Numbers x(static_cast<std::size_t>(n));
  for (double& value : x) value = random.normal();
  return x;
}

struct Case {
  Index Tq, Tk, Hq, Hk, d, dv;
  Random random{5};
  Numbers q = draw(Tq * Hq * d, random), k = draw(Tk * Hk * d, random),
          v = draw(Tk * Hk * dv, random), dy = draw(Tq * Hq * dv, random),
          dlse = draw(Tq * Hq, random);
  Numbers bias{}, slopes{}, sinks{};
  std::vector<std::uint8_t> keep{};
  AttentionRule<double> rule{};
  Index bias_head = 0, keep_head = 0, keep_block = 1;

  AttentionCall<double> call(Numbers& y, Numbers& lse) {
    y.resize(static_cast<std::size_t>(Tq * Hq * dv));
    lse.resize(static_cast<std::size_t>(Tq * Hq));
    rule.query_heads = Hq;
    rule.key_heads = Hk;
    rule.slopes = slopes.empty() ? nullptr : slopes.data();
    rule.sinks = sinks.empty() ? nullptr : sinks.data();
    AttentionCall<double> c;
    c.q = {q.data(), Tq, Hq * d, Hq * d};
    c.k = {k.data(), Tk, Hk * d, Hk * d};
    c.v = {v.data(), Tk, Hk * dv, Hk * dv};
    c.y = {y.data(), Tq, Hq * dv, Hq * dv};
    c.lse = lse.data();
    c.bias = bias.empty() ? nullptr : bias.data();
    c.bias_head = bias_head;
    c.keep = keep.empty() ? nullptr : keep.data();
    c.keep_head = keep_head;
    c.keep_block = keep_block;
    return c;
  }

  double loss() {
    Numbers y, lse;
    const auto c = call(y, lse);
    attention<double>(rule, std::span(&c, 1));
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    for (std::size_t i = 0; i < lse.size(); ++i) sum += std::isinf(lse[i]) ? 0 : lse[i] * dlse[i];
    return sum;
  }

  void slopes_are(const char* name, Numbers& x, const Numbers& dx) {
    for (std::size_t i = 0; i < x.size(); i += 1 + x.size() / 150) {
      const double before = x[i], h = 1e-5;
      x[i] = before + h;
      const double above = loss();
      x[i] = before - h;
      const double below = loss();
      x[i] = before;
      INFO(name << '[' << i << ']');
      REQUIRE(dx[i] == Approx((above - below) / (2 * h)).epsilon(1e-6).margin(1e-7));
    }
  }

  void check() {
    Numbers y, lse, dq(q.size(), 9), dk(k.size(), 9), dv_(v.size(), 9), dbias(bias.size()),
        dslopes(slopes.size()), dsinks(sinks.size());
    AttentionGradient<double> g;
    g.call = call(y, lse);
    attention<double>(rule, std::span(&g.call, 1));
    g.dy = {dy.data(), Tq, Hq * dv, Hq * dv};
    g.dlse = dlse.data();
    g.dq = {dq.data(), Tq, Hq * d, Hq * d};
    g.dk = {dk.data(), Tk, Hk * d, Hk * d};
    g.dv = {dv_.data(), Tk, Hk * dv, Hk * dv};
    g.dbias = dbias.data();
    g.dslopes = dslopes.data();
    g.dsinks = dsinks.data();
    attention_backward<double>(rule, std::span(&g, 1));
    slopes_are("q", q, dq);
    slopes_are("k", k, dk);
    slopes_are("v", v, dv_);
    slopes_are("bias", bias, dbias);
    slopes_are("slopes", slopes, dslopes);
    slopes_are("sinks", sinks, dsinks);
  }
};

}  // namespace

TEST_CASE("The gradients of attention are its slopes", "[kernel][attention]") {
  SECTION("full") { Case{.Tq = 7, .Tk = 9, .Hq = 2, .Hk = 2, .d = 3, .dv = 5}.check(); }
  SECTION("causal, grouped heads, several blocks") {
    Case c{.Tq = 70, .Tk = 170, .Hq = 4, .Hk = 2, .d = 4, .dv = 3};
    c.rule.causal = true;
    c.check();
  }
  SECTION("window, ALiBi, soft-cap, a fully masked row") {
    Case c{.Tq = 9, .Tk = 9, .Hq = 4, .Hk = 2, .d = 4, .dv = 4};
    c.rule.causal = true;
    c.rule.window = 4;
    c.rule.soft_cap = 3;
    c.slopes = {0.5, 0.25, 0.1, 0.3};
    c.keep.assign(81, 1);
    std::fill(c.keep.begin() + 27, c.keep.begin() + 36, std::uint8_t{0});
    c.check();
  }
  SECTION("a window to both sides, several blocks") {
    Case c{.Tq = 70, .Tk = 170, .Hq = 2, .Hk = 1, .d = 4, .dv = 3};
    c.rule.window = 20;
    c.check();
  }
  SECTION("a mask for each head with a soft-cap, in blocks too") {
    Case c{.Tq = 9, .Tk = 11, .Hq = 4, .Hk = 2, .d = 4, .dv = 3};
    c.rule.soft_cap = 2;
    c.keep_head = 99;
    for (Index i = 0; i < 4 * 99; ++i) c.keep.push_back(c.random.below(2) > 0);
    c.check();
    c.keep_block = 4;
    c.keep_head = 9;
    c.check();
  }
  SECTION("ALiBi to both sides") {
    Case c{.Tq = 5, .Tk = 8, .Hq = 2, .Hk = 2, .d = 3, .dv = 2};
    c.slopes = {0.5, 0.25};
    c.check();
  }
  SECTION("sinks and a bias for each head") {
    Case c{.Tq = 6, .Tk = 8, .Hq = 2, .Hk = 1, .d = 3, .dv = 3};
    c.sinks = {0.3, -0.5};
    c.bias = draw(2 * 48, c.random);
    c.bias_head = 48;
    c.check();
  }
  SECTION("a bias for all heads") {
    Case c{.Tq = 6, .Tk = 8, .Hq = 2, .Hk = 1, .d = 3, .dv = 3};
    c.bias = draw(48, c.random);
    c.check();
  }
}

TEST_CASE("Gradients of attention by hand", "[kernel][attention]") {
  const double eye[] = {1, 0, 0, 1}, v[] = {1, 2, 3, 4}, dy[] = {1, 0, 1, 0};
  double y[4], lse[2], dq[4], dk[4], dv[4];
  const AttentionRule<double> rule{.causal = true};
  AttentionGradient<double> g;
  g.call.q = g.call.k = {eye, 2, 2, 2};
  g.call.v = {v, 2, 2, 2};
  g.call.y = {y, 2, 2, 2};
  g.call.lse = lse;
  attention<double>(rule, std::span(&g.call, 1));
  g.dy = {dy, 2, 2, 2};
  g.dq = {dq, 2, 2, 2};
  g.dk = {dk, 2, 2, 2};
  g.dv = {dv, 2, 2, 2};
  attention_backward<double>(rule, std::span(&g, 1));
  const double expected[] = {0, 0, -0.312797, 0.312797};
  for (int i = 0; i < 4; ++i) REQUIRE(dq[i] == Approx(expected[i]).epsilon(1e-5).margin(1e-12));
  const double dk_expected[] = {0, -0.312797, 0, 0.312797};
  for (int i = 0; i < 4; ++i) REQUIRE(dk[i] == Approx(dk_expected[i]).epsilon(1e-5).margin(1e-12));
  const double dv_expected[] = {1.330238, 0, 0.669762, 0};
  for (int i = 0; i < 4; ++i) REQUIRE(dv[i] == Approx(dv_expected[i]).epsilon(1e-5).margin(1e-12));
}

TEST_CASE("A query that sees nothing moves nothing but its sink", "[kernel][attention]") {
  Case c{.Tq = 3, .Tk = 4, .Hq = 1, .Hk = 1, .d = 2, .dv = 2};
  c.keep.assign(12, 0);
  c.sinks = {0.5};
  Numbers y, lse, dq(6, 9), dk(8, 9), dv(8, 9);
  double dsink = 0;
  AttentionGradient<double> g;
  g.call = c.call(y, lse);
  attention<double>(c.rule, std::span(&g.call, 1));
  g.dy = {c.dy.data(), 3, 2, 2};
  g.dlse = c.dlse.data();
  g.dq = {dq.data(), 3, 2, 2};
  g.dk = {dk.data(), 4, 2, 2};
  g.dv = {dv.data(), 4, 2, 2};
  g.dsinks = &dsink;
  attention_backward<double>(c.rule, std::span(&g, 1));
  for (const auto* x : {&y, &dq, &dk, &dv}) {
    for (const double value : *x) REQUIRE(value == 0);
  }
  REQUIRE(dsink == Approx(c.dlse[0] + c.dlse[1] + c.dlse[2]));
}

TEST_CASE("Gradients of attention have the same bits for any number of threads and any company",
          "[kernel][attention]") {
  Case a{.Tq = 130, .Tk = 300, .Hq = 8, .Hk = 4, .d = 16, .dv = 16},
      b{.Tq = 60, .Tk = 90, .Hq = 8, .Hk = 4, .d = 16, .dv = 16};
  a.rule.causal = b.rule.causal = true;
  struct Run {
    Numbers y, lse, dq, dk, dv;
  };
  const auto gradient = [](Case& c, Run& to) {
    AttentionGradient<double> g;
    g.call = c.call(to.y, to.lse);
    attention<double>(c.rule, std::span(&g.call, 1));
    to.dq.assign(c.q.size(), 0);
    to.dk.assign(c.k.size(), 0);
    to.dv.assign(c.v.size(), 0);
    g.dy = {c.dy.data(), c.Tq, c.Hq * c.dv, c.Hq * c.dv};
    g.dq = {to.dq.data(), c.Tq, c.Hq * c.d, c.Hq * c.d};
    g.dk = {to.dk.data(), c.Tk, c.Hk * c.d, c.Hk * c.d};
    g.dv = {to.dv.data(), c.Tk, c.Hk * c.dv, c.Hk * c.dv};
    return g;
  };
  Run alone_a, alone_b;
  for (const auto& g : {gradient(a, alone_a), gradient(b, alone_b)}) {
    attention_backward<double>(a.rule, std::span(&g, 1));
  }
  for (const int threads : {1, 2, 3}) {
    const Threads allowed(threads);
    Run now_a, now_b;
    const AttentionGradient<double> both[] = {gradient(a, now_a), gradient(b, now_b)};
    attention_backward<double>(a.rule, both);
    for (const auto& [now, alone] : {std::pair{&now_a, &alone_a}, std::pair{&now_b, &alone_b}}) {
      REQUIRE(now->dq == alone->dq);
      REQUIRE(now->dk == alone->dk);
      REQUIRE(now->dv == alone->dv);
    }
  }
}
