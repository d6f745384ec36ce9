#pragma once
/// @file  The starting values that layers give themselves. More rules in train/initialize.hpp.

#include <cmath>

#include <limen/core/config.hpp>
#include <limen/core/random.hpp>
#include <limen/core/tensor.hpp>

namespace limen::inline LIMEN_ABI {

/// Uniform in [-limit, limit).
template <class Real, Index... Dims>
void fill_uniform(Tensor<Real, Dims...>& tensor, double limit, Random& random) {
  for (Real& value : tensor.flat()) value = static_cast<Real>(random.uniform(-limit, limit));
}

/// Normal with mean 0.
template <class Real, Index... Dims>
void fill_normal(Tensor<Real, Dims...>& tensor, double deviation, Random& random) {
  for (Real& value : tensor.flat()) value = static_cast<Real>(deviation * random.normal());
}

template <class Real, Index... Dims>
void fill(Tensor<Real, Dims...>& tensor, double x) {
  for (Real& value : tensor.flat()) value = static_cast<Real>(x);
}

/// The usual start for a weight [O x I]: uniform with limit 1 / sqrt(I).
template <class Real, Index O, Index... I>
void fill_fan_in(Tensor<Real, O, I...>& weight, Random& random) {
  fill_uniform(weight, 1 / std::sqrt(static_cast<double>((Index{1} * ... * I))), random);
}

}  // namespace limen::inline LIMEN_ABI
