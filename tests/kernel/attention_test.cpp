#include <limen/core/random.hpp>
#include <limen/kernel/attention.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

/// The definition, in double, one query at a time.
template <class Real>
void plainly(const AttentionRule<Real>& rule, const AttentionCall<Real>& c, std::vector<double>& y,
             std::vector<double>& lse) {
  const Index Hq = rule.query_heads, Hk = rule.key_heads;
  const Index d = c.q.cols / Hq, dv = c.y.cols / Hq;
  y.assign(static_cast<std::size_t>(c.q.rows * Hq * dv), 0);
  lse.assign(static_cast<std::size_t>(c.q.rows * Hq), 0);
  const double scale = rule.scale > 0 ? double(rule.scale) : 1 / std::sqrt(double(d));
  for (Index i = 0; i < c.q.rows; ++i) {
    for (Index h = 0; h < Hq; ++h) {
      const Index kh = h / (Hq / Hk);
      std::vector<double> p(static_cast<std::size_t>(c.k.rows), 0);
      double sum = rule.sinks != nullptr ? std::exp(double(rule.sinks[h])) : 0;
      for (Index j = 0; j < c.k.rows; ++j) {
        const Index pi = c.position(i), pj = c.positions != nullptr ? c.positions[j] : j;
        double s = 0;
        for (Index n = 0; n < d; ++n) s += double(c.q(i, h * d + n)) * double(c.k(j, kh * d + n));
        s *= scale;
        if (c.bias != nullptr) s += double(c.bias[h * c.bias_head + i * c.k.rows + j]);
        if (rule.slopes != nullptr) s -= double(rule.slopes[h]) * std::abs(double(pi - pj));
        if (rule.soft_cap > 0) s = double(rule.soft_cap) * std::tanh(s / double(rule.soft_cap));
        bool seen = pj >= 0 && (!rule.causal || pj <= pi) &&
                    (rule.window == 0 || std::abs(pi - pj) < rule.window);
        if (c.keep != nullptr) {
          const Index columns = (c.k.rows + c.keep_block - 1) / c.keep_block;
          seen = seen && c.keep[h * c.keep_head + i / c.keep_block * columns + j / c.keep_block];
        }
        if (seen) sum += p[static_cast<std::size_t>(j)] = std::exp(s);
      }
      lse[static_cast<std::size_t>(i * Hq + h)] = std::log(sum);
      for (Index j = 0; j < c.k.rows && sum > 0; ++j) {
        for (Index n = 0; n < dv; ++n) {
          y[static_cast<std::size_t>((i * Hq + h) * dv + n)] +=
              p[static_cast<std::size_t>(j)] / sum * double(c.v(j, kh * dv + n));
        }
      }
    }
  }
}

template <class Real>
struct Case {
  Index Tq, Tk, d, dv;
  std::vector<Real> q, k, v, y, lse;
  AttentionRule<Real> rule;
  AttentionCall<Real> call;

  Case(Index tq, Index tk, Index Hq, Index Hk, Index d_, Index dv_, std::uint64_t seed = 1)
      : Tq(tq), Tk(tk), d(d_), dv(dv_) {
    Random random(seed);
    const auto draw = [&](std::vector<Real>& to, Index n) {
      to.resize(static_cast<std::size_t>(n));
      for (Real& x : to) x = static_cast<Real>(random.normal());
    };
    draw(q, Tq * Hq * d);
    draw(k, Tk * Hk * d);
    draw(v, Tk * Hk * dv);
    y.resize(static_cast<std::size_t>(Tq * Hq * dv), Real(7));
    lse.resize(static_cast<std::size_t>(Tq * Hq), Real(7));
    rule.query_heads = Hq;
    rule.key_heads = Hk;
    call.q = {q.data(), Tq, Hq * d, Hq * d};
    call.k = {k.data(), Tk, Hk * d, Hk * d};
    call.v = {v.data(), Tk, Hk * dv, Hk * dv};
    call.y = {y.data(), Tq, Hq * dv, Hq * dv};
    call.lse = lse.data();
  }
  Case(const Case&) = delete;

  void check() {
    attention<Real>(rule, std::span(&call, 1));
    compare();
  }

  void compare() {
    std::vector<double> y_expected, lse_expected;
    plainly(rule, call, y_expected, lse_expected);
    const double tolerance = sizeof(Real) == 4 ? 2e-5 : 1e-12;
    for (std::size_t i = 0; i < y.size(); ++i) {
      INFO("y[" << i << "]");
      REQUIRE(std::abs(double(y[i]) - y_expected[i]) <= tolerance);
    }
    for (std::size_t i = 0; i < lse.size(); ++i) {
      INFO("lse[" << i << "]");
      if (std::isinf(lse_expected[i])) {
        REQUIRE(double(lse[i]) == lse_expected[i]);
      } else {
        REQUIRE(std::abs(double(lse[i]) - lse_expected[i]) <= tolerance);
      }
    }
  }
};

}  // namespace

