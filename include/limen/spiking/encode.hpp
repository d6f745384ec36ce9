#pragma once
/// @file  Numbers as times of spikes, as bits, as populations, as currents.
///
///   latency       one spike, the earlier the larger x
///     charge      t = τ log(x / (x - θ)), x > θ: when a leaky membrane with input x reaches θ
///     linear      t = (T - 1)(1 - x)                        (snnTorch `latency(linear=True)`)
///     logarithm   t = T - 1 - log((e^(T-1) - 1) x + 1)      (SpikingJelly `LatencyEncoder`)
///   phase         bit i of x at step i, of weight 2^-(1+i), again after K steps
///   population    exp(-(x - c_p)² / 2σ²) for P centers c: probabilities, or currents
///   repeated      x at every step: direct coding, the first layer is analog
///
///   x [B x D], T steps  ->  [B T x D], sequence b from row b T on
///
/// Times are rounded to whole steps, half to even; what comes behind the last step, or is not
/// above the threshold, does not fire. Numbers outside of what a code can say are refused, and
/// nothing is given. Rates and changes are layers: bernoulli_encoder.hpp, delta_encoder.hpp.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <limen/core/denormals.hpp>
#include <limen/core/error.hpp>
#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI {

enum class Latency { charge, linear, logarithm };

struct LatencyOptions {
  Latency code = Latency::linear;
  double tau = 1;           ///< τ in steps, of `charge`
  double threshold = 0.01;  ///< θ: of `charge`; for the others, x below it does not fire
};

/// Offsets of `count` sequences of `steps` rows: {0, steps, 2 steps, ...}.
inline std::vector<Index> even_offsets(Index count, Index steps) {
  std::vector<Index> offsets;
  for (Index b = 0; b <= count; ++b) offsets.push_back(b * steps);
  return offsets;
}

namespace detail {

/// Says no to fewer than one step, and names the first number that is not from `low` to `high`.
template <class Real, Index D>
bool can_be_coded(const char* who, SequenceView<Real, D> x, Index steps, double low, double high) {
  if (steps < 1) {
    fail({std::string(who) + ": steps", "1 or more", std::to_string(steps)});
    return false;
  }
  for (Index b = 0; b < x.rows(); ++b) {
    for (Index c = 0; c < D; ++c) {
      const double v = static_cast<double>(x(b, c));
      if (v >= low && v <= high) continue;
      fail({std::string(who) + ": number " + std::to_string(c) + " of row " + std::to_string(b),
            std::to_string(low) + " to " + std::to_string(high), std::to_string(v)});
      return false;
    }
  }
  return true;
}

/// To the nearest whole number, half to even, whatever the rounding mode.
inline double round_half_even(double t) {
  const double down = std::floor(t), rest = t - down;
  if (rest != 0.5) return rest < 0.5 ? down : down + 1;
  return std::fmod(down, 2) == 0 ? down : down + 1;
}

/// Where x fires; `steps` and more: not at all.
inline double latency_of(double x, Index steps, const LatencyOptions& o) {
  const double last = static_cast<double>(steps - 1), never = static_cast<double>(steps);
  switch (o.code) {
    case Latency::charge:
      return x > o.threshold ? o.tau * std::log(x / (x - o.threshold)) : never;
    case Latency::linear:
      return x < o.threshold ? never : last * (1 - x);
    case Latency::logarithm:  // e^(T-1) x + 1 - x, without overflow where T is large
      if (x < o.threshold) return never;
      if (x == 0) return last;
      return -std::log(x + (1 - x) * std::exp(-last));
  }
  return never;
}

}  // namespace detail

/// Before rounding [B x D]; `steps` where there is no spike.
template <class Real, Index D>
Sequence<Real, D> latencies(SequenceView<Real, D> x, Index steps, const LatencyOptions& o = {}) {
  if (!(o.threshold > 0 || (o.threshold == 0 && o.code != Latency::charge)) ||
      o.threshold - o.threshold != 0) {
    fail({"LatencyOptions.threshold", "a positive number", std::to_string(o.threshold)});
    return {};
  }
  if (!(o.tau > 0) || o.tau - o.tau != 0) {
    fail({"LatencyOptions.tau", "a positive number", std::to_string(o.tau)});
    return {};
  }
  if (!detail::can_be_coded("latency", x, steps, 0, 1)) return {};
  Sequence<Real, D> times(x.rows());
  for (Index b = 0; b < x.rows(); ++b) {
    for (Index c = 0; c < D; ++c) {
      const double t = detail::latency_of(static_cast<double>(x(b, c)), steps, o);
      const double never = static_cast<double>(steps);
      times(b, c) = static_cast<Real>(t < never ? t : never);
    }
  }
  return times;
}

/// x [B x D] in [0, 1] -> one spike each [B T x D]
template <class Real, Index D>
Sequence<Real, D> latency_code(SequenceView<Real, D> x, Index steps, const LatencyOptions& o = {}) {
  const auto times = latencies(x, steps, o);
  if (times.rows() != x.rows()) return {};
  auto s = Sequence<Real, D>::zeros(x.rows() * steps);
  for (Index b = 0; b < x.rows(); ++b) {
    for (Index c = 0; c < D; ++c) {
      const auto t = static_cast<Index>(detail::round_half_even(static_cast<double>(times(b, c))));
      if (t < steps) s(b * steps + t, c) = Real(1);
    }
  }
  return s;
}

