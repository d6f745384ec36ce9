#pragma once
/// @file  Starting values for weights [O x I, ...]. An output sees F_in numbers (I times the
/// further dimensions), an input is seen by F_out.
///
///   fill_kaiming_uniform, _normal   variance g² / F_in              He et al., arXiv:1502.01852
///   fill_xavier_uniform, _normal    variance g² 2 / (F_in + F_out)  Glorot & Bengio, AISTATS 2010
///   fill_truncated_normal           normal with deviation σ, redrawn beyond 2 σ
///
/// With decompositions: orthogonal.hpp.

#include <cmath>
#include <numbers>

#include <limen/core/config.hpp>
#include <limen/core/initialize.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// How many inputs an output has, and how many outputs an input.
template <class T>
constexpr double fan_in = static_cast<double>(T::size / T::shape[0]);
template <class T>
constexpr double fan_out = static_cast<double>(T::size / T::shape[1]);

}  // namespace detail

inline constexpr double relu_gain = std::numbers::sqrt2;

template <class Real, Index O, Index... I>
void fill_kaiming_uniform(Tensor<Real, O, I...>& w, Random& random, double gain = relu_gain) {
  fill_uniform(w, gain * std::sqrt(3 / detail::fan_in<Tensor<Real, O, I...>>), random);
}

template <class Real, Index O, Index... I>
void fill_kaiming_normal(Tensor<Real, O, I...>& w, Random& random, double gain = relu_gain) {
  fill_normal(w, gain / std::sqrt(detail::fan_in<Tensor<Real, O, I...>>), random);
}

template <class Real, Index O, Index I, Index... More>
void fill_xavier_uniform(Tensor<Real, O, I, More...>& w, Random& random, double gain = 1) {
  using W = Tensor<Real, O, I, More...>;
  fill_uniform(w, gain * std::sqrt(6 / (detail::fan_in<W> + detail::fan_out<W>)), random);
}

template <class Real, Index O, Index I, Index... More>
void fill_xavier_normal(Tensor<Real, O, I, More...>& w, Random& random, double gain = 1) {
  using W = Tensor<Real, O, I, More...>;
  fill_normal(w, gain * std::sqrt(2 / (detail::fan_in<W> + detail::fan_out<W>)), random);
}

/// `deviation` is the one before the cut; after it, 0.88 times as much.
template <class Real, Index... Dims>
void fill_truncated_normal(Tensor<Real, Dims...>& tensor, double deviation, Random& random) {
  for (Real& value : tensor.flat()) {
    double z = random.normal();
    while (std::abs(z) > 2) z = random.normal();
    value = static_cast<Real>(deviation * z);
  }
}

}  // namespace limen::inline LIMEN_ABI