TEMPLATE_TEST_CASE("Attention is what its definition says, at any size", "[kernel][attention]",
                   float, double) {
  for (const Index Tq : {0, 1, 2, 12, 13, 50}) {
    for (const Index Tk : {1, 3, 16, 33, 300}) {
      for (const bool causal : {false, true}) {
        INFO("Tq " << Tq << ", Tk " << Tk << ", causal " << causal);
        Case<TestType> c(Tq, Tk, 2, 1, 5, 7);
        c.rule.causal = causal;
        c.check();
      }
    }
  }
  for (const Index d : {1, 16, 64, 70}) {
    INFO("d " << d);
    Case<TestType> c(60, 70, 6, 2, d, 71 - d);
    c.rule.causal = true;
    c.check();
  }
}

TEMPLATE_TEST_CASE("Masks, windows, biases, caps and sinks", "[kernel][attention]", float, double) {
  using Real = TestType;
  const Index Tq = 61, Tk = 340, H = 4;
  Random random(3);
  std::vector<Real> slopes(4), sinks(4), bias(static_cast<std::size_t>(H * Tq * Tk));
  for (Real& x : slopes) x = static_cast<Real>(0.1 + random.uniform());
  for (Real& x : sinks) x = static_cast<Real>(random.normal());
  for (Real& x : bias) x = static_cast<Real>(random.normal());
  std::vector<std::uint8_t> keep(static_cast<std::size_t>(H * Tq * Tk));
  for (auto& x : keep) x = random.below(3) > 0;
  std::fill(keep.begin(), keep.begin() + Tk, std::uint8_t{0});  // row 0 sees nothing

  Case<Real> c(Tq, Tk, H, 2, 8, 8);
  SECTION("a window, causal and not") {
    for (const Index window : {1, 7, 40, 1000}) {
      for (const bool causal : {false, true}) {
        c.rule.window = window;
        c.rule.causal = causal;
        c.check();
      }
    }
  }
  SECTION("queries before the keys see nothing") {
    c.rule.causal = true;
    c.call.offset = -5;
    c.check();
    REQUIRE(c.y[0] == 0);
  }
  SECTION("ALiBi, soft-cap and sinks together") {
    c.rule.causal = true;
    c.rule.slopes = slopes.data();
    c.rule.soft_cap = 3;
    c.rule.sinks = sinks.data();
    c.check();
  }
  SECTION("a bias for all heads, and one for each") {
    c.call.bias = bias.data();
    c.check();
    c.call.bias_head = Tq * Tk;
    c.check();
  }
  SECTION("a soft-cap of scores with their bias") {
    c.call.bias = bias.data();
    c.rule.soft_cap = 2;
    c.check();
  }
  SECTION("a mask for all heads, one for each, and one of blocks") {
    c.call.keep = keep.data();
    c.check();
    REQUIRE(c.lse[0] == -std::numeric_limits<Real>::infinity());
    c.call.keep_head = Tq * Tk;
    c.check();
    c.call.keep_head = 0;
    c.call.keep_block = 16;
    c.check();
  }
  SECTION("a row without keys still has its sink") {
    c.call.keep = keep.data();
    c.rule.sinks = sinks.data();
    c.check();
    REQUIRE(c.lse[0] == Approx(sinks[0]));
    REQUIRE(c.y[0] == 0);
  }
  SECTION("keys in the slots of a ring") {
    std::vector<Index> positions(static_cast<std::size_t>(Tk));
    for (Index j = 0; j < Tk; ++j) positions[static_cast<std::size_t>(j)] = (j + 100) % Tk - 20;
    c.call.positions = positions.data();
    c.rule.causal = true;
    c.rule.window = 90;
    c.rule.slopes = slopes.data();
    c.check();
  }
}

TEST_CASE("Attention of two tokens by hand", "[kernel][attention]") {
  const double eye[] = {1, 0, 0, 1}, v[] = {1, 2, 3, 4};
  double y[4], lse[2];
  AttentionCall<double> call;
  call.q = call.k = {eye, 2, 2, 2};
  call.v = {v, 2, 2, 2};
  call.y = {y, 2, 2, 2};
  call.lse = lse;
  attention<double>({}, std::span(&call, 1));
  REQUIRE(y[0] == Approx(1.660477).epsilon(1e-6));
  REQUIRE(y[3] == Approx(3.339523).epsilon(1e-6));
  REQUIRE(lse[0] == Approx(1.107940).epsilon(1e-6));
  attention<double>({.causal = true}, std::span(&call, 1));
  REQUIRE(y[0] == Approx(1));
  REQUIRE(y[2] == Approx(2.339523).epsilon(1e-6));
  REQUIRE(lse[0] == Approx(0.707107).epsilon(1e-6));
}

