#pragma once
/// @file  Random numbers that are the same on every platform.
///
/// Philox4x32-10: a block cipher turns (key, counter) into 128 random bits. No state but the
/// counter, so streams can be split, skipped and drawn in parallel. Salmon, Moraes, Dror & Shaw,
/// "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
///
/// `normal` uses only operations that IEEE 754 rounds exactly (std::fma among them), so that
/// neither the C library nor the compiler's contraction of a * b + c changes a bit.

#include <array>
#include <cmath>
#include <cstdint>
#include <span>

#include <limen/core/config.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// The 128 bits that belong to (key, counter).
inline std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter,
                                           std::uint64_t stream = 0) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  std::array<std::uint32_t, 4> x{
      static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
      static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * x[0], b = std::uint64_t{0xCD9E8D57} * x[2];
    x = {static_cast<std::uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return x;
}

class Random {
 public:
  using result_type = std::uint64_t;
  static constexpr std::uint64_t min() { return 0; }
  static constexpr std::uint64_t max() { return ~std::uint64_t{0}; }

  explicit Random(std::uint64_t seed = 0, std::uint64_t stream = 0) : key_(seed), stream_(stream) {}

  std::uint64_t operator()() {
    const auto x = philox(key_, counter_ / 2, stream_);
    const std::size_t half = 2 * (counter_++ % 2);
    return x[half] | std::uint64_t{x[half + 1]} << 32;
  }

  /// In [0, 1).
  double uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
  double uniform(double from, double to) { return std::fma(to - from, uniform(), from); }

  /// In [0, n), each equally likely.
  std::uint64_t below(std::uint64_t n) {
    const std::uint64_t fair = max() - max() % n;  // beyond it the small ones would come more often
    std::uint64_t x = (*this)();
    while (x >= fair) x = (*this)();
    return x % n;
  }

  /// Mean 0, variance 1: the inverse of the normal distribution at a uniform point.
  double normal() { return inverse_normal(std::fma(uniform(), 1 - 0x1p-53, 0x1p-54)); }

  /// A generator of its own for something numbered `id` (a step, a shard, a layer).
  Random split(std::uint64_t id) const {
    const auto x = philox(key_ ^ 0x5851F42D4C957F2D, id, stream_);
    return Random(x[0] | std::uint64_t{x[1]} << 32, x[2] | std::uint64_t{x[3]} << 32);
  }
  /// The next generator of its own: a different one at every call.
  Random split() { return split((*this)()); }

  /// A random order of what is there.
  template <class T>
  void shuffle(std::span<T> values) {
    for (std::size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[static_cast<std::size_t>(below(i))]);
    }
  }

  std::uint64_t key() const { return key_; }
  std::uint64_t stream() const { return stream_; }
  std::uint64_t counter() const { return counter_; }
  void skip_to(std::uint64_t counter) { counter_ = counter; }

 private:
  /// log x for x in (0, 1), from exactly rounded operations: x = m 2^e, log m = 2
  /// atanh((m-1)/(m+1)).
  static double exact_log(double x) {
    int e = 0;
    double m = std::frexp(x, &e);
    if (m < 0.70710678118654752) {
      m *= 2;
      --e;
    }
    const double z = (m - 1) / (m + 1), z2 = z * z;
    double sum = 0;
    for (int k = 23; k >= 1; k -= 2) sum = std::fma(sum, z2, 1.0 / k);
    return std::fma(static_cast<double>(e), 0.69314718055994531, 2 * (z * sum));
  }

  /// Wichura, "Algorithm AS 241", Applied Statistics 37 (1988): relative error about 1e-16.
  static double inverse_normal(double p) {
    const auto ratio = [](const double(&a)[8], const double(&b)[8], double r) {
      double up = a[7], down = b[7];
      for (int i = 6; i >= 0; --i) {
        up = std::fma(up, r, a[i]);
        down = std::fma(down, r, b[i]);
      }
      return up / down;
    };
    constexpr double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2,
                             1.9715909503065514427e3, 1.3731693765509461125e4,
                             4.5921953931549871457e4, 6.7265770927008700853e4,
                             3.3430575583588128105e4, 2.5090809287301226727e3};
    constexpr double b[8] = {1.0,
                             4.2313330701600911252e1,
                             6.8718700749205790830e2,
                             5.3941960214247511077e3,
                             2.1213794301586595867e4,
                             3.9307895800092710610e4,
                             2.8729085735721942674e4,
                             5.2264952788528545610e3};
    constexpr double c[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                             5.76949722146069140550e0,  3.64784832476320460504e0,
                             1.27045825245236838258e0,  2.41780725177450611770e-1,
                             2.27238449892691845833e-2, 7.74545014278341407640e-4};
    constexpr double d[8] = {1.0,
                             2.05319162663775882187e0,
                             1.67638483018380384940e0,
                             6.89767334985100004550e-1,
                             1.48103976427480074590e-1,
                             1.51986665636164571966e-2,
                             5.47593808499534494600e-4,
                             1.05075007164441684324e-9};
    constexpr double e[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                             1.78482653991729133580e0,  2.96560571828504891230e-1,
                             2.65321895265761230930e-2, 1.24266094738807843860e-3,
                             2.71155556874348757815e-5, 2.01033439929228813265e-7};
    constexpr double f[8] = {1.0,
                             5.99832206555887937690e-1,
                             1.36929880922735805310e-1,
                             1.48753612908506148525e-2,
                             7.86869131145613259100e-4,
                             1.84631831751005468180e-5,
                             1.42151175831644588870e-7,
                             2.04426310338993978564e-15};
    const double q = p - 0.5;
    if (std::abs(q) <= 0.425) return q * ratio(a, b, std::fma(-q, q, 0.180625));
    const double r = std::sqrt(-exact_log(q < 0 ? p : 1 - p));
    const double tail = r <= 5 ? ratio(c, d, r - 1.6) : ratio(e, f, r - 5);
    return q < 0 ? -tail : tail;
  }

  std::uint64_t key_;
  std::uint64_t stream_;
  std::uint64_t counter_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
