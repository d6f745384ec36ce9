#include <limen/kernel/math.hpp>

#include <limen/core/random.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../catch.hpp"

using namespace limen;

namespace {

/// A result may be off by so many units in the last place of the truth, or by `absolute`.
struct Allowed {
  double ulp = 0, absolute = 0;
};

template <class Real>
double unit_in_last_place(double truth) {
  using L = std::numeric_limits<Real>;
  if (std::abs(truth) < static_cast<double>(L::min())) return static_cast<double>(L::denorm_min());
  return std::ldexp(1.0, std::ilogb(truth) - L::digits + 1);
}

template <class Real, class Wide>
bool right(Real got, Wide truth, const Allowed& allowed) {
  if (std::isnan(truth) || std::isnan(got)) return std::isnan(truth) && std::isnan(got);
  const auto rounded = static_cast<Real>(truth);
  if (got == rounded) return true;
  constexpr Wide most = static_cast<Wide>(std::numeric_limits<Real>::max());
  if (std::isinf(got)) return (got > 0) == (truth > 0) && std::abs(truth) > most * Wide(0.9999995);
  if (std::isinf(rounded))
    return std::abs(got) > std::numeric_limits<Real>::max() * Real(0.9999995);
  const double off = static_cast<double>(std::abs(static_cast<Wide>(got) - truth));
  return off <= allowed.absolute ||
         off <= allowed.ulp * unit_in_last_place<Real>(static_cast<double>(truth));
}

/// f of what `next` draws against the truth. All vectors are compared, the first miss is shown.
template <class Real, class Wide, class F, class Truth, class Next>
void compare(const char* name, F f, Truth truth, const Allowed& allowed, std::uint64_t blocks,
             Next next) {
  using V = simd::Vec<Real>;
  constexpr Index n = 256;
  alignas(64) Real x[n], y[n];
  std::uint64_t wrong = 0;
  Real first = 0, got = 0;
  for (std::uint64_t b = 0; b < blocks; ++b) {
    for (Real& value : x) value = next();
    for (Index i = 0; i < n; i += simd::lanes<Real>) simd::store(y + i, f(simd::load<V>(x + i)));
    for (Index i = 0; i < n; ++i) {
      if (right<Real, Wide>(y[i], truth(static_cast<Wide>(x[i])), allowed)) continue;
      if (wrong++ == 0) first = x[i], got = y[i];
    }
  }
  INFO(name << " of " << first << " is " << got << ", expected "
            << static_cast<double>(truth(static_cast<Wide>(first))));
  CHECK(wrong == 0);
}

// The truth, made of the C library's functions in a wider type.

template <class W>
W sigmoid(W x) {
  return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
}
template <class W>
W softplus(W x) {
  return (x < 0 ? W(0) : x) + std::log1p(std::exp(-std::abs(x)));
}
template <class W>
W normal(W x) {
  return std::erfc(-x * W(0.70710678118654752440084436210485L)) / 2;
}
template <class W>
W product(W x, W p) {
  return p == 0 ? W(0) : x * p;  // -inf times 0
}
template <class W>
W inner(W x) {
  return W(1.5957691216057307117597842397375L) * (x + W(0.044715L) * x * x * x);
}
template <class W>
W step_beyond(W x, W far, W value) {
  return std::abs(x) > far ? W(x > 0) : value;
}

/// run(name, vector function, truth, allowed for float, allowed for double)
template <class Run>
void for_each_function(Run run) {
  constexpr double tiny = 1.7e-38, small = 3.2e-308;  // where results become 0 without scalef
#if defined(__aarch64__)
  constexpr double divided = 2;  // xsimd divides floats by an estimate there
#else
  constexpr double divided = 0;
#endif
  using namespace math;
  // clang-format off
#define LIMEN_OF(f) #f, [](const auto& v) { return f(v); }
  run(LIMEN_OF(math::exp), [](auto x) { return std::exp(x); }, Allowed{5.6, tiny}, Allowed{2, small});
  run(LIMEN_OF(math::exp2), [](auto x) { return std::exp2(x); }, Allowed{3, tiny}, Allowed{2, small});
  run(LIMEN_OF(math::log), [](auto x) { return std::log(x); }, Allowed{1}, Allowed{1});
  run(LIMEN_OF(math::log1p), [](auto x) { return std::log1p(x); }, Allowed{3 + divided}, Allowed{3});
  run(LIMEN_OF(math::sigmoid), [](auto x) { return ::sigmoid(x); }, Allowed{5, tiny}, Allowed{4, small});
  run(LIMEN_OF(math::silu), [](auto x) { return product(x, ::sigmoid(x)); }, Allowed{6, 6e-37}, Allowed{5, 8e-306});
  run(LIMEN_OF(math::softplus), [](auto x) { return ::softplus(x); }, Allowed{4, tiny}, Allowed{4, small});
  run(LIMEN_OF(math::log_sigmoid), [](auto x) { return -::softplus(-x); }, Allowed{4, tiny}, Allowed{4, small});
  run(LIMEN_OF(math::tanh), [](auto x) { return std::tanh(x); }, Allowed{4}, Allowed{4});
  run(LIMEN_OF(math::erf), [](auto x) { return std::erf(x); }, Allowed{3}, Allowed{3});
  run(LIMEN_OF(math::gelu), [](auto x) { return product(x, normal(x)); }, Allowed{8, 3e-37}, Allowed{8, 1e-306});
  run(LIMEN_OF(math::gelu_tanh), [](auto x) { return product(x, ::sigmoid(inner(x))); }, Allowed{5, 4e-7}, Allowed{5, 8e-16});
  run(LIMEN_OF(math::sin), [](auto x) { return std::sin(x); }, Allowed{2}, Allowed{2});
  run(LIMEN_OF(math::cos), [](auto x) { return std::cos(x); }, Allowed{2}, Allowed{2});
  run(LIMEN_OF(math::rsqrt), [](auto x) { return 1 / std::sqrt(x); }, Allowed{1.6 + divided}, Allowed{1.6});
  run(LIMEN_OF(math::gate2), [](auto x) { return 1 / (1 + std::exp2(x)); }, Allowed{5, tiny}, Allowed{5, small});
  run(LIMEN_OF(math::sigmoid_derivative), [](auto x) { return ::sigmoid(x) * ::sigmoid(-x); }, Allowed{7, tiny}, Allowed{7, small});
  run(LIMEN_OF(math::tanh_derivative), [](auto x) { return 4 * ::sigmoid(2 * x) * ::sigmoid(-2 * x); }, Allowed{7, 4 * tiny}, Allowed{7, 4 * small});
  run(LIMEN_OF(math::silu_derivative), [](auto x) { return step_beyond(x, decltype(x)(2000), ::sigmoid(x) * (1 + x * ::sigmoid(-x))); }, Allowed{0, 3e-7}, Allowed{0, 6e-16});
  run(LIMEN_OF(math::gelu_derivative), [](auto x) { return step_beyond(x, decltype(x)(100), normal(x) + x * std::exp(-x * x / 2) * decltype(x)(0.39894228040143267793994605993438L)); }, Allowed{0, 4e-7}, Allowed{0, 8e-16});
  run(LIMEN_OF(math::gelu_tanh_derivative), [](auto x) {
        using W = decltype(x);
        const W s = ::sigmoid(inner(x)), t = ::sigmoid(-inner(x));
        return step_beyond(x, W(100), s + x * s * t * W(1.5957691216057307117597842397375L) * (1 + W(0.134145L) * x * x));
      }, Allowed{0, 4e-7}, Allowed{0, 1e-15});
#undef LIMEN_OF
  // clang-format on
}

/// Every `stride`-th float there is, NaN, infinities and subnormal numbers among them.
void check_floats(std::uint64_t stride) {
  for_each_function([&](const char* name, auto f, auto truth, Allowed allowed, Allowed) {
    std::uint64_t bits = 0;
    compare<float, double>(name, f, truth, allowed, (std::uint64_t(1) << 24) / stride + 1, [&] {
      const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
      bits += stride;
      return x;
    });
  });
}

/// Numbers of every size up to 2^10, and doubles of any bits.
void check_doubles(std::uint64_t blocks) {
  for_each_function([&](const char* name, auto f, auto truth, Allowed, Allowed allowed) {
    Random random(5);
    compare<double, long double>(name, f, truth, allowed, blocks, [&] {
      return random.normal() * std::ldexp(1.0, static_cast<int>(random.uniform() * 16) - 8);
    });
    std::uint64_t bits = 0;
    compare<double, long double>(name, f, truth, allowed, blocks / 4 + 1, [&] {
      bits += 0x9e3779b97f4a7c15u;
      return std::bit_cast<double>(bits);
    });
  });
}

template <class Real, class F>
Real at(F f, Real x) {
  alignas(64) Real y[simd::Vec<Real>::size];
  simd::store(y, f(simd::Vec<Real>(x)));
  return y[0];
}

}  // namespace

