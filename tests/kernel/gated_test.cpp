#include <limen/kernel/gated.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Activation a = Activation::silu;

double silu(double z) { return z / (1 + std::exp(-z)); }
double slope(double z) {
  const double s = 1 / (1 + std::exp(-z));
  return s * (1 + z * (1 - s));
}

std::vector<double> draw(Index n, Random& random) {
  std::vector<double> x(static_cast<std::size_t>(n));
  for (double& v : x) v = 2 * random.normal();
  return x;
}

}  // namespace

TEST_CASE("gate and its backward are the formulas at every length", "[kernel][gated]") {
  Random random(3);
  for (Index n = 0; n <= 4 * simd::lanes<double> + 1; ++n) {
    const auto z = draw(n, random), u = draw(n, random), dh = draw(n, random);
    std::vector<double> h(z.size()), again = dh, dz(z.size()), du(z.size());
    gate<a>(z.data(), u.data(), h.data(), n);
    gate_backward<a>(z.data(), u.data(), again.data(), again.data(), dz.data(), du.data(), n);
    for (std::size_t i = 0; i < z.size(); ++i) {
      REQUIRE(std::abs(h[i] - silu(z[i]) * u[i]) < 1e-13);
      REQUIRE(again[i] == h[i]);  // in the place of dh
      REQUIRE(std::abs(du[i] - dh[i] * silu(z[i])) < 1e-13);
      REQUIRE(std::abs(dz[i] - dh[i] * u[i] * slope(z[i])) < 1e-13);
    }
  }
}

TEST_CASE("activation_backward is dy a'(x), in place of either", "[kernel][gated]") {
  Random random(4);
  for (Index n = 0; n <= 4 * simd::lanes<double> + 1; ++n) {
    const auto x = draw(n, random), dy = draw(n, random);
    std::vector<double> dx(x.size()), over_dy = dy, over_x = x;
    activation_backward(a, x.data(), dy.data(), dx.data(), n);
    activation_backward<a>(x.data(), over_dy.data(), over_dy.data(), n);
    activation_backward<a>(over_x.data(), dy.data(), over_x.data(), n);
    for (std::size_t i = 0; i < x.size(); ++i) {
      REQUIRE(std::abs(dx[i] - dy[i] * slope(x[i])) < 1e-13);
    }
    REQUIRE(over_dy == dx);
    REQUIRE(over_x == dx);
  }
}
