#include <limen/kernel/recurrent.hpp>
#include <limen/kernel/tiny_gates.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <limen/core/random.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
std::vector<Real> noise(Index n, Random& random) {
  std::vector<Real> v(static_cast<std::size_t>(n));
  for (Real& x : v) x = static_cast<Real>(random.normal());
  return v;
}

double sigma(double v) { return 1 / (1 + std::exp(-v)); }

template <class Real>
constexpr double epsilons = 64 * double{std::numeric_limits<Real>::epsilon()};

struct NoNumbers {};

}  // namespace

TEMPLATE_TEST_CASE("The gates of a GRU are those of a plain loop at any length",
                   "[kernel][recurrent]", float, double) {
  using Real = TestType;
  Random random(1);
  for (Index W = 0; W <= 4 * simd::lanes<Real> + 1; ++W) {
    const auto gi = noise<Real>(3 * W + 1, random), p = noise<Real>(3 * W + 1, random);
    const auto before = noise<Real>(W + 1, random);
    // One behind the end, to see that nothing is written there; one before, to misalign.
    std::vector<Real> h(static_cast<std::size_t>(W) + 2, 9), y = h;
    gru_units<false, false>(W, gi.data() + 1, p.data() + 1, before.data() + 1, h.data() + 1,
                            y.data() + 1);
    REQUIRE(h[0] == 9);
    REQUIRE(h.back() == 9);
    for (Index j = 0; j < W; ++j) {
      const auto at = [&](const std::vector<Real>& v, Index g) {
        return static_cast<double>(v[static_cast<std::size_t>(1 + g * W + j)]);
      };
      const double r = sigma(at(gi, 0) + at(p, 0)), z = sigma(at(gi, 1) + at(p, 1));
      const double n = std::tanh(at(gi, 2) + r * at(p, 2));
      REQUIRE(std::abs(at(h, 0) - ((1 - z) * n + z * at(before, 0))) < epsilons<Real>);
      REQUIRE(at(y, 0) == at(h, 0));
    }
  }
}

TEMPLATE_TEST_CASE("The gates of an LSTM are those of a plain loop at any length",
                   "[kernel][recurrent]", float, double) {
  using Real = TestType;
  Random random(2);
  for (Index W = 0; W <= 4 * simd::lanes<Real> + 1; ++W) {
    const auto gi = noise<Real>(4 * W + 1, random), p = noise<Real>(4 * W + 1, random);
    const auto first = noise<Real>(W + 2, random);
    std::vector<Real> h(static_cast<std::size_t>(W) + 2, 9), y = h, c = first;
    lstm_units<false, false>(W, gi.data() + 1, p.data() + 1, h.data() + 1, h.data() + 1,
                             c.data() + 1, y.data() + 1);
    REQUIRE(h[0] == 9);
    REQUIRE(h.back() == 9);
    for (Index j = 0; j < W; ++j) {
      const auto at = [&](const std::vector<Real>& v, Index g) {
        return static_cast<double>(v[static_cast<std::size_t>(1 + g * W + j)]);
      };
      const auto sum = [&](Index g) { return at(gi, g) + at(p, g); };
      const double cell = sigma(sum(1)) * at(first, 0) + sigma(sum(0)) * std::tanh(sum(2));
      REQUIRE(std::abs(at(c, 0) - cell) < epsilons<Real> * 4);
      REQUIRE(std::abs(at(h, 0) - sigma(sum(3)) * std::tanh(cell)) < epsilons<Real>);
      REQUIRE(at(y, 0) == at(h, 0));
    }
  }
}

TEMPLATE_TEST_CASE_SIG("A small weight multiplies one row as a plain loop does", "[kernel][tiny]",
                       ((Index O, Index I), O, I), (1, 1), (1, 8), (1, 33), (3, 17), (4, 5), (8, 8),
                       (9, 3), (17, 16), (31, 64), (33, 1), (64, 40)) {
  Random random(3);
  const auto w = noise<float>(O * I, random), x = noise<float>(I, random);
  const auto b = noise<float>(O, random);
  TinyWeight<float, O, I> weight;
  weight.place(w.data());
  std::vector<float> y(std::size_t{O} + 1, 9), plain = y;
  weight.product(x.data(), b.data(), y.data());
  weight.product(x.data(), nullptr, plain.data());
  REQUIRE(y.back() == 9);
  for (Index o = 0; o < O; ++o) {
    double sum = 0;
    for (Index i = 0; i < I; ++i) {
      sum +=
          double{w[static_cast<std::size_t>(o * I + i)]} * double{x[static_cast<std::size_t>(i)]};
    }
    const auto at = static_cast<std::size_t>(o);
    REQUIRE(std::abs(double{plain[at]} - sum) < 1e-5);
    REQUIRE(std::abs(double{y[at]} - (sum + double{b[at]})) < 1e-5);
  }
}

TEST_CASE("Sequences run side by side, the longest to the end", "[kernel][recurrent]") {
  const std::vector<Index> offsets{0, 2, 2, 3, 6};  // lengths 2, 0, 1, 3
  const Batch<NoNumbers> batch(offsets);
  const ByLength s(batch, 6);
  REQUIRE(s.count() == 4);
  REQUIRE(s.all());
  REQUIRE(s.longest() == 3);
  const Index order[] = {3, 0, 2, 1};
  for (Index i = 0; i < 4; ++i) REQUIRE(s.which(i) == order[i]);
  std::vector<Index> running;
  s.forwards([&](Index t, Index n) {
    REQUIRE(t == static_cast<Index>(running.size()));
    running.push_back(n);
  });
  REQUIRE(running == std::vector<Index>{3, 2, 1});
  s.backwards([&](Index t, Index n) {
    REQUIRE(running[static_cast<std::size_t>(t)] == n);
    running.pop_back();
  });
  REQUIRE(running.empty());

  const ByLength second(batch, 6, 1, 2);  // the share of the second of two threads
  REQUIRE(second.count() == 2);
  REQUIRE(!second.all());
  REQUIRE(second.which(0) == 0);
  REQUIRE(second.which(1) == 1);
}

TEST_CASE("Threads in lockstep meet after each step", "[kernel][lockstep]") {
  const Threads two(2);
  constexpr int steps = 1000;
  std::vector<int> seen(2 * steps, 0);
  std::atomic<int> members{0};
  in_lockstep(2, 1e9, [&](Index part, Index parts, auto meet) {
    members = static_cast<int>(parts);
    for (int t = 0; t < steps; ++t) {
      // What the other wrote in the step before must be there.
      if (t > 0 && parts == 2) {
        seen[static_cast<std::size_t>(2 * t + part)] =
            seen[static_cast<std::size_t>(2 * (t - 1) + 1 - part)] + 1;
      } else {
        seen[static_cast<std::size_t>(2 * t + part)] = t + 1;
      }
      meet();
    }
  });
  REQUIRE(members >= 1);
  for (int t = 0; t < steps; ++t) REQUIRE(seen[static_cast<std::size_t>(2 * t)] == t + 1);
}