TEST_CASE("Elementary functions keep their errors, float", "[kernel][math]") {
  check_floats(65521);
}

TEST_CASE("Elementary functions keep their errors, double", "[kernel][math]") {
  check_doubles(200);
}

TEST_CASE("Elementary functions keep their errors for every float there is",
          "[.slow][kernel][math]") {
  check_floats(1);
}

TEST_CASE("Elementary functions keep their errors for many doubles", "[.slow][kernel][math]") {
  check_doubles(100000);
}

TEMPLATE_TEST_CASE("Elementary functions are exact where they can be", "[kernel][math]", float,
                   double) {
  using Real = TestType;
  constexpr Real inf = std::numeric_limits<Real>::infinity();
#define LIMEN_AT(f, x) at<Real>([](const auto& v) { return f(v); }, Real(x))
  CHECK(LIMEN_AT(math::exp, 0) == 1);
  CHECK(LIMEN_AT(math::exp, -inf) == 0);
  CHECK(LIMEN_AT(math::exp, inf) == inf);
  CHECK(LIMEN_AT(math::exp2, 10) == 1024);
  CHECK(LIMEN_AT(math::exp2, -3) == Real(0.125));
  CHECK(LIMEN_AT(math::log, 1) == 0);
  CHECK(LIMEN_AT(math::log, 0) == -inf);
  CHECK(std::isnan(LIMEN_AT(math::log, -1)));
  CHECK(LIMEN_AT(math::sigmoid, 0) == Real(0.5));
  CHECK(LIMEN_AT(math::sigmoid, inf) == 1);
  CHECK(LIMEN_AT(math::sigmoid, -inf) == 0);
  CHECK(LIMEN_AT(math::gate2, 0) == Real(0.5));
  CHECK(LIMEN_AT(math::silu, -inf) == 0);
  CHECK(LIMEN_AT(math::silu, inf) == inf);
  CHECK(LIMEN_AT(math::tanh, 0) == 0);
  CHECK(LIMEN_AT(math::tanh, inf) == 1);
  CHECK(LIMEN_AT(math::tanh, -inf) == -1);
  CHECK(LIMEN_AT(math::softplus, -inf) == 0);
  CHECK(LIMEN_AT(math::softplus, inf) == inf);
  CHECK(LIMEN_AT(math::erf, 0) == 0);
  CHECK(LIMEN_AT(math::erf, -inf) == -1);
  CHECK(LIMEN_AT(math::gelu, -inf) == 0);
  CHECK(LIMEN_AT(math::gelu_tanh, -inf) == 0);
  CHECK(LIMEN_AT(math::sin, 0) == 0);
  CHECK(LIMEN_AT(math::cos, 0) == 1);
  CHECK(std::isnan(LIMEN_AT(math::sin, inf)));
#undef LIMEN_AT
}

TEST_CASE("A lane beyond the reduction of sin leaves its neighbours alone", "[kernel][math]") {
  using V = simd::Vec<float>;
  alignas(64) float x[V::size], y[V::size];
  for (std::size_t i = 0; i < V::size; ++i) x[i] = 0.5f * static_cast<float>(i + 1);
  x[0] = 3e30f;
  simd::store(y, math::sin(simd::load<V>(x)));
  for (std::size_t i = 0; i < V::size; ++i) {
    REQUIRE(std::abs(y[i] - std::sin(static_cast<double>(x[i]))) < 2e-7);
  }
}
