#include <limen/kernel/activation.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Activation all[] = {Activation::identity, Activation::relu,      Activation::leaky_relu,
                              Activation::sigmoid,  Activation::tanh,      Activation::silu,
                              Activation::gelu,     Activation::gelu_tanh, Activation::softplus};

double plain(Activation a, double x) {
  const double sigma = 1 / (1 + std::exp(-x));
  using enum Activation;
  switch (a) {
    case identity:
      return x;
    case relu:
      return x > 0 ? x : 0;
    case leaky_relu:
      return x > 0 ? x : 0.01 * x;
    case sigmoid:
      return sigma;
    case tanh:
      return std::tanh(x);
    case silu:
      return x * sigma;
    case gelu:
      return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    case gelu_tanh:
      return x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))) / 2;
    case softplus:
      return std::log(1 + std::exp(x));
  }
  return 0;
}

template <class F>
double of_one(F f, double x) {
  alignas(64) double y[simd::Vec<double>::size];
  simd::store(y, f(simd::Vec<double>(x)));
  return y[0];
}

}  // namespace

TEMPLATE_TEST_CASE("activate is the formula at every length and start", "[kernel][activation]",
                   float, double) {
  using Real = TestType;
  const double near = sizeof(Real) == 4 ? 2e-6 : 4e-15;
  const Index longest = 4 * simd::lanes<Real> + 1;
  for (const Activation a : all) {
    for (Index n = 0; n <= longest; ++n) {
      for (const Index start : {0, 1, 5}) {
        std::vector<Real> x(static_cast<std::size_t>(n + start + 1), Real(9)), y(x.size(), Real(9));
        for (Index i = 0; i < n; ++i)
          x[static_cast<std::size_t>(start + i)] = Real(0.37 * double(i - n / 2));
        activate(a, x.data() + start, y.data() + start, n);
        for (std::size_t i = 0; i < y.size(); ++i) {
          const Index k = static_cast<Index>(i) - start;
          const bool inside = k >= 0 && k < n;
          const double expected = inside ? plain(a, double(x[i])) : 9;
          INFO(int(a) << ", " << n << " from " << start << ", x " << x[i]);
          REQUIRE(std::abs(double(y[i]) - expected) <= near * (1 + std::abs(expected)));
        }
        activate(a, x.data() + start, x.data() + start, n);
        REQUIRE(x == y);
      }
    }
  }
}

TEST_CASE("activation_derivative is the slope of activate", "[kernel][activation]") {
  for (const Activation a : all) {
    for (double x = -7.03; x < 7; x += 0.1) {
      with_activation(a, [&](auto kind) {
        const double h = 1e-5;
        const double slope =
            (of_one([=](auto v) { return activate<decltype(kind)::value>(v); }, x + h) -
             of_one([=](auto v) { return activate<decltype(kind)::value>(v); }, x - h)) /
            (2 * h);
        const double got =
            of_one([=](auto v) { return activation_derivative<decltype(kind)::value>(v); }, x);
        INFO(int(a) << " at " << x);
        REQUIRE(std::abs(got - slope) < 1e-8);
      });
    }
  }
}

TEST_CASE("NaN goes through every activation, and infinities give their limits",
          "[kernel][activation]") {
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const Activation a : all) {
    with_activation(a, [&](auto kind) {
      const auto f = [=](auto v) { return activate<decltype(kind)::value>(v); };
      const auto slope = [=](auto v) { return activation_derivative<decltype(kind)::value>(v); };
      INFO(int(a));
      REQUIRE(std::isnan(of_one(f, std::numeric_limits<double>::quiet_NaN())));
      REQUIRE_FALSE(std::isnan(of_one(f, inf)));
      REQUIRE_FALSE(std::isnan(of_one(f, -inf)));
      REQUIRE_FALSE(std::isnan(of_one(slope, inf)));
      REQUIRE_FALSE(std::isnan(of_one(slope, -inf)));
    });
  }
}
