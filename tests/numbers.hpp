#pragma once
/// @file  Numbers for tests of kernels.

#include <limen/core/random.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace numbers {

inline std::size_t at(limen::Index i) { return static_cast<std::size_t>(i); }

/// n normal numbers.
template <class Real>
std::vector<Real> noise(limen::Index n, std::uint64_t seed) {
  limen::Random random(seed);
  std::vector<Real> x(at(n));
  for (Real& v : x) v = static_cast<Real>(random.normal());
  return x;
}

}  // namespace numbers
