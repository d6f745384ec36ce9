#include <limen/kernel/rope.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <initializer_list>
#include <vector>

#include "../catch.hpp"

using namespace limen;

TEST_CASE("Pairs turn by their position", "[kernel][rope]") {
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

TEST_CASE("Angles stay exact over long sequences", "[kernel][rope]") {
  // Recurred rows against single ones, also backwards and far out.
  const auto check = [](std::int64_t first, Index step) {
    double f[8];
    for (int i = 0; i < 8; ++i) f[i] = std::pow(1e4, -i / 8.0);
    const RopeRule rule{f, 16, 16};
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

TEMPLATE_TEST_CASE("Heads of any width turn by the definition, two matrices at once",
                   "[kernel][rope]", float, double) {
  using Real = TestType;
  const double tolerance = sizeof(Real) == 4 ? 2e-6 : 1e-14;
  Random random(1);
  for (const Index pairs : {1, 2, 3, 7, 8, 9, 16, 17, 33}) {
    for (const bool neighbours : {false, true}) {
      const Index width = 2 * pairs, head = width + 3, cols = 2 * head, rows = 3;
      std::vector<double> f(static_cast<std::size_t>(pairs));
      for (double& x : f) x = random.uniform();
      const RopeRule rule{f.data(), width, head, neighbours, 1.25};
      std::vector<Real> x(static_cast<std::size_t>(rows * cols));
      for (Real& v : x) v = static_cast<Real>(random.normal());
      auto y = x, also = x;
      rope<Real>(rule, 5, 2, 1, {y.data(), rows, cols, cols}, {also.data(), rows, head, cols});
      for (Index t = 0; t < rows; ++t) {
        for (Index c = 0; c < cols; ++c) {
          const Index h = c / head * head, i = c % head;
          const auto at = [&](Index channel) {
            return double(x[static_cast<std::size_t>(t * cols + h + channel)]);
          };
          double expected = at(i);
          if (i < width) {
            const Index pair = neighbours ? i / 2 : i % pairs;
            const bool second = neighbours ? i % 2 == 1 : i >= pairs;
            const Index a = neighbours ? 2 * pair : pair, b = neighbours ? a + 1 : pair + pairs;
            const double phi = static_cast<double>(5 + 2 * t) * f[static_cast<std::size_t>(pair)];
            const double co = 1.25 * std::cos(phi), si = 1.25 * std::sin(phi);
            expected = second ? at(b) * co + at(a) * si : at(a) * co - at(b) * si;
          }
          const auto place = static_cast<std::size_t>(t * cols + c);
          INFO("pairs " << pairs << ", row " << t << ", channel " << c);
          REQUIRE(std::abs(double(y[place]) - expected) <= tolerance * 4);
          REQUIRE(also[place] == (c < head ? y[place] : x[place]));
        }
      }
    }
  }
}