/// x [B x D] in [0, 1 - 2^-K] -> [B T x D]: at step t bit t mod K, the highest first.
template <class Real, Index D>
Sequence<Real, D> phase_code(SequenceView<Real, D> x, Index steps, int bits = 8) {
  if (bits < 1 || bits > 24) {
    fail({"phase_code: bits", "1 to 24", std::to_string(bits)});
    return {};
  }
  const double range = std::ldexp(1.0, bits);
  if (!detail::can_be_coded("phase_code", x, steps, 0, 1 - 1 / range)) return {};
  Sequence<Real, D> s(x.rows() * steps);
  for (Index b = 0; b < x.rows(); ++b) {
    for (Index c = 0; c < D; ++c) {
      const auto word = static_cast<std::uint32_t>(static_cast<double>(x(b, c)) * range);
      for (Index t = 0; t < steps; ++t) {
        s(b * steps + t, c) =
            static_cast<Real>(word >> (bits - 1 - static_cast<int>(t % bits)) & 1);
      }
    }
  }
  return s;
}

struct PopulationOptions {
  double low = 0, high = 1;  ///< the first and the last center; the others evenly between
  double sigma = 0;          ///< of each; 0: the distance of two centers
};

/// x [B x D] -> [B x D P], how near each of P centers is: 1 at it, e^-1/2 one σ beside it. Into a
/// BernoulliEncoder these are probabilities, into an IntegrateFire with a threshold below 1
/// currents.
template <Index P, class Real, Index D>
Sequence<Real, D * P> population_code(SequenceView<Real, D> x, const PopulationOptions& o = {}) {
  static_assert(P > 1, "population_code: P must be at least 2");
  const double apart = (o.high - o.low) / (P - 1), sigma = o.sigma == 0 ? apart : o.sigma;
  if (!(apart > 0) || apart - apart != 0) {
    fail({"PopulationOptions.high", "more than .low", std::to_string(o.high)});
    return {};
  }
  if (!(sigma > 0) || sigma - sigma != 0) {
    fail({"PopulationOptions.sigma", "a positive number, or 0", std::to_string(o.sigma)});
    return {};
  }
  constexpr double most = 1e300;
  if (!detail::can_be_coded("population_code", x, 1, -most, most)) return {};
  Sequence<Real, D * P> near(x.rows());
  for (Index b = 0; b < x.rows(); ++b) {
    for (Index c = 0; c < D; ++c) {
      for (Index p = 0; p < P; ++p) {
        const double z =
            (static_cast<double>(x(b, c)) - o.low - static_cast<double>(p) * apart) / sigma;
        near(b, c * P + p) = static_cast<Real>(std::exp(-z * z / 2));
      }
    }
  }
  return near;
}

/// x [B x D] -> [B T x D], each row T times.
template <class Real, Index D>
Sequence<Real, D> repeated(SequenceView<Real, D> x, Index steps) {
  if (steps < 1) {
    fail({"repeated: steps", "1 or more", std::to_string(steps)});
    return {};
  }
  Sequence<Real, D> y(x.rows() * steps);
  for (Index t = 0; t < y.rows(); ++t) {
    std::memcpy(y.row_data(t), x.row(t / steps).data(), sizeof(Real) * std::size_t{D});
  }
  return y;
}

/// The way back: dx_b = Σ_t dy_{bT+t}
template <class Real, Index D>
Sequence<Real, D> repeated_backward(SequenceView<Real, D> dy, Index steps) {
  if (steps < 1 || dy.rows() % steps != 0) {
    fail({"repeated_backward: rows of dy", "a multiple of the steps", std::to_string(dy.rows())});
    return {};
  }
  const FlushDenormals guard;
  auto dx = Sequence<Real, D>::zeros(dy.rows() / steps);
  for (Index t = 0; t < dy.rows(); ++t) {
    for (Index c = 0; c < D; ++c) dx(t / steps, c) += dy(t, c);
  }
  return dx;
}

// An owned matrix is looked at.
template <class Real, Index D>
Sequence<Real, D> latencies(const Sequence<Real, D>& x, Index steps, const LatencyOptions& o = {}) {
  return latencies(SequenceView<Real, D>(x), steps, o);
}
template <class Real, Index D>
Sequence<Real, D> latency_code(const Sequence<Real, D>& x, Index steps,
                               const LatencyOptions& o = {}) {
  return latency_code(SequenceView<Real, D>(x), steps, o);
}
template <class Real, Index D>
Sequence<Real, D> phase_code(const Sequence<Real, D>& x, Index steps, int bits = 8) {
  return phase_code(SequenceView<Real, D>(x), steps, bits);
}
template <Index P, class Real, Index D>
Sequence<Real, D * P> population_code(const Sequence<Real, D>& x, const PopulationOptions& o = {}) {
  return population_code<P>(SequenceView<Real, D>(x), o);
}
template <class Real, Index D>
Sequence<Real, D> repeated(const Sequence<Real, D>& x, Index steps) {
  return repeated(SequenceView<Real, D>(x), steps);
}
template <class Real, Index D>
Sequence<Real, D> repeated_backward(const Sequence<Real, D>& dy, Index steps) {
  return repeated_backward(SequenceView<Real, D>(dy), steps);
}

}  // namespace limen::inline LIMEN_ABI