TEST_CASE("A sink and a soft-cap by hand", "[kernel][attention]") {
  const double q[] = {1}, k[] = {1, 0}, v[] = {2, 4}, sink[] = {0};
  double y[1], lse[1];
  AttentionCall<double> call;
  call.q = {q, 1, 1, 1};
  call.k = {k, 2, 1, 1};
  call.v = {v, 2, 1, 1};
  call.y = {y, 1, 1, 1};
  call.lse = lse;
  AttentionRule<double> rule{.scale = 1, .sinks = sink};
  attention<double>(rule, std::span(&call, 1));
  REQUIRE(y[0] == Approx(2).epsilon(1e-6));  // 0.576117 of 2 and 0.211942 of 4
  REQUIRE(lse[0] == Approx(1.551445).epsilon(1e-6));
  rule.sinks = nullptr;
  rule.scale = 3;
  rule.soft_cap = 2;
  call.k.rows = call.v.rows = 1;
  attention<double>(rule, std::span(&call, 1));
  REQUIRE(y[0] == 2);
  REQUIRE(lse[0] == Approx(1.810297).epsilon(1e-6));  // 2 tanh(3 / 2)
}

TEST_CASE("Scores far from 0 have probabilities all the same", "[kernel][attention]") {
  Case<float> c(20, 300, 2, 1, 8, 4);
  Case<double> exact(20, 300, 2, 1, 8, 4);
  for (std::size_t i = 0; i < c.q.size(); ++i) {  // the same bits to both
    c.q[i] = std::round(c.q[i] * 16) * 64;
    exact.q[i] = double(c.q[i]);
  }
  for (std::size_t i = 0; i < c.k.size(); ++i) {
    c.k[i] = std::round(c.k[i] * 4);
    exact.k[i] = double(c.k[i]);
  }
  c.rule.scale = 1;
  exact.rule.scale = 1;
  attention<float>(c.rule, std::span(&c.call, 1));
  attention<double>(exact.rule, std::span(&exact.call, 1));
  double largest = 0;
  for (std::size_t i = 0; i < c.lse.size(); ++i) {
    largest = std::max(largest, exact.lse[i]);
    REQUIRE(double(c.lse[i]) == Approx(exact.lse[i]).epsilon(1e-6));
  }
  REQUIRE(largest > 1e4);
  // A score of 10^4 is known to 10^-3 in float, and so is its probability.
  const double known = 4e-7 * largest;
  for (std::size_t i = 0; i < c.y.size(); ++i) {
    REQUIRE(std::abs(double(c.y[i]) - exact.y[i]) < known);
  }
}

TEST_CASE("A number added to all scores of a row moves its L alone", "[kernel][attention]") {
  Case<double> c(5, 40, 2, 2, 4, 3);
  c.check();
  const auto y = c.y, lse = c.lse;
  std::vector<double> bias(5 * 40);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = 100.0 * static_cast<double>(i / 40) - 200;
  c.call.bias = bias.data();
  attention<double>(c.rule, std::span(&c.call, 1));
  for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::abs(c.y[i] - y[i]) < 1e-12);
  for (std::size_t i = 0; i < lse.size(); ++i) {
    REQUIRE(c.lse[i] == Approx(lse[i] + bias[i / 2 * 40]).epsilon(1e-12));
  }
}

TEST_CASE("Attention has the same bits for any number of threads and any company",
          "[kernel][attention]") {
  Case<float> a(130, 700, 4, 2, 16, 16, 1), b(70, 90, 4, 2, 16, 16, 2);
  a.rule.causal = b.rule.causal = true;
  attention<float>(a.rule, std::span(&a.call, 1));
  attention<float>(b.rule, std::span(&b.call, 1));
  const auto ya = a.y, yb = b.y;
  for (const int threads : {1, 2, 3}) {
    const Threads allowed(threads);
    const AttentionCall<float> both[] = {a.call, b.call};
    std::fill(a.y.begin(), a.y.end(), 0.f);
    std::fill(b.y.begin(), b.y.end(), 0.f);
    attention<float>(a.rule, both);
    REQUIRE(a.y == ya);
    REQUIRE(b.y == yb);
  }
}
