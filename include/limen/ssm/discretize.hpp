#pragma once
/// @file  A linear system in continuous time, h' = A h + B u, sampled with step Δ.
///
///   h_t = a h_{t-1} + k B u_t                       A, a, k complex numbers, one for each state
///
///   zero-order hold   a = e^(ΔA)                    k = (a - 1) / A
///   bilinear          s = 1 / (1 - ΔA/2)            a = s (1 + ΔA/2),  k = s Δ
///
/// In double, with the derivatives: these few numbers are made once per call, and (a - 1) / A loses
/// all its digits in float where ΔA is small.

#include <cmath>
#include <complex>

#include <limen/core/config.hpp>

namespace limen::inline LIMEN_ABI {

enum class Discretization : int { zero_order_hold, bilinear };

struct Discretized {
  std::complex<double> a, k;
  std::complex<double> a_by_A, a_by_dt, k_by_A, k_by_dt;  ///< derivatives
};

namespace detail {

/// (e^z - 1) / z, and its derivative, by series near 0.
inline void expm1_over(std::complex<double> z, std::complex<double>& value,
                       std::complex<double>& slope) {
  if (std::abs(z) < 0.5) {
    value = slope = 0;
    double factorial = 1;            // (n + 1)!
    std::complex<double> power = 1;  // z^n
    for (int n = 0; n < 16; ++n, power *= z) {
      factorial *= n + 1;
      value += power / factorial;
      slope += power * (n + 1.0) / (factorial * (n + 2));
    }
    return;
  }
  const std::complex<double> a = std::exp(z);
  value = (a - 1.0) / z;
  slope = (a - value) / z;
}

}  // namespace detail

inline Discretized discretize(Discretization rule, std::complex<double> A, double dt) {
  Discretized d;
  const std::complex<double> z = dt * A;
  if (rule == Discretization::bilinear) {
    const std::complex<double> s = 1.0 / (1.0 - z / 2.0);
    d.a = s * (1.0 + z / 2.0);
    d.k = s * dt;
    d.a_by_A = dt * s * s;
    d.a_by_dt = A * s * s;
    d.k_by_A = dt * dt * s * s / 2.0;
    d.k_by_dt = s * s;
  } else {
    std::complex<double> value, slope;
    detail::expm1_over(z, value, slope);
    d.a = std::exp(z);
    d.k = dt * value;
    d.a_by_A = dt * d.a;
    d.a_by_dt = A * d.a;
    d.k_by_A = dt * dt * slope;
    d.k_by_dt = d.a;
  }
  return d;
}

}  // namespace limen::inline LIMEN_ABI
